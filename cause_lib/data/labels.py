"""Label files: which class each value that they hold means, and what a whole set of them holds.

A label file holds a value a pixel: an id, or a colour. `Codes` says which class a value means: the position in the list
of classes, or what classes.json says (`read_classes`).
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.images import load_stored
from cause_lib.data.palette import palette
from cause_lib.errors import InputError

VOID = 255  # unlabelled pixels in label files, unless classes.json says otherwise; -1 in every tensor
UNKNOWN = -2  # a value that means nothing
COLOR = 1 << 24  # added to a colour, 0xRRGGBB, so that no id is taken for one
FORMS = ('a list of class names, or of {"name": ..., "color": [red, green, blue]}, or an object {"0": "ground", "255": '
         '"road", "7": null} of values in the label files, null for void')


@dataclass(frozen=True)
class Codes:
    """Which class each value of a label file means, -1 void.

    table: the class of each id from 0 on; 255 and -1 are void where they are not listed. colors: (0xRRGGBB + COLOR,
    class) of labels in colour. in_color: grey and palette pictures are read by their colours, too.
    """

    table: tuple[int, ...]
    colors: tuple[tuple[int, int], ...] = ()
    in_color: bool = False

    def read(self, path: Path) -> Tensor:
        """The classes of a label file: int32 (h, w). Raises ValueError naming it for a value that means no class."""
        stored = load_stored(path, self.in_color)  # int32 (h, w), or uint8 (h, w, 3)
        if stored.ndim == 3:
            keys, meant = np.array(sorted([*self.colors, (2 * COLOR, UNKNOWN)]), dtype=np.int32).T
            places = np.searchsorted(keys, packed := pack(stored))
            if (known := keys[places] == packed).all():
                return torch.from_numpy(meant[places])
            if self.in_color or (stored != stored[..., :1]).any():
                color = stored[~known][0].tolist()
                raise InputError(f"label '{path}' has the colour {color}, which classes.json gives to no class, or to "
                                 f'two: write {{"name": ..., "color": {color}}} into it, for every class (`python -m '
                                 'cause_lib.data classes <folder>` prints the colours), or save labels with one '
                                 'channel of ids')
            stored = stored[..., 0].astype(np.int32)  # ids, three times the same
        table = self._by_id
        classes = table[stored.clip(-2, len(table) - 2)]  # -1 picks the last, whatever is out of range the one before
        if (strange := classes == UNKNOWN).any():
            ids = [i for i, found in enumerate(self.table) if found != UNKNOWN]
            listed = (f"ids go from 0 to {len(ids) - 1}" if len(ids) == len(self.table) else
                      f"classes.json lists {', '.join(map(str, ids[:8]))}{', ...' * (len(ids) > 8)}")
            raise InputError(f"label '{path}' has the class id {stored[strange][0]}, but {listed} ({VOID} is void): "
                             "correct the label, or list in classes.json what each value means "
                             '({"0": "a name", ...}, null for void)')
        return torch.from_numpy(classes)

    @cached_property
    def _by_id(self) -> np.ndarray:
        """The class of each id, then that of larger ones and, last, of -1: int32."""
        table = np.array([*self.table, *[UNKNOWN] * (VOID + 2 - len(self.table)), UNKNOWN, -1], dtype=np.int32)
        table[VOID] = -1 if table[VOID] == UNKNOWN else table[VOID]
        return table


def by_order(count: int) -> Codes:
    """Ids are positions in the list of so many classes."""
    return Codes(tuple(-1 if i == VOID else i for i in range(count)))


def pack(picture: np.ndarray) -> np.ndarray:
    """Colours uint8 (..., 3) as 0xRRGGBB + COLOR: int32 (...)."""
    return COLOR + picture.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)


@lru_cache(maxsize=8)
def count_pixels(files: tuple[Path, ...], fingerprint: str, codes: Codes, stop: bool) -> dict[int, int]:
    """Class -> pixels in these labels, -1 void; not `stop`: labels that cannot be used are passed over."""
    total = torch.zeros(0, dtype=torch.int64)
    for path in tqdm(files, desc="classes in the labels", unit="file", delay=2, leave=False):
        with suppress(*() if stop else (ValueError, OSError)):
            counts = torch.bincount(codes.read(path).flatten() + 1, minlength=len(total))
            counts[:len(total)] += total
            total = counts
    return {i - 1: count for i, count in enumerate(total.tolist()) if count}


def what_is_odd(pixels: dict[int, int], classes: Sequence[str], folder: str = "") -> str:
    """A sentence on labels in which any mask is right, none is, or, where no `classes` are named, ids never occur; else
    "". pixels: of each class, -1 void. folder: of these labels; "": they are those of the judged pictures."""
    ids = [i for i, count in sorted(pixels.items()) if count and i >= 0]
    shown = ", ".join(map(str, ids[:8])) + ", ..." * (len(ids) > 8)
    void = f"{pixels.get(-1, 0) / max(1, sum(pixels.values())):.0%} of all pixels void"
    if len(ids) == 1:
        said = f"there is one class, {classes[ids[0]] if classes else shown}, and {void}, so that any mask is right"
    elif pixels and not ids:
        said = "every pixel is void, so that nothing can be judged"
    elif ids and not classes and len(ids) <= ids[-1]:
        said = f"{len(ids)} of {ids[-1] + 1} ids occur ({shown}; {void}), and the others are classes without a pixel"
    else:
        return ""
    where, named = (f"'{folder}'",) * 2 if folder else ("the judged pictures", "<folder>")
    return (f"In the labels of {where} {said}: if that is not meant, say in classes.json what each value means; "
            f"`python -m cause_lib.data classes {named}` prints one to begin with.")


def in_color(path: Path) -> bool:
    """Whether this label holds colours; what cannot be read does not."""
    with suppress(ValueError, OSError):
        return load_stored(path).ndim == 3
    return False


def list_values(files: Sequence[Path]) -> dict[str, str | None]:
    """A classes.json with a class for every value in these labels; 255 is void, unless there are but two values."""
    found: set[int] = set()
    for path in tqdm(files, desc="values in the labels", unit="file", delay=2, leave=False):
        stored = load_stored(path)
        found |= set(np.unique(pack(stored) if stored.ndim == 3 else stored).tolist()) - {-1}
    keys = [f"#{value - COLOR:06x}" if value >= COLOR else str(value) for value in sorted(found)]
    return {key: None if key == str(VOID) and len(keys) > 2 else f"class {key}" for key in keys}


def read_classes(path: Path) -> tuple[list[str], np.ndarray, Codes]:
    """Names, colours (uint8 (c, 3)) and codes from a classes.json. Raises ValueError naming it if it is not one."""
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark before the text
        by_value, names, shown, codes = isinstance(given, dict), [], {}, {}
        for key, entry in [(_key(key), entry) for key, entry in given.items()] if by_value else enumerate(given):
            if by_value and entry is None:
                codes[key] = -1
                continue
            entry = {"name": entry} if isinstance(entry, str) else entry
            if not isinstance(name := entry["name"], str):
                raise InputError("a name is no text")
            i = codes[key] = names.index(name) if by_value and name in names else len(names)  # two values, one class
            names += [name] * (i == len(names))
            if key >= COLOR or "color" in entry:
                shown[i] = _rgb(entry["color"]) if "color" in entry else (key >> 16 & 255, key >> 8 & 255, key & 255)
        if not (names and isinstance(given, (list, dict))):
            raise InputError("it is neither a list nor an object, or names no class")
        colors = palette(len(names))
        colors[[*shown]] = [*shown.values()] if shown else colors[:0]
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError, RecursionError) as error:
        raise InputError(f"'{path}' is not {FORMS} ({' '.join(str(error).split())}): correct it, or take it "
                         "away") from error
    if again := [name for i, name in enumerate(names) if name in names[:i]]:  # in a list alone
        raise InputError(f"'{path}' names the class '{again[0]}' more than once: give each class a name of its own or, "
                         'if several values mean one class, write {"0": "a name", "1": "a name"}, each value with its '
                         "class")
    painted = {key: i for key, i in codes.items() if key >= COLOR}
    table = [codes.get(i, UNKNOWN) for i in range(max((key for key in codes if key < COLOR), default=-1) + 1)]
    if not painted:  # labels in the colours of the masks; of two classes that share one, nobody knows which is meant
        packed = pack(colors).tolist()
        painted = {color: i for i, color in enumerate(packed) if packed.count(color) == 1}
    return names, colors, Codes(tuple(table) if by_value else by_order(len(names)).table, tuple(painted.items()),
                                not table)


def _key(key: str) -> int:
    """The value that a key of classes.json stands for: "7", or "#ff0000" for a colour in the label files."""
    if key.startswith("#"):
        return int(pack(np.array(_rgb(key))))
    if not (key.isascii() and key.isdecimal() and int(key) < 1 << 16):
        raise InputError(f"'{key[:60]}' is neither a value from 0 to 65535 nor a colour as '#ff0000'")
    return int(key)


def _rgb(color: Any) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(color)[:3] if isinstance(color, str) else color
    if not all(type(part) is int and 0 <= part <= 255 for part in (red, green, blue)):
        raise InputError(f"the colour {color} is not three whole numbers from 0 to 255")
    return red, green, blue
