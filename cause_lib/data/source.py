"""What a data set is before it is cropped and resized: a list of pictures, each with its label.

Every data set of this package is a function that returns a `Source`; most read theirs from files, through
`PictureFiles`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cause_lib.data.images import VOID, load_image, load_label

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """Pictures and labels at their own sizes.

    read(i) -> image uint8 (3, h, w), label int32 (h, w) with -1 void; `names` has one entry a picture, `colors` is
    uint8 (c, 3); `fingerprint` changes whenever what `read` returns may have changed.
    """

    names: list[str]
    classes: list[str]
    colors: np.ndarray
    read: Callable[[int], tuple[Tensor, Tensor]]
    fingerprint: str
    has_labels: bool = True


@dataclass(frozen=True)
class PictureFiles:
    """Reads pictures and, if there are any, the labels that belong to them: a `Source.read`."""

    images: Sequence[Path]
    labels: Sequence[Path] | None
    num_classes: int
    void: int = VOID

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.images[index]
        image = F.pil_to_tensor(load_image(path))  # (3, h, w)
        if self.labels is None:
            return image, torch.full(image.shape[1:], -1, dtype=torch.int32)
        label_path = self.labels[index]
        label = load_label(label_path, void=self.void)  # (h, w)
        if label.shape != image.shape[1:]:
            raise ValueError(
                f"label '{label_path}' is {label.shape[1]} x {label.shape[0]} pixels and its picture '{path}' is "
                f"{image.shape[2]} x {image.shape[1]}: they must be the same size"
            )
        largest = int(label.max())
        if largest >= self.num_classes:
            raise ValueError(
                f"label '{label_path}' has the class id {largest}, but there are {self.num_classes} classes "
                f"(ids 0 to {self.num_classes - 1}; {VOID} is void)"
            )
        return image, label


def list_pictures(folder: Path) -> list[Path]:
    """The picture files in `folder`, in the order a person would number them (2 before 10); other files are ignored."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=natural_key)


def natural_key(path: Path) -> tuple:
    """Sorts digits as numbers; the name itself breaks ties, so that the order never depends on the file system."""
    pieces = re.split(r"([0-9]+)", path.name.casefold())
    return tuple(int(piece) if piece.isdecimal() else piece for piece in pieces), path.name


def labels_of(images: Sequence[Path], folder: Path) -> list[Path]:
    """The label `<folder>/<stem>.png` of every picture. Raises FileNotFoundError naming the first without one."""
    labels = [folder / f"{image.stem}.png" for image in images]
    present = {path.name for path in folder.iterdir()}
    for image, label in zip(images, labels, strict=True):
        if label.name not in present:
            raise FileNotFoundError(
                f"picture '{image}' has no label '{label}': add it (all {VOID} where nothing is known) "
                "or take the picture out"
            )
    return labels


def spread(items: Sequence, limit: int | None) -> list:
    """At most `limit` items, spread evenly over the whole list (the frames of a film resemble their neighbours)."""
    count = len(items) if limit is None else min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def fingerprint_files(root: Path, files: Sequence[Path], *, contents: bool, extra: object = None) -> str:
    """SHA-256 (16 hex digits) over the files' relative names and sizes, their contents if asked for, and `extra`.

    Times are never asked: a copy, a checkout or a disk mounted anew holds the same pictures.
    """
    entries = []
    for path in files:
        stat = path.stat()
        digest = _digest(path, stat.st_size, stat.st_mtime_ns) if contents else 0
        entries.append((path.relative_to(root).as_posix(), stat.st_size, digest))
    return hashlib.sha256(json.dumps([entries, extra]).encode()).hexdigest()[:16]


@lru_cache(maxsize=None)
def _digest(path: Path, size: int, time: int) -> str:
    """SHA-256 of a file; read once for as long as size and time stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
