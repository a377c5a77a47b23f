"""Anybody's own pictures.

    <folder>/images/*.jpg|png|...           one set for every split, or
    <folder>/<split>/images/*.jpg|png|...   one set a split;
    labels/<stem>.png                       beside images/, optional: class ids, 255 = void;
    classes.json                            beside them or one level up, optional: ["sky", ...] or
                                            [{"name": "sky", "color": [86, 180, 233]}, ...], in the order of the ids.
"""

import json
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageColor
from tqdm.auto import tqdm

from cause_lib.data.images import VOID, load_label
from cause_lib.data.palette import palette
from cause_lib.data.published import find_folder, places
from cause_lib.data.source import Source, fingerprint_files, labels_of, list_pictures, open_files, spread
from cause_lib.errors import InputError, NotFound

LAYOUT = "expected <folder>/images/ or <folder>/<split>/images/ with jpg, png, webp, bmp or tif files"
MOST_CLASSES = 10_000  # as `Experiment.num_classes`; a larger id is a colour or a depth taken for a label
DEFAULT_CLUSTERS = 27  # where there are no labels: the number of the paper's main table


def open_folder(split: str, *, folder: str, limit: int | None, num_classes: int | None, allow_corrupt: str, **_
                ) -> Source:
    """The pictures of `split` in `folder`, a path or a name looked up below $CAUSE_DATA.

    Raises FileNotFoundError for a missing folder, no pictures or a missing label, ValueError for a bad classes.json.
    With allow_corrupt="skip" a missing label is no error here, and ids are read off the labels that can be read.
    """
    if not folder:
        raise InputError("dataset 'folder' needs folder=..., a path or a name below CAUSE_DATA; " + LAYOUT)
    root = find_folder([Path(folder).expanduser(), *places(folder)[:-1]], LAYOUT)
    home = root / split if (root / split / "images").is_dir() else root
    if not (home / "images").is_dir():
        others = sorted(path.parent.name for path in root.glob("*/images"))
        hint = f" (it has the splits {', '.join(others)})" if others else ""
        raise NotFound(f"no pictures for split '{split}' in '{root}'{hint}: {LAYOUT}")
    images = spread(list_pictures(home / "images"), limit)
    if not images:
        raise NotFound(f"'{home / 'images'}' holds no pictures: {LAYOUT}")
    stop = allow_corrupt == "stop"
    labels = labels_of(images, home / "labels", all_there=stop) if (home / "labels").is_dir() else None
    classes, colors = name_classes(root, home, num_classes, stop)
    return open_files(root, images, labels, classes, colors, contents=True, extra=len(classes))


def name_classes(root: Path, home: Path, num_classes: int | None, stop: bool) -> tuple[list[str], np.ndarray]:
    """Class names and colours: from classes.json, else from the ids in the labels of all splits, else clusters."""
    label_folders = [path for path in [root / "labels", *sorted(root.glob("*/labels"))] if path.is_dir()]
    listed = next((path for path in (home / "classes.json", root / "classes.json") if path.is_file()), None)
    classes, colors = read_classes(listed) if listed else ([], None)
    if listed and label_folders:
        return classes, colors
    kind, count = "cluster", num_classes or len(classes) or DEFAULT_CLUSTERS  # nothing matches clusters to names
    if label_folders:
        files = tuple(path for folder in label_folders for path in sorted(folder.glob("*.png")))
        largest = largest_id(files, fingerprint_files(root, files, contents=True), stop)
        kind, count = "class", max(largest + 1, num_classes or 1)
    return [f"{kind} {i}" for i in range(count)], palette(count)


@lru_cache(maxsize=8)
def largest_id(files: tuple[Path, ...], fingerprint: str, stop: bool) -> int:
    """The largest id in these labels, -1 if all is void; not `stop`: labels that cannot be used are passed over."""
    largest = -1
    for path in tqdm(files, desc="class ids in the labels", unit="file", delay=2, leave=False):
        with nullcontext() if stop else suppress(ValueError, OSError):
            if (found := int(load_label(path).max())) >= MOST_CLASSES:
                raise InputError(f"label '{path}' has the class id {found}, for at most {MOST_CLASSES} classes: save "
                                 f"it again with ids from 0 ({VOID} is void), or name the classes in classes.json")
            largest = max(largest, found)
    return largest


def read_classes(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and colours (uint8 (c, 3)) from a classes.json. Raises ValueError naming the file if it is not one."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark before the text
        named = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
        names, colors = [entry["name"] for entry in named], palette(len(named))
        if not (names and isinstance(entries, list) and all(isinstance(name, str) for name in names)):
            raise InputError("no list, an empty one, or a name that is no text")
        for i, entry in enumerate(named):
            if "color" in entry:
                color = entry["color"]
                red, green, blue = ImageColor.getrgb(color)[:3] if isinstance(color, str) else color
                if not all(type(part) is int and 0 <= part <= 255 for part in (red, green, blue)):
                    raise InputError(f"the colour {color} is not three whole numbers from 0 to 255")
                colors[i] = red, green, blue
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError, RecursionError) as error:
        raise InputError(f"'{path}' is not a list of class names, or of {{\"name\": ..., \"color\": [red, green, "
                         f"blue]}} ({' '.join(str(error).split())}): correct it, or take it away") from error
    return names, colors
