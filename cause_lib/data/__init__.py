"""Data sets: pictures as training and test items, all behind one function.

    dataset = load_dataset("scenes", "train", image_size=160, crops="five")
    dataset[0]  ->  {"image": float32 (3, h, w) in [0, 1], "label": int64 (h, w), -1 void, "index": int}

A data set is a module with `open_<module>`, which returns a `Source` (source.py). To add one: book/change.md. What of
a set is missing on this machine says `check_dataset`, from a shell `python -m cause_lib.data check cocostuff27`.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module

import numpy as np

from cause_lib.data.images import RESIZE, load_image, resize_and_crop, to_rgb
from cause_lib.data.noted import once, said_once
from cause_lib.data.palette import palette
from cause_lib.data.published import COUNTS
from cause_lib.data.source import Source, leave_out
from cause_lib.data.views import CROPS, SegmentationDataset
from cause_lib.errors import InputError

__all__ = ["CORRUPT", "COUNTS", "CROPS", "DATASETS", "SegmentationDataset", "check_dataset", "is_squashed",
           "load_dataset", "load_image", "palette", "resize_and_crop", "to_rgb"]

#: Name -> the module here whose function `open_<module>` returns its `Source`; it is imported when a set is opened.
DATASETS = {
    "scenes": "scenes", "camvid": "camvid", "folder": "folder", "cocostuff27": "cocostuff", "coco81": "cocostuff",
    "coco171": "cocostuff", "cityscapes": "cityscapes", "pascalvoc": "pascalvoc",
}  # fmt: skip

CORRUPT = ("stop", "skip")  # what may become of a file that cannot be used
VIEWS = ("crop", "squash")  # how a picture may become square


def load_dataset(name: str, split: str, *, image_size: int, folder: str = "", crops: str = "none",
                 crop_ratio: float = 0.5, limit: int | None = None, num_classes: int | None = None,
                 level: str = "object", resize: str = "nearest", allow_corrupt: str = "stop",
                 download: bool = True, judged: bool = False, view: str | None = None) -> SegmentationDataset:
    """A torch Dataset of {"image": float32 (3, h, w) in [0, 1], "label": int64 (h, w), -1 void, "index": int}.

    name: "scenes" (generated; splits train, val, pretrain), "camvid" (train, val, test), "folder" (your own, any
        split), or a published table's (train, val): "cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc".
    image_size: h = w, in pixels; the short side is brought to it, then the centre is cut out ("pascalvoc" is squashed
        to a square instead, as published).
    folder: for "folder", a path or a name below $CAUSE_DATA.
    crops: "none"; "five" for five views a picture (corners and centre), each crop_ratio of every side; "double" for
        20 or "super" for 50 (those and their mirror images, at the ratios that views.py lists).
    limit: at most so many pictures, spread over the whole set; for "scenes", how many to draw.
    num_classes: how many clusters to look for; those beyond the classes follow them as "cluster 12" and so on. None:
        one a class, 27 for pictures without labels.
    level: for "scenes", what is one class: a "part" (a head), an "object" (a person) or a "group" (the living).
    resize: "nearest" neighbour; "pillow", the same with Pillow's rounding, as published; "antialiased", labels nearest.
    allow_corrupt: what becomes of a file that cannot be used: "stop", an error when its item is asked for; or "skip":
        all are decoded here, and those are left out, counted and warned of. A published set that lacks files stops.
    download: whether a set that is not on this machine may be fetched.
    judged: for a "folder" of which some pictures have labels, those alone.
    view: "crop" or "squash" in place of the set's own way to a square, see image_size.

    What is odd about the files is warned of, once a process.

    Raises ValueError for arguments that make no sense, FileNotFoundError for missing files, RuntimeError for a failed
    download; a file that cannot be used is a ValueError naming it, when its item is asked for.
    """
    for what, value, known in (("dataset", name, DATASETS), ("crops", crops, CROPS), ("resize", resize, RESIZE),
                               ("allow_corrupt", allow_corrupt, CORRUPT), ("view", view or "crop", VIEWS)):
        _check_known(what, value, known)
    if not 0 < crop_ratio <= 1:
        raise InputError(f"crop_ratio is a part of each side, above 0 and at most 1, not {crop_ratio}")
    for what, count in (("image_size", image_size), ("limit", limit), ("num_classes", num_classes)):
        if count is not None and count < 1:
            raise InputError(f"{what} must be at least 1, not {count}")
    if folder and name != "folder":
        raise InputError(f"folder='{folder}' goes with dataset 'folder', not with '{name}'")
    if level != "object" and name != "scenes":
        raise InputError(f"level='{level}' goes with dataset 'scenes', not with '{name}', whose labels have one level")
    size = image_size if crops == "none" else math.ceil(image_size / crop_ratio)  # a crop of a drawing stays sharp
    with said_once() as said:
        source = getattr(import_module(f"cause_lib.data.{DATASETS[name]}"), f"open_{DATASETS[name]}")(
            split, name=name, size=size, folder=folder, limit=limit, num_classes=num_classes, level=level,
            download=download, allow_corrupt=allow_corrupt, judged=judged)
        if allow_corrupt == "skip":
            source = leave_out(source)
    if num_classes not in (None, len(source.classes)):
        source = _with_clusters(source, num_classes, folder or name)
    dataset = SegmentationDataset(name, split, source, image_size=image_size, crops=crops, crop_ratio=crop_ratio,
                                  resize=resize, squash=is_squashed(name, view) if view else None)
    asked = name, split, folder, limit, num_classes, allow_corrupt, judged  # within one look opened, and heard, once
    dataset.warned = once(("warned", *asked), lambda: [str(one.message) for one in said])
    return dataset


def _with_clusters(source: Source, count: int, name: str) -> Source:
    """The source with clusters beyond its classes, `count` of both in all."""
    c = len(source.classes)
    if count < c:
        raise InputError(f"num_classes={count}, but {name} has {c} classes, and each needs a cluster: raise "
                         "num_classes, or leave it out")
    return replace(source, classes=[*source.classes, *(f"cluster {i}" for i in range(c, count))],
                   colors=np.concatenate([source.colors, palette(count)[c:]]), real_classes=c)


def is_squashed(name: str, view: str | None = None) -> bool:
    """Whether the pictures of the data set `name` become square by squashing, not by cropping; view: one of VIEWS, or
    None: the set's own way."""
    return getattr(import_module(f"cause_lib.data.{DATASETS[name]}"), "SQUASH", False) if view is None else (
        view == "squash")


def check_dataset(name: str) -> tuple[bool, list[str]]:
    """Whether the published data set `name` is on this machine, whole, and what to tell a person about it, a line each.

    Looks whether every file of the published splits is there; fetches and decodes nothing. Raises ValueError for
    another name.
    """
    _check_known("set to check", name, COUNTS)
    whole, lines = True, []
    for split, published in COUNTS[name].items():
        try:
            found = len(load_dataset(name, split, image_size=1, download=False))
            verdict = "as published" if found == published else f"but {published} were published"
            said = f"{name} {split}: {found} pictures with labels, {verdict}"
        except (FileNotFoundError, RuntimeError, ValueError) as error:
            found, said = None, str(error)
        whole = whole and found == published
        if said not in lines:  # what is nowhere is said once, not for every split
            lines.append(said)
    return whole, lines


def _check_known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise InputError(f"unknown {what} '{value}'{hint}: known are {', '.join(known)}")
