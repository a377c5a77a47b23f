"""Anybody's own pictures.

    <folder>/images/*.jpg|png|...           one set for every split, or
    <folder>/<split>/images/*.jpg|png|...   one set a split, or
    <folder>/images/<split>/*.jpg|png|...   the same;
    labels/<name of the picture>.png        beside images/, with the same sub-folders, optional: a class id or colour a
                                            pixel, 255 = void; a picture without one is trained on, and not judged; the
                                            name may keep the picture's ending (beach.jpg.png);
    classes.json                            beside them or one level up, optional: labels.py has its forms.

Sub-folders of images/ that are not named as a split belong to the set.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cause_lib.data.labels import Codes, by_order, count_pixels, in_color, read_classes, what_is_odd
from cause_lib.data.noted import once
from cause_lib.data.palette import palette
from cause_lib.data.published import find_folder, places
from cause_lib.data.source import (Source, endings, fingerprint_files, is_litter, labels_of, list_files, list_pictures,
                                   open_files, refuse_unreadable, spread)
from cause_lib.errors import InputError, NotFound

LAYOUT = ("expected <folder>/images/ or <folder>/<split>/images/ (or <folder>/images/<split>/) with jpg, png, webp, "
          "bmp, tif or gif files")
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")  # names of folders in images/
MOST_CLASSES = 10_000  # as `Experiment.num_classes`; a larger id is a colour or a depth taken for a label
DEFAULT_CLUSTERS = 27  # where there are no labels: the number of the paper's main table
LOOK = 200  # labels that are read at the start where classes.json names the classes
NO_LABELS = {".jpg": "a JPEG, which does not keep ids", ".jpeg": "a JPEG, which does not keep ids",
             ".webp": "a WebP, which may not keep ids", ".json": "outlines, as labelme and COCO have them",
             ".txt": "outlines, as YOLO has them", ".npy": "an array"}  # what others save labels as
OTHER_NAMES = ("label", "labels", "mask", "masks", "annotation", "annotations", "gt", "ground_truth", "groundtruth",
               "segmentationclass", "targets")  # of what may hold labels, and is not read
OF_MASKS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_labelIds", "_gtFine_labelIds")  # after a name


def open_folder(split: str, *, folder: str, limit: int | None, num_classes: int | None, allow_corrupt: str,
                judged: bool, **_) -> Source:
    """The pictures of `split` in `folder`, see `_open`; within `noted.one_look`, opened once."""
    given = split, folder, limit, num_classes, allow_corrupt, judged
    try:
        return once(("folder", *given), lambda: _open(*given))
    except PermissionError as error:  # of a folder that is looked into
        refuse_unreadable(error)


def _open(split: str, folder: str, limit: int | None, num_classes: int | None, allow_corrupt: str,
          judged: bool) -> Source:
    """The pictures of `split` in `folder`, a path or a name looked up below $CAUSE_DATA.

    judged: where some pictures have a label, those alone; the others are `skipped`. Raises FileNotFoundError for a
    missing folder, no pictures, or labels of other pictures alone, ValueError for a bad classes.json. With
    allow_corrupt="skip" classes are read off the labels that can be read.
    """
    root = find_root(folder)
    home, below = find_split(root, split)
    if not (pictures := list_pictures(below)):
        raise NotFound(f"'{below}' holds no pictures: {LAYOUT}")
    refuse_masks_among(pictures)
    found = find_labels(pictures, home, below)
    pairs = [*zip(pictures, found or [None] * len(pictures))]
    bare = [image.relative_to(below).as_posix() for image, label in pairs if found and not label]
    if bare:
        near = [what_lies_near(below / name, home / "labels", below) for name in bare]
        hint = next((f", and there is {said}" for said in near if said), "")
        warnings.warn(f"{len(bare)} of {len(pairs)} pictures in '{below}' have no label (the first is '{bare[0]}'"
                      f"{hint}): they are trained on, and not judged", stacklevel=2)
    pairs = spread([pair for pair in pairs if pair[1]] if found and judged else pairs, limit)
    images, labels = [image for image, _ in pairs], [label for _, label in pairs] if found else None
    mine = [label for label in found or () if label]
    classes, colors, codes = name_classes(root, home, mine, num_classes, allow_corrupt == "stop")
    read = [codes.table, codes.colors if codes.in_color or any(map(in_color, mine[:1])) else ()]  # of the labels
    return open_files(root, images, labels, classes, colors, codes=codes, below=below, contents=True,
                      skipped=[(name, "it has no label") for name in bare] if judged else (),
                      extra=len(classes) if read == [by_order(len(classes)).table, ()] else [len(classes), *read])


def find_root(folder: str) -> Path:
    """The folder of that path, or of that name below $CAUSE_DATA. Raises FileNotFoundError if there is none."""
    if not folder:
        raise InputError("dataset 'folder' needs folder=..., a path or a name below CAUSE_DATA; " + LAYOUT)
    return find_folder([Path(folder).expanduser(), *places(folder)[:-1]], LAYOUT)


def find_split(root: Path, split: str) -> tuple[Path, Path]:
    """Where images/ and labels/ of `split` lie, and the folder of its pictures. FileNotFoundError names the others."""
    if Path(split).is_absolute():
        raise InputError(f"train_split and test_split are folders below '{root}', not '{split}': give it as folder")
    if (root / split / "images").is_dir():
        return root / split, root / split / "images"
    images, below = root / "images", root / "images" / split
    inner = sorted(_inside(images))
    if split in inner:
        if loose := [path for path in list_files(images, endings())[0] if path.parent == images]:
            warnings.warn(f"{len(loose)} pictures lie in '{images}' beside its splits and are passed over: move them "
                          f"into '{below}', or away", stacklevel=3)
        return root, below
    if images.is_dir() and not any(name.casefold() in SPLITS for name in inner):
        return root, images
    others = splits_of(root)
    hint = f" (it has the splits {', '.join(others)})" if others else ""
    if len(others) == 1 and others[0].casefold() not in SPLITS:
        hint = f" (if '{root / others[0]}' is meant, give that as folder)"
    elif not others and (there := sorted(path.name for path in root.glob("*") if not is_litter(path.name))):
        hint = f" (there is {', '.join(map(repr, there[:3]))}{', ...' * (len(there) > 3)})"
    raise NotFound(f"no pictures for split '{split}' in '{root}'{hint}: {LAYOUT}")


def splits_of(root: Path) -> list[str]:
    """The names of the splits that `root` has; [] for one set for all of them, or for none."""
    named = sorted(name for name in _inside(root / "images") if name.casefold() in SPLITS)
    return named + sorted(name for name in _inside(root) if not is_litter(name) and "images" in _inside(root / name))


def _inside(folder: Path) -> list[str]:
    """The names of the folders in this one; none where it is not there."""
    return next(os.walk(folder, onerror=refuse_unreadable))[1] if folder.is_dir() else []


def find_labels(pictures: Sequence[Path], home: Path, below: Path) -> list[Path | None] | None:
    """The label of each picture or None; None for all where no folder holds any.

    Raises FileNotFoundError for a folder of labels none of which is a picture's.
    """
    folder = home / "labels"
    place = folder / below.relative_to(home / "images")  # of a split, which may be unlabelled
    if not folder.is_dir():
        if there := sorted(path.name for path in home.glob("*") if path.stem.casefold() in OTHER_NAMES):
            warnings.warn(f"'{home}' has no folder 'labels', and {', '.join(map(repr, there))} is not read, so nothing "
                          "is judged: labels are PNGs of class ids in a folder of that name", stacklevel=3)
        return None
    if not any(labels := labels_of(pictures, folder, home / "images")) and not place.is_dir():
        return None
    if not any(labels):
        near = what_lies_near(pictures[0], place, below)
        there = sorted(path.relative_to(place).as_posix() for kind in list_files(place, ()) for path in kind)
        way = "save labels as PNGs with one class id a pixel" if ", " in near else "name labels as their pictures"
        raise NotFound(f"none of {len(pictures)} pictures in '{below}' has its label in '{place}' (that of the first "
                       f"would be '{pictures[0].stem}.png', and there is "
                       f"{near or (repr(there[0]) if there else 'nothing')}): {way}, one a picture, or take the folder "
                       "away")
    return labels


def what_lies_near(image: Path, folder: Path, below: Path) -> str:
    """The first file in `folder` whose name begins as this picture's, and what it is if it can be no label; or ""."""
    stem = image.relative_to(below).with_suffix("").as_posix()
    near = sorted(path for kind in list_files(folder, ()) for path in kind
                  if path.relative_to(folder).as_posix().startswith(stem) or path.stem == image.stem)
    kind = NO_LABELS.get(near[0].suffix.lower()) if near else None
    return (repr(near[0].relative_to(folder).as_posix()) + (f", {kind}" if kind else "")) if near else ""


def refuse_masks_among(pictures: Sequence[Path]) -> None:
    """Raises ValueError if masks lie among the pictures, each beside its own: `beach_mask.png` beside `beach.jpg`."""
    stems = {path.with_suffix("") for path in pictures}
    masks = [path for path in pictures for end in OF_MASKS
             if path.stem.endswith(end) and path.with_name(path.stem[:-len(end)]) in stems]
    if masks:
        raise InputError(f"{len(masks)} of {len(pictures)} pictures in '{masks[0].parent}' are named as masks of "
                         f"others (the first is '{masks[0].name}'): move masks into the folder 'labels' beside "
                         "'images', under the names of their pictures")


def all_labels(root: Path) -> tuple[Path, ...]:
    """The labels of all pictures of all splits; those of no picture do not count."""
    homes = [root, *sorted(path for path in root.glob("*") if not is_litter(path.name))]
    pairs = [(home / "images", home / "labels") for home in homes]
    found = [labels_of(sorted(list_files(images, endings())[0]), labels, images)
             for images, labels in pairs if images.is_dir() and labels.is_dir()]
    return tuple(label for labels in found for label in labels if label)


def listed_classes(root: Path, home: Path) -> tuple[Path | None, list[str], np.ndarray | None, Codes]:
    """The classes.json that counts in `home`, and what it says; without one None, and ids are classes."""
    listed = next((path for path in (home / "classes.json", root / "classes.json") if path.is_file()), None)
    return listed, *(read_classes(listed) if listed else ([], None, by_order(MOST_CLASSES)))


def name_classes(root: Path, home: Path, mine: Sequence[Path], num_classes: int | None, stop: bool
                 ) -> tuple[list[str], np.ndarray, Codes]:
    """Names, colours and codes: from classes.json, else from the ids in the labels of all splits, else clusters.

    mine: the labels of the split in `home`, of which some are read to see whether classes.json has their values.
    """
    files = all_labels(root)
    listed, classes, colors, codes = listed_classes(root, home)
    looked = tuple(spread(mine, LOOK)) if listed else files
    found = count_pixels(looked, fingerprint_files(root, looked, contents=True), codes, stop)
    if said := what_is_odd(found, classes, str(root)):
        warnings.warn(said, stacklevel=3)
    if listed and files:
        return classes, colors, codes
    kind, count = ("class", max([*found, 0]) + 1) if files else (
        "cluster", num_classes or len(classes) or DEFAULT_CLUSTERS)  # nothing matches clusters to names
    return [f"{kind} {i}" for i in range(count)], palette(count), by_order(count)
