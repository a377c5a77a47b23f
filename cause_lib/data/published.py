"""What the data sets of the published tables share: where they lie, which files a split needs, and their crops.

Crops are those of the released code, cut when an item is asked for instead of being written to disk first (and so not
compressed a second time): `five` (views.py) and

    double   ten crops (the five, and the five of the mirror image) at 0.5 and 0.8 of each side: 20 views a picture
    super    ten crops at 0.3, 0.4, 0.5, 0.6 and 0.7: 50 views a picture

Released code of CAUSE (github.com/ByungKwanLee/Causal-Unsupervised-Segmentation), crop_dataset.py and dataloader.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cause_lib.data.source import PictureFiles, Source, fingerprint_files
from cause_lib.errors import InputError, NotFound

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")


class MissingFiles(NotFound):
    """A split needs files that are not there: the message in one sentence, all of them in `paths`."""

    def __init__(self, message: str, paths: Sequence[Path]):
        super().__init__(message)
        self.paths = list(paths)


def find_root(name: str, folder: str, layout: str) -> Path:
    """`folder` below $CAUSE_DATA, else in the user's cache. Raises FileNotFoundError that says where it looked."""
    tried = [pooch.os_cache("cause-book") / folder]
    if os.environ.get("CAUSE_DATA"):
        tried.insert(0, Path(os.environ["CAUSE_DATA"]).expanduser() / folder)
    for path in tried:
        if path.is_dir():
            return path.resolve()
    looked = " or ".join(f"'{path}'" for path in tried)
    raise NotFound(f"{name} is not on this machine, there is no folder {looked}: {layout}")


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """Raises ValueError for a split that the data set does not have."""
    if split not in known:
        raise InputError(f"{name} has no split '{split}': use one of {', '.join(known)}")


def read_list(what: str, path: Path, layout: str) -> list[str]:
    """The names in a list of pictures, one a line, without folder and ending; what follows on a line is ignored.

    Raises MissingFiles if there is no such list, ValueError if it is empty.
    """
    if not path.is_file():
        raise MissingFiles(f"{what} lacks its list of pictures '{path}': {layout}", [path])
    names = [Path(line.split()[0]).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError(f"the list of pictures '{path}' is empty: {layout}")
    return names


def open_pairs(
    what: str,
    root: Path,
    images: Sequence[Path],
    labels: Sequence[Path],
    *,
    layout: str,
    classes: list[str],
    colors: np.ndarray,
    table: Sequence[int] | None = None,
) -> Source:
    """Pictures and their labels below `root` as a Source.

    table: the class of each id in the label files, -1 void; None where the ids are the classes.
    Raises MissingFiles unless every file is there.
    """
    require(what, {"pictures": images, "labels": labels}, layout)
    files = PictureFiles(images, labels, len(classes) if table is None else len(table))
    return Source(
        names=[path.name for path in images],
        classes=classes,
        colors=colors,
        read=files if table is None else Relabelled(files, torch.tensor([*table, -1], dtype=torch.int32)),
        fingerprint=fingerprint_files(root, [*images, *labels], contents=False, extra=what.split()[0]),
    )


def require(what: str, groups: Mapping[str, Sequence[Path]], layout: str) -> None:
    """Raises MissingFiles unless all paths of all groups ({"pictures": paths, ...}) are there."""
    folders = {path.parent for paths in groups.values() for path in paths}
    present = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    gaps = {kind: [p for p in paths if p.name not in present[p.parent]] for kind, paths in groups.items()}
    if any(gaps.values()):
        said = " and ".join(
            f"{len(gap)} of {len(groups[kind])} {kind} (the first is '{gap[0]}')" for kind, gap in gaps.items() if gap
        )
        raise MissingFiles(f"{what} lacks {said}: {layout}", [path for gap in gaps.values() for path in gap])


@dataclass(frozen=True)
class Relabelled:
    """Reads `files` and gives every id its class: a `Source.read`.

    table: int32 (ids + 1,), the class of each id; the last entry, which void's -1 picks, is -1.
    """

    files: PictureFiles
    table: Tensor

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.files(index)
        return image, self.table[label.long()]


def ten_crops(*ratios: float):
    """(names of the views, the function that cuts them), an entry of `views.CROPS`: ten crops at each of `ratios`.

    Sides are cut short to whole pixels, as published; the data set's own `crop_ratio` is not used.
    """
    names = tuple(
        f" ({ratio}, {place}{mirrored})" for ratio in ratios for mirrored in ("", ", mirrored") for place in PLACES
    )

    def cut(picture: Tensor, _: float) -> tuple[Tensor, ...]:
        planes = picture if picture.ndim == 3 else picture[None]
        sizes = [[max(1, int(side * ratio)) for side in planes.shape[-2:]] for ratio in ratios]
        views = [view for size in sizes for view in F.ten_crop(planes, size)]
        return tuple(views if picture.ndim == 3 else (view[0] for view in views))

    return names, cut


PUBLISHED_CROPS = {"double": ten_crops(0.5, 0.8), "super": ten_crops(0.3, 0.4, 0.5, 0.6, 0.7)}
