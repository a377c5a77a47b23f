"""Masks of many pictures as files: `Segmenter.write`.

    masks/a.png      ids, shown in the classes' colours; of pictures a.jpg and a.png the second is a.png.png
    overlays/a.jpg   the picture, half under the colours
    masks.csv        file, mask, width, height, and of each class its share of the pixels
    skipped.csv      file and reason, of pictures that cannot be used, where there are any

A file gets its name once it is whole. Each mask carries what made it, Segmenter, settings and the picture's content:
when the same command runs again, masks of the same origin stay, all others are replaced. Where it stops, masks.csv
keeps the lines of masks that are there. A picture that is no file is segmented again. One process writes at a time.
"""

import csv
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin
from pooch import file_hash
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.source import endings
from cause_lib.errors import InputError, NotFound, Refusal, WriteError
from cause_lib.runs.store import locked, whole
from cause_lib.use.given import config_of
from cause_lib.use.pictures import class_shares, mask_image, overlay_image, picture_tensor
from cause_lib.use.streaming import left_out, named, prepared

STAMP = "cause_lib"  # the text of a PNG that says what made it
JPEG_SIDE = 65500  # pixels; a JPEG has no longer sides
ANY_NAME = "surrogateescape"  # as Python has file names that are not UTF-8: the same bytes in the tables


class Written(NamedTuple):
    """What `Segmenter.write` did: the path of `masks.csv`, and how many masks are new, were kept, and are missing."""

    table: Path
    written: int
    kept: int
    skipped: int


class Place(NamedTuple):
    """Where the files of one picture go, and what its mask is stamped with ("": it is never kept)."""

    name: str
    mask: Path
    overlay: Path
    stamp: str


def write_masks(segment: Any, pictures: Any, out: Path, crf: bool, overlay: bool, allow_corrupt: str) -> Written:
    """See `Segmenter.write`."""
    pairs, place_of = _checked(pictures, out), _places(segment, out, crf)

    def prepare(name: str, picture: Any) -> tuple:
        place = place_of(name, picture)
        if (ids := _kept(place, overlay)) is not None:
            return place, ids
        image = picture_tensor(picture)
        return place, None, image if overlay else None, *segment._look(image, f"The picture {name}")

    def finish(place: Place, ids: np.ndarray | None, image: Tensor | None = None, *look: Any) -> list:
        if new := ids is None:
            ids = segment._mask(*look, crf=crf).numpy()
            text = PngImagePlugin.PngInfo()
            text.add_text(STAMP, place.stamp)
            for old in (place.mask, place.overlay, place.overlay.with_suffix(".png")):  # the mask, which stands for
                old.unlink(missing_ok=True)  # its overlay, first: none is left beside the mask of another origin
            if image is not None:
                _save(overlay_image(ids, segment.colors, image), place.overlay, scratch, quality=90)
            _save(mask_image(ids, segment.colors), place.mask, scratch, pnginfo=text)
        counts["written" if new else "kept"] += 1
        shares = (f"{share:.6f}" for share in class_shares(ids, len(segment.classes)))
        return [place.name, place.mask.relative_to(out).as_posix(), *ids.shape[::-1], *shares]

    counts, faults, fault = {"written": 0, "kept": 0}, [], None
    table, way_out = out / "masks.csv", "make room, or choose another place"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"Cannot make the folder {out} ({error.strerror or error}): {way_out}.") from error
    with locked(table), whole(table, "masks and", way_out) as beside:
        scratch, head, begun = beside.parent, ["file", "mask", "width", "height", *segment.classes], set()
        before = _lines(table, head)
        with beside.open("w", newline="", encoding="utf8", errors=ANY_NAME) as file:
            lines = csv.writer(file)
            lines.writerow(head)
            total = len(pairs) if isinstance(pairs, list) else None
            bar = tqdm(prepared(pairs, prepare), total=total, desc="segment", leave=False)
            try:
                for name, ready in bar:
                    if not isinstance(ready, Exception):
                        begun.add(ready[0].mask)
                        lines.writerow(finish(*ready))
                    elif allow_corrupt == "stop":
                        raise ready
                    else:
                        faults.append((name, str(ready)))
            except BaseException as error:  # what was finished is listed even where the next picture, or Ctrl-C, stops
                if isinstance(error, OSError) and not isinstance(error, Refusal):
                    raise
                lines.writerows(line for line in before if out / line[1] not in begun and (out / line[1]).is_file())
                fault = error
    if fault is not None:
        raise fault
    _write_skipped(out / "skipped.csv", faults, sum(counts.values()))
    return Written(table, counts["written"], counts["kept"], len(faults))


def _checked(pictures: Any, out: Path) -> Any:
    """Pairs of name and picture, in a list where they can be listed and then refused before anything is made."""
    given = [pictures] if isinstance(pictures, (str, os.PathLike)) else pictures
    if not isinstance(given, (list, tuple)):
        return named(pictures)
    pairs, path_of = list(named(pictures)), _names(out)
    for one in (one[1] if isinstance(one, tuple) and len(one) == 2 else one for one in given):
        if isinstance(one, (str, os.PathLike)) and not (path := Path(one).expanduser()).exists():
            raise NotFound(f"there is no picture at '{one}': give the path of one, or of a folder of them.")
        if isinstance(one, (str, os.PathLike)) and path.resolve() in (out.resolve(), *out.resolve().parents):
            raise InputError(f"{out} lies in the folder of the pictures '{one}', where masks would be segmented again: "
                             "choose another place for them.")
    for name, _ in pairs:
        path_of(name)
    return pairs


def _lines(table: Path, head: list[str]) -> list[list[str]]:
    """The lines of a table that is there and has these columns."""
    with suppress(OSError, ValueError, csv.Error), table.open(newline="", encoding="utf8", errors=ANY_NAME) as file:
        first, *lines = csv.reader(file)
        return [line for line in lines if first == head and len(line) == len(head)]
    return []


def _places(segment: Any, out: Path, crf: bool) -> Callable[[str, Any], Place]:
    """Where the files of a picture go, by its name and itself."""
    origin = hashlib.sha256(json.dumps([config_of(segment, ""), segment.backbone.description, crf]).encode())
    for module in (segment.head, segment.probe):
        for key, value in module.state_dict().items():
            origin.update(key.encode() + value.cpu().numpy().tobytes())
    path_of = _names(out)

    def place_of(name: str, picture: Any) -> Place:
        path, stamp = path_of(name), ""
        if isinstance(picture, (str, os.PathLike)) and (file := Path(picture).expanduser()).is_file():
            with suppress(OSError):  # reading the picture says what is wrong
                stamp = hashlib.sha256((origin.hexdigest() + file_hash(str(file))).encode()).hexdigest()[:32]
        return Place(name, out / "masks" / f"{path}.png", out / "overlays" / f"{path}.jpg", stamp)

    return place_of


def _names(out: Path) -> Callable[[str], Path]:
    """The path of a picture's mask below its folder, without its ending, by the picture's name."""
    names, taken = set(), set()

    def path_of(name: str) -> Path:
        if (path := Path(name)).is_absolute() or ".." in path.parts or not path.name:
            raise InputError(f"{name!r} names no file below {out}: give the picture another name.")
        stem = path.with_suffix("") if path.suffix.lower() in endings() else path
        path = path if str(stem) in taken else stem
        if name in names or str(path) in taken:
            raise InputError(f"Several pictures are called {name!r}, and one's mask would replace another's: name them "
                             "apart, as pairs (name, picture), or write each folder's masks to a place of their own.")
        names.add(name)
        taken.add(str(path))
        return path

    return path_of


def _kept(place: Place, overlay: bool) -> np.ndarray | None:
    """The ids of a mask that is there and was made of the same picture by the same Segmenter; None: there is none."""
    whole_pair = not overlay or any(place.overlay.with_suffix(end).is_file() for end in (".jpg", ".png"))
    with suppress(OSError, ValueError, SyntaxError), Image.open(place.mask) as image:
        return np.asarray(image) if whole_pair and place.stamp and image.info.get(STAMP) == place.stamp else None
    return None


def _save(image: Image.Image, path: Path, scratch: Path, **how: Any) -> None:
    """Write a picture beside its place and rename it, so that it is whole or not there."""
    if path.suffix == ".jpg" and max(image.size) > JPEG_SIDE:
        path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(scratch / f"new{path.suffix}", **how)
    os.replace(scratch / f"new{path.suffix}", path)


def _write_skipped(path: Path, faults: list[tuple[str, str]], used: int) -> None:
    """`skipped.csv` and a warning where pictures cannot be used; else no such file."""
    path.unlink(missing_ok=True)
    if faults:
        with whole(path) as beside, beside.open("w", newline="", encoding="utf8", errors=ANY_NAME) as file:
            csv.writer(file).writerows([("file", "reason"), *faults])
        warnings.warn(left_out(len(faults), used + len(faults), faults[0][1]), stacklevel=4)
