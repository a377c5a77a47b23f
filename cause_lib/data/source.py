"""What a data set is before it is cropped and resized: a `Source`, most read from files (`open_files`)."""

import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.images import HEIC, is_turned, load_image, read_picture, reads_heic, to_tensor
from cause_lib.data.labels import VOID, Codes, by_order
from cause_lib.data.noted import digest_by, stamps_of
from cause_lib.errors import InputError, NotFound

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".j2k",
            ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".mpo")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # which keep every value
#: Mode and layout of grey pictures of 2, 4 and 16 bits, which the first version read by other rules (images.py).
LATER_RULE = re.compile(r"^I|\bL;[24]")
LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found")  # as names that begin with a dot


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
    real_classes: int | None = None  # the first so many are classes, the others clusters left over; None: all
    stamps: dict[Path, list[int]] = field(default_factory=dict)  # of files whose contents count, when opened


@dataclass(frozen=True)
class PictureFiles:
    """Reads pictures and, if there are any, their labels, None for a picture without: a `Source.read`."""

    images: tuple[Path, ...]
    labels: tuple[Path | None, ...] | None
    codes: Codes

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        image = to_tensor(load_image(path := self.images[index]))  # (3, h, w)
        if self.labels is None or (label_path := self.labels[index]) is None:
            return image, torch.full(image.shape[1:], -1, dtype=torch.int32)
        label = self.codes.read(label_path)  # (h, w)
        if label.shape != image.shape[1:]:
            turned = label.shape == image.shape[:0:-1] and is_turned(path)
            way = ("the picture's EXIF mark turns it, and the label lies as the picture is stored: turn the label, or "
                   "save the picture upright" if turned else "save the label again in the same size")
            raise InputError(f"label '{label_path}' is {label.shape[1]} x {label.shape[0]} pixels and its picture "
                             f"'{path}' is {image.shape[2]} x {image.shape[1]}: {way}")
        return image, label


def open_files(root: Path, images: Sequence[Path], labels: Sequence[Path | None] | None, classes: Iterable[str],
               colors: Any, *, table: Sequence[int] = (), codes: Codes | None = None, below: Path | None = None,
               skipped: Iterable[tuple[str, str]] = (), squash: bool = False, **fingerprint: Any) -> Source:
    """Pictures and labels below `root` as a Source.

    table: the class of each id, -1 void, or `codes`; by default, ids are classes. below: the folder that names are
    relative to; by default, each picture's own.
    """
    classes = list(classes)
    codes = codes or (Codes(tuple(table)) if table else by_order(len(classes)))
    names = [path.relative_to(below).as_posix() if below else path.name for path in images]
    files = [*images, *(path for path in labels or () if path)]
    stamps = stamps_of(files if fingerprint.get("contents") else ())  # before they are read
    return Source(names, classes, np.array([*colors], dtype=np.uint8),
                  PictureFiles(tuple(images), labels and tuple(labels), codes), fingerprint_files(
                      root, files, **fingerprint), labels is not None, tuple(skipped), squash, stamps=stamps)


def leave_out(source: Source) -> Source:
    """The source without the pictures that cannot be used; `skipped` says what they are and why.

    Every file is decoded, once for a fingerprint; one warning counts those left out. ValueError if none remains.
    """
    files = source.read
    if not isinstance(files, PictureFiles) or not (faults := _faults(files, source.fingerprint)):
        return source
    warnings.warn(f"{len(faults)} of {len(files.images)} pictures in '{files.images[0].parent}' cannot be used and are "
                  f"left out (allow_corrupt='skip'); the first: {next(iter(faults.values()))}", stacklevel=2)
    images, labels = (paths and tuple(path for i, path in enumerate(paths) if i not in faults)
                      for paths in (files.images, files.labels))
    names = [name for i, name in enumerate(source.names) if i not in faults]
    return replace(source, names=names, read=replace(files, images=images, labels=labels),
                   skipped=(*source.skipped, *((source.names[i], reason) for i, reason in faults.items())),
                   fingerprint=_sha256([source.fingerprint, names]))


@lru_cache(maxsize=8)
def _faults(read: PictureFiles, fingerprint: str) -> dict[int, str]:
    """Index of each picture that cannot be used -> why, in the words of the error that it would be."""
    faults = {}
    for i in tqdm(range(len(read.images)), desc="pictures that can be used", unit="file", delay=2, leave=False):
        try:
            read(i)
        except (ValueError, OSError) as error:
            faults[i] = str(error)
    if len(faults) == len(read.images):
        raise InputError(f"none of the {len(faults)} pictures in '{read.images[0].parent}' can be used; the first: "
                         f"{faults[0]}")
    return faults


def list_pictures(folder: Path) -> list[Path]:
    """The picture files in `folder` and below, in the order a person would number them (2 before 10).

    One warning counts the files passed over, by what they end in; what file managers leave behind is no file.
    """

    def order(path: Path) -> tuple:  # the name itself breaks ties, so that the order never depends on the file system
        name = path.relative_to(folder).as_posix()
        pieces = re.split(r"([0-9]+)", name.casefold())
        return tuple(int(piece) if piece.isdecimal() else piece for piece in pieces), name

    found, others = list_files(folder, endings())
    if others:
        kinds = Counter(path.suffix.lower() or "without an ending" for path in others).most_common()
        said = ", ".join(f"{count} {kind}" for kind, count in kinds[:5]) + ", ..." * (len(kinds) > 5)
        remedy = ": install the package pillow-heif, or save them as jpg" * any(kind in HEIC for kind, _ in kinds)
        warnings.warn(f"{len(others)} of {len(found) + len(others)} files below '{folder}' are not read as pictures "
                      f"and are passed over ({said}){remedy}", stacklevel=2)
    return sorted(found, key=order)


def endings() -> tuple[str, ...]:
    """The endings of files that are read as pictures here."""
    return SUFFIXES + HEIC * reads_heic()


def list_files(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """What is in `folder` and below by its ending, one of `suffixes` or not; no litter. ValueError if unreadable."""
    found, others, seen = [], [], set()
    for base, folders, files in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        seen.add(os.path.realpath(base))
        inner: list[Path] = []
        for path in (Path(base, name) for name in (*folders, *files) if not is_litter(name)):
            # A folder may end so, too: reading it says what is wrong.
            (found if path.suffix.lower() in suffixes else inner if path.name in folders else others).append(path)
        folders[:] = [path.name for path in inner if os.path.realpath(path) not in seen]  # links may lead in a circle
    return found, others


def refuse_unreadable(error: OSError) -> NoReturn:
    """What `os.walk` calls for a folder that it cannot list."""
    raise InputError(f"'{error.filename}' cannot be read ({error.strerror}): allow that, or move it away") from error


def is_litter(name: str) -> bool:
    """Whether a file manager left it there, not a person."""
    return name.startswith(".") or name.casefold() in LITTER


def labels_of(images: Sequence[Path], folder: Path, below: Path | None = None) -> list[Path | None]:
    """The label of every picture, `<folder>/<its name>.png` or another ending of LABEL_SUFFIXES, None where none is.

    below: the pictures' folder, whose sub-folders `folder` has too; or all labels lie in `folder` itself. By default,
    it is each picture's own, and FileNotFoundError names the first without a label. ValueError if two would share one.
    """
    found = list_files(folder, LABEL_SUFFIXES)[0]  # of several of one name, the first ending counts
    found.sort(key=lambda path: (-LABEL_SUFFIXES.index(path.suffix.lower()), path))
    present = {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}
    keys = [path.relative_to(below or path.parent).with_suffix("").as_posix() for path in images]
    known, labels, owners = set(keys), [], {}
    for image, key in zip(images, keys, strict=True):
        whole = key.removesuffix(image.stem) + image.name  # beach.jpg.png
        label = present.get(key) or present.get(whole) or (present.get(image.stem) if image.stem not in known else None)
        if label is None and below is None:
            raise NotFound(f"picture '{image}' has no label '{folder / key}.png': add it (all {VOID} where nothing is "
                           "known) or take the picture out")
        if label and (other := owners.setdefault(label, image)) is not image:
            raise InputError(f"pictures '{other}' and '{image.name}' would share the label '{label}': rename one of "
                             "the two, and give it a label of its own")
        labels.append(label)
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
                size = (found := path.stat()).st_size
                digest = digest_by(path, found, digest_of) if contents else 0
        entries.append((path.relative_to(root).as_posix(), size, digest))
    return _sha256([entries, extra])


def _sha256(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """SHA-256 of a file, another where the rule that reads its pixels is newer than the first version's."""
    content = path.read_bytes()
    eight_bits = content.startswith(b"\xff\xd8") or content.startswith(b"\x89PNG") and content[24:25] == b"\x08"
    with suppress(Exception):  # of a decoder; reading its item says what is wrong
        if not eight_bits and LATER_RULE.search(read_picture(
                path, lambda picture, layout: f"{picture.mode} {layout}", pixels=False)):
            content += b" as stored"
    return hashlib.sha256(content).hexdigest()
