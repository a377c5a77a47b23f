"""Masks of many pictures as files: `Segmenter.write`.

    masks/a.png      ids, shown in the classes' colours; of pictures a.jpg and a.png the second is a.png.png
    overlays/a.jpg   the picture, half under the colours
    masks.csv        file, mask, width, height, and of each class its share of the pixels
    skipped.csv      file and reason, of pictures that cannot be used, where there are any

A file gets its name once it is whole. Each mask carries what made it, Segmenter, settings and picture file: when the
same command runs again after a kill, masks of the same origin stay, all others are replaced. A picture that is no file
is segmented again. One process at a time writes into a folder; another waits.
"""

import csv
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.data.source import endings
from cause_lib.errors import InputError, Refusal, WriteError
from cause_lib.runs.given import config_of
from cause_lib.runs.pictures import class_shares, mask_image, overlay_image, picture_tensor
from cause_lib.runs.store import locked, whole
from cause_lib.runs.streaming import left_out, named, prepared

STAMP = "cause_lib"  # the text of a PNG that says what made it
JPEG_SIDE = 65500  # pixels; a JPEG has no longer sides


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
    if isinstance(pictures, (str, os.PathLike)) and Path(pictures).expanduser().resolve() in (
            out.resolve(), *out.resolve().parents):
        raise InputError(f"{out} lies in the folder of the pictures, which would be segmented again with its masks: "
                         "choose another place for them.")
    pairs = named(pictures)
    if isinstance(pictures, (str, os.PathLike, list, tuple)):
        pairs = list(pairs)
    place_of = _places(segment, out, crf)

    def prepare(name: str, picture: Any) -> tuple:
        place = place_of(name, picture)
        if (ids := _kept(place, overlay)) is not None:
            return place, ids
        image = picture_tensor(picture)
        return place, None, image if overlay else None, *segment._look(image)

    def finish(place: Place, ids: np.ndarray | None, image: Tensor | None = None, *look: Any) -> list:
        if new := ids is None:
            ids = segment._mask(*look, crf=crf).numpy()
            text = PngImagePlugin.PngInfo()
            text.add_text(STAMP, place.stamp)
            if image is not None:  # first, as the mask says that both are there
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
        scratch = beside.parent
        with beside.open("w", newline="", encoding="utf8") as file:
            lines = csv.writer(file)
            lines.writerow(["file", "mask", "width", "height", *segment.classes])
            total = len(pairs) if isinstance(pairs, list) else None
            bar = tqdm(prepared(pairs, prepare), total=total, desc="segment", leave=False)
            try:
                for name, ready in bar:
                    if not isinstance(ready, Exception):
                        lines.writerow(finish(*ready))
                    elif allow_corrupt == "stop":
                        raise ready
                    else:
                        faults.append((name, str(ready)))
            except BaseException as error:  # what was finished is listed even where the next picture, or Ctrl-C, stops
                if isinstance(error, OSError) and not isinstance(error, Refusal):
                    raise
                fault = error
    if fault is not None:
        raise fault
    _write_skipped(out / "skipped.csv", faults, sum(counts.values()))
    return Written(table, counts["written"], counts["kept"], len(faults))


def _places(segment: Any, out: Path, crf: bool) -> Callable[[str, Any], Place]:
    """Where the files of a picture go, by its name and itself."""
    origin = hashlib.sha256(json.dumps([config_of(segment, ""), segment.backbone.description, crf]).encode())
    for module in (segment.head, segment.probe):
        for key, value in module.state_dict().items():
            origin.update(key.encode() + value.cpu().numpy().tobytes())
    taken: set[str] = set()

    def place_of(name: str, picture: Any) -> Place:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise InputError(f"{name!r} names no file below {out}: give the picture another name.")
        stem = path.with_suffix("") if path.suffix.lower() in endings() else path
        path, stamp = path if str(stem) in taken else stem, ""
        if str(path) in taken:
            raise InputError(f"Several pictures are called {name!r}, and one's mask would replace another's: name them "
                             "apart.")
        taken.add(str(path))
        if isinstance(picture, (str, os.PathLike)) and (file := Path(picture).expanduser()).is_file():
            stat, digest = file.stat(), origin.copy()
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}".encode())
            stamp = digest.hexdigest()[:32]
        return Place(name, *(out / folder / f"{path}{ending}" for folder, ending in (("masks", ".png"),
                                                                                   ("overlays", ".jpg"))), stamp)

    return place_of


def _kept(place: Place, overlay: bool) -> np.ndarray | None:
    """The ids of a mask that is there and was made of the same picture by the same Segmenter; None: there is none."""
    if not place.stamp or overlay and not any(place.overlay.with_suffix(end).is_file() for end in (".jpg", ".png")):
        return None
    try:
        with Image.open(place.mask) as image:
            return np.asarray(image) if image.info.get(STAMP) == place.stamp else None
    except (OSError, ValueError, SyntaxError):
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
        with whole(path) as beside, beside.open("w", newline="", encoding="utf8") as file:
            csv.writer(file).writerows([("file", "reason"), *faults])
        warnings.warn(left_out(len(faults), used + len(faults), faults[0][1]), stacklevel=4)
