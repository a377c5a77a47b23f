"""From a source to training and test items: crop, resize, scale.

Crops are those of the released code, cut when an item is asked for, each resized as a picture of its own:

    none     the whole picture
    five     the four corners and the centre, at `crop_ratio` of each side
    double   ten crops (the five, and the five of the mirror image) at 0.5 and 0.8 of each side: 20 views a picture
    super    ten crops at 0.3, 0.4, 0.5, 0.6 and 0.7: 50 views a picture

github.com/ByungKwanLee/Causal-Unsupervised-Segmentation, crop_dataset.py and dataloader.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cause_lib.data.images import resize_and_crop
from cause_lib.data.kept import Kept
from cause_lib.data.noted import is_looking, once
from cause_lib.data.source import Source

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")


def five_crop(picture: Tensor, ratio: float, whole=round) -> tuple[Tensor, ...]:
    """Four corners and the centre, `ratio` of every side in `whole` pixels, at least one: five views (..., h', w')."""
    from torchvision.transforms.v2 import functional  # takes as long to import as torch

    return functional.five_crop(picture, [max(1, whole(side * ratio)) for side in picture.shape[-2:]])


def ten_crops(*ratios: float):
    """The entry of `CROPS` with ten crops at each of `ratios`, sides cut short to whole pixels, as published."""

    def cut(picture: Tensor, _: float) -> list[Tensor]:
        pairs = [(ratio, turned) for ratio in ratios for turned in (picture, picture.flip(-1))]
        return [view for ratio, turned in pairs for view in five_crop(turned, ratio, int)]

    return [f" ({ratio}, {place}{turn})" for ratio in ratios for turn in ("", ", mirrored") for place in PLACES], cut


CROPS = {  # name -> (names of the views, the function that cuts them)
    "none": ([""], lambda picture, ratio: [picture]),
    "five": ([f" ({place})" for place in PLACES], five_crop),
    "double": ten_crops(0.5, 0.8),
    "super": ten_crops(0.3, 0.4, 0.5, 0.6, 0.7),
}


ROOM = 2**27  # bytes of decoded pictures that a run keeps of a set, the first that fit


class Decoded:
    """Pictures of a source as they were decoded, for the next view, size or evaluation of the run.

    None is dropped for another: a set that is gone through in order would find each dropped just before its turn.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.bytes = 0

    def read(self, source: Source, picture: int) -> tuple[Tensor, Tensor]:
        """`source.read(picture)`, from memory where it is there."""
        if (found := self.kept.get(picture)) is not None:
            return found[0], found[1].int()
        image, label = source.read(picture)
        small = label.short() if int(label.max()) < 2**15 else label
        size = image.nbytes + small.nbytes
        if self.bytes + size <= ROOM and get_worker_info() is None:  # each worker would have its own
            self.bytes += size
            self.kept[picture] = image, small
        return image, label


class SegmentationDataset(Dataset):
    """Items {"image": float32 (3, h, w) in [0, 1], "label": int64 (h, w), -1 void, "index": int}, h = w = image_size.

    Attributes: name, split, classes (list of str), colors (uint8 (c, 3)), num_classes, real_classes (so many of them,
    the first, are the data set's; the others are clusters left over), squash, has_labels, names (one an item),
    fingerprint (changes when the files or the generator behind the items change), skipped ((name of a picture
    that was left out, why), ...), warned (the sentences that were warned of when it was opened).
    """

    warned: Sequence[str] = ()

    def __init__(self, name: str, split: str, source: Source, *, image_size: int, crops: str, crop_ratio: float,
                 resize: str, squash: bool | None = None):
        self.name, self.split, self.source = name, split, source
        self.image_size, self.crops, self.crop_ratio, self.resize = image_size, crops, crop_ratio, resize
        self.classes, self.colors, self.num_classes = source.classes, source.colors, len(source.classes)
        self.real_classes = self.num_classes if source.real_classes is None else source.real_classes
        self.squash = source.squash if squash is None else squash
        self.has_labels, self.fingerprint, self.skipped = source.has_labels, source.fingerprint, source.skipped
        self.names = [name + view for name in source.names for view in CROPS[crops][0]]
        origin = getattr(source.read, "images", None) or getattr(source.read, "args", id(source.read))
        self._origin, self._kept = (source.fingerprint, origin), None
        self._decoded = once(("decoded", *self._origin), Decoded) if is_looking() else None
        self._last = (-1, None)  # the views of one picture are usually asked for one after the other

    def __len__(self) -> int:
        return len(self.names)

    def keep(self, folder: Path, room: float) -> None:
        """Until the run ends, keep items in a file in `folder`, the first that `room` bytes hold."""
        if is_looking():
            how = self.name, self.image_size, self.crops, self.crop_ratio, self.resize, self.squash
            self._kept = once(("items", folder, *self._origin, *how), lambda: Kept(folder, self.image_size, room))

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        if self._kept is None or (found := self._kept.get(index)) is None:
            found = self._made(index)
            if self._kept is not None:
                self._kept.put(index, *found)
        image, label = found
        return {"image": image.float() * (1 / 255), "label": label.long(), "index": index}  # as torchvision's to_dtype

    def _made(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture (3, h, w) uint8 and label (h, w) of an item, cut and resized."""
        views, cut = CROPS[self.crops]
        picture, view = divmod(index, len(views))
        last = self._last  # read once: several threads may ask
        if last[0] != picture:
            self._last = last = (picture, self._decoded.read(self.source, picture) if self._decoded
                                      else self.source.read(picture))
        image, label = (cut(t, self.crop_ratio)[view] for t in last[1])
        image = resize_and_crop(image, self.image_size, self.resize, squash=self.squash)
        how = "pillow" if self.resize == "pillow" else "nearest"
        return image, resize_and_crop(label, self.image_size, how, squash=self.squash)
