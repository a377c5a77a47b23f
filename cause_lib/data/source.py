"""What a data set is before it is cropped and resized: a list of pictures, each with its label.

Every data set of this package is a function that returns a `Source`; most read theirs from files, through
`PictureFiles`.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.images import VOID, load_image, load_label, to_tensor
from cause_lib.errors import InputError, NotFound

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """Pictures and labels at their own sizes.

    read(i) -> image uint8 (3, h, w), label int32 (h, w) with -1 void; `names` has one entry a picture, `colors` is
    uint8 (c, 3); `fingerprint` changes whenever what `read` returns may have changed; `skipped` has the name of each
    picture that was left out, and why.
    """

    names: list[str]
    classes: list[str]
    colors: np.ndarray
    read: Callable[[int], tuple[Tensor, Tensor]]
    fingerprint: str
    has_labels: bool = True
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PictureFiles:
    """Reads pictures and, if there are any, the labels that belong to them: a `Source.read`."""

    images: Sequence[Path]
    labels: Sequence[Path] | None
    num_classes: int
    void: int = VOID

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.images[index]
        image = to_tensor(load_image(path))  # (3, h, w)
        if self.labels is None:
            return image, torch.full(image.shape[1:], -1, dtype=torch.int32)
        label_path = self.labels[index]
        label = load_label(label_path, void=self.void)  # (h, w)
        if label.shape != image.shape[1:]:
            raise InputError(
                f"label '{label_path}' is {label.shape[1]} x {label.shape[0]} pixels and its picture '{path}' is "
                f"{image.shape[2]} x {image.shape[1]}: they must be the same size, so save the label again"
            )
        smallest, largest = (int(bound) for bound in label.aminmax())
        if smallest < -1 or largest >= self.num_classes:
            raise InputError(
                f"label '{label_path}' has the class id {smallest if smallest < -1 else largest}, but there are "
                f"{self.num_classes} classes (ids 0 to {self.num_classes - 1}; {VOID} is void): correct the label, or "
                "the list of classes"
            )
        return image, label


def leave_out(source: Source) -> Source:
    """The source without the pictures that cannot be used, and `skipped`, which says what they are and why.

    Every file is decoded, once for a fingerprint; one warning says how many are left out. What is drawn and not read
    from files stays as it is. Raises ValueError if no picture remains.
    """
    files = getattr(source.read, "files", source.read)
    if not isinstance(files, PictureFiles):
        return source
    labels = None if files.labels is None else tuple(files.labels)
    faults = _faults(tuple(files.images), labels, files.num_classes, files.void, source.fingerprint)
    if not faults:
        return source
    if len(faults) == len(source.names):
        raise InputError(
            f"none of the {len(faults)} pictures in '{files.images[0].parent}' can be used; the first: {faults[0]}"
        )
    kept = [i for i in range(len(source.names)) if i not in faults]
    names = [source.names[i] for i in kept]
    return replace(
        source,
        names=names,
        read=_Kept(source.read, kept),
        fingerprint=hashlib.sha256(json.dumps([source.fingerprint, names]).encode()).hexdigest()[:16],
        skipped=tuple((source.names[i], reason) for i, reason in faults.items()),
    )


@lru_cache(maxsize=8)
def _faults(images: tuple, labels: tuple | None, num_classes: int, void: int, fingerprint: str) -> dict[int, str]:
    """Index of each picture that cannot be used -> why, in the words of the error that it would be."""
    read, faults = PictureFiles(images, labels, num_classes, void), {}
    for i in tqdm(range(len(images)), desc="pictures that can be used", unit="file", delay=2, leave=False):
        try:
            read(i)
        except (ValueError, OSError) as error:
            faults[i] = str(error)
    if faults:
        warnings.warn(f"{len(faults)} of {len(images)} pictures in '{images[0].parent}' cannot be used and are left "
                      f"out (allow_corrupt='skip'); the first: {next(iter(faults.values()))}", stacklevel=2)
    return faults


@dataclass(frozen=True)
class _Kept:
    """Reads some of the pictures of another `Source.read`: those of the indices `kept`."""

    files: Callable[[int], tuple[Tensor, Tensor]]
    kept: Sequence[int]

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.files(self.kept[index])


def list_pictures(folder: Path) -> list[Path]:
    """The picture files in `folder`, in the order a person would number them (2 before 10); other files are ignored."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=natural_key)


def natural_key(path: Path) -> tuple:
    """Sorts digits as numbers; the name itself breaks ties, so that the order never depends on the file system."""
    pieces = re.split(r"([0-9]+)", path.name.casefold())
    return tuple(int(piece) if piece.isdecimal() else piece for piece in pieces), path.name


def labels_of(images: Sequence[Path], folder: Path, *, all_there: bool = True) -> list[Path]:
    """The label `<folder>/<stem>.png` of every picture.

    Raises FileNotFoundError naming the first picture without one, but for `all_there=False`; ValueError if two pictures
    would share one, since it can be right for one of them only.
    """
    labels = [folder / f"{image.stem}.png" for image in images]
    present = {path.name for path in folder.iterdir()}
    owners: dict[Path, Path] = {}
    for image, label in zip(images, labels, strict=True):
        if (other := owners.setdefault(label, image)) is not image:
            raise InputError(
                f"pictures '{other}' and '{image.name}' would share the label '{label}': rename one of the two, and "
                "give it a label of its own"
            )
        if all_there and label.name not in present:
            raise NotFound(
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

    Times are never asked: a copy, a checkout or a disk mounted anew holds the same pictures. What is no file that can
    be read (a folder, a pipe, a link to nothing) goes in by its name; reading its item says what is wrong with it.
    """
    entries = []
    for path in files:
        size, digest = -1, 0
        if path.is_file():
            try:
                stat = path.stat()
                size, digest = stat.st_size, _digest(path, stat.st_size, stat.st_mtime_ns) if contents else 0
            except OSError:
                pass
        entries.append((path.relative_to(root).as_posix(), size, digest))
    return hashlib.sha256(json.dumps([entries, extra]).encode()).hexdigest()[:16]


@lru_cache(maxsize=None)
def _digest(path: Path, size: int, time: int) -> str:
    """SHA-256 of a file; read once for as long as size and time stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
