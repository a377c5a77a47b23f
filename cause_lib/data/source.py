"""What a data set is before it is cropped and resized: a `Source`, most read from files (`open_files`)."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.images import VOID, load_image, load_label, to_tensor
from cause_lib.errors import InputError, NotFound

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """Pictures and labels at their own sizes."""

    names: list[str]  # one a picture
    classes: list[str]
    colors: np.ndarray  # uint8 (c, 3)
    read: Callable[[int], tuple[Tensor, Tensor]]  # index -> image uint8 (3, h, w), label int32 (h, w), -1 void
    fingerprint: str  # changes whenever what `read` returns may have changed
    has_labels: bool = True
    skipped: tuple[tuple[str, str], ...] = ()  # the name of each picture that was left out, and why
    squash: bool = False  # views become square by squashing, not by cropping


@dataclass(frozen=True)
class PictureFiles:
    """Reads pictures and, if there are any, their labels: a `Source.read`. table: the class of each id, -1 void."""

    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None
    table: tuple[int, ...]

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        image = to_tensor(load_image(path := self.images[index]))  # (3, h, w)
        if self.labels is None:
            return image, torch.full(image.shape[1:], -1, dtype=torch.int32)
        label = load_label(label_path := self.labels[index])  # (h, w)
        if label.shape != image.shape[1:]:
            raise InputError(f"label '{label_path}' is {label.shape[1]} x {label.shape[0]} pixels and its picture "
                             f"'{path}' is {image.shape[2]} x {image.shape[1]}: save the label again in the same size")
        for bound in map(int, label.aminmax()):
            if not -1 <= bound < len(self.table):
                raise InputError(f"label '{label_path}' has the class id {bound}, but ids go from 0 to "
                                 f"{len(self.table) - 1} ({VOID} is void): correct the label, or the list of classes")
        return image, torch.tensor([*self.table, -1], dtype=torch.int32)[label.long()]  # -1 picks the last


def open_files(root: Path, images: Sequence[Path], labels: Sequence[Path] | None, classes: Iterable[str], colors: Any,
               *, table: Sequence[int] = (), squash: bool = False, **fingerprint: Any) -> Source:
    """Pictures and labels below `root` as a Source. table: `PictureFiles`'; by default, ids are classes."""
    classes = list(classes)
    read = PictureFiles(tuple(images), labels and tuple(labels), tuple(table or range(len(classes))))
    return Source([path.name for path in images], classes, np.array([*colors], dtype=np.uint8), read,
                  fingerprint_files(root, [*images, *(labels or ())], **fingerprint), labels is not None, squash=squash)


def leave_out(source: Source) -> Source:
    """The source without the pictures that cannot be used; `skipped` says what they are and why.

    Every file is decoded, once for a fingerprint; one warning counts those left out. ValueError if none remains.
    """
    files = source.read
    if not isinstance(files, PictureFiles) or not (faults := _faults(files, source.fingerprint)):
        return source
    images, labels = (paths and tuple(path for i, path in enumerate(paths) if i not in faults)
                      for paths in (files.images, files.labels))
    names = [path.name for path in images]
    return replace(source, names=names, read=replace(files, images=images, labels=labels),
                   skipped=tuple((source.names[i], reason) for i, reason in faults.items()),
                   fingerprint=_sha256([source.fingerprint, names]))


@lru_cache(maxsize=8)
def _faults(read: PictureFiles, fingerprint: str) -> dict[int, str]:
    """Index of each picture that cannot be used -> why, in the words of the error that it would be."""
    faults, folder = {}, read.images[0].parent
    for i in tqdm(range(len(read.images)), desc="pictures that can be used", unit="file", delay=2, leave=False):
        try:
            read(i)
        except (ValueError, OSError) as error:
            faults[i] = str(error)
    if len(faults) == len(read.images):
        raise InputError(f"none of the {len(faults)} pictures in '{folder}' can be used; the first: {faults[0]}")
    if faults:
        warnings.warn(f"{len(faults)} of {len(read.images)} pictures in '{folder}' cannot be used and are left out "
                      f"(allow_corrupt='skip'); the first: {next(iter(faults.values()))}", stacklevel=2)
    return faults


def list_pictures(folder: Path) -> list[Path]:
    """The picture files in `folder`, in the order a person would number them (2 before 10); other files are ignored."""

    def order(path: Path) -> tuple:  # the name itself breaks ties, so that the order never depends on the file system
        pieces = re.split(r"([0-9]+)", path.name.casefold())
        return tuple(int(piece) if piece.isdecimal() else piece for piece in pieces), path.name

    found = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=order)


def labels_of(images: Sequence[Path], folder: Path, *, all_there: bool = True) -> list[Path]:
    """The label `<folder>/<stem>.png` of every picture.

    Raises FileNotFoundError naming the first without one, but for `all_there=False`; ValueError if two would share one.
    """
    labels = [folder / f"{image.stem}.png" for image in images]
    present = {path.name for path in folder.iterdir()}
    owners: dict[Path, Path] = {}
    for image, label in zip(images, labels, strict=True):
        if (other := owners.setdefault(label, image)) is not image:
            raise InputError(f"pictures '{other}' and '{image.name}' would share the label '{label}': rename one of "
                             "the two, and give it a label of its own")
        if all_there and label.name not in present:
            raise NotFound(f"picture '{image}' has no label '{label}': add it (all {VOID} where nothing is known) or "
                           "take the picture out")
    return labels


def spread(items: Sequence, limit: int | None) -> list:
    """At most `limit` items, spread evenly over the whole list (the frames of a film resemble their neighbours)."""
    count = len(items) if limit is None else min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def fingerprint_files(root: Path, files: Sequence[Path], *, contents: bool = False, extra: Any = None) -> str:
    """SHA-256 (16 hex digits) over the files' relative names and sizes, their contents if asked for, and `extra`.

    Times do not count: a copy holds the same pictures. What is no file that can be read (a folder, a pipe, a link to
    nothing) goes in by its name; reading its item says what is wrong with it.
    """
    entries = []
    for path in files:
        size, digest = -1, 0
        with suppress(OSError):
            if path.is_file():
                size = path.stat().st_size
                digest = _digest(path, size, path.stat().st_mtime_ns) if contents else 0
        entries.append((path.relative_to(root).as_posix(), size, digest))
    return _sha256([entries, extra])


def _sha256(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@lru_cache(maxsize=None)
def _digest(path: Path, size: int, time: int) -> str:
    """SHA-256 of a file; read once for as long as size and time stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
