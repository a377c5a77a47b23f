"""From a source to training and test items: crop, resize, scale.

One picture is one item, or five with `crops="five"`: the four corners and the centre, cut out of the full picture and
each resized as a picture of its own (the released code writes those crops to disk; here they are made when asked for).
"""

from __future__ import annotations

import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from cause_lib.data.images import five_crop, resize_and_crop
from cause_lib.data.published import PUBLISHED_CROPS
from cause_lib.data.source import Source

CROPS = {  # name -> (names of the views, the function that cuts them)
    "none": (("",), lambda picture, ratio: (picture,)),
    "five": ((" (top left)", " (top right)", " (bottom left)", " (bottom right)", " (centre)"), five_crop),
    **PUBLISHED_CROPS,
}


class SegmentationDataset(Dataset):
    """Items {"image": float32 (3, h, w) in [0, 1], "label": int64 (h, w), -1 void, "index": int}, h = w = image_size.

    Attributes: name, split, classes (list of str), colors (uint8 (c, 3)), num_classes, has_labels, names (one an
    item), fingerprint (changes when the files or the generator behind the items change), skipped (the name of each
    picture that was left out, and why).
    """

    fit = staticmethod(resize_and_crop)  # a view of any shape to the square

    def __init__(self, name: str, split: str, source: Source, *, image_size: int, crops: str, crop_ratio: float,
                 resize: str = "nearest"):
        self.name, self.split, self.source = name, split, source
        self.image_size, self.crops, self.crop_ratio, self.resize = image_size, crops, crop_ratio, resize
        self.classes, self.colors, self.num_classes = source.classes, source.colors, len(source.classes)
        self.has_labels, self.fingerprint, self.skipped = source.has_labels, source.fingerprint, source.skipped
        self.names = [name + view for name in source.names for view in CROPS[crops][0]]
        self._last = (-1, None)  # the views of one picture are usually asked for one after the other

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        views, cut = CROPS[self.crops]
        picture, view = divmod(index, len(views))
        image, label = (cut(t, self.crop_ratio)[view] for t in self._read(picture))
        image, label = self.fit(image, self.image_size, self.resize), self.fit(label, self.image_size)
        return {"image": F.to_dtype(image, torch.float32, scale=True), "label": label.long(), "index": index}

    def _read(self, picture: int):
        last = self._last
        if last[0] != picture:
            self._last = last = (picture, self.source.read(picture))
        return last[1]
