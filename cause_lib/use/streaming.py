"""Many pictures one after the other, in constant memory: their names, and each made ready ahead of its use."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cause_lib.data.source import list_pictures
from cause_lib.errors import InputError


def named(pictures: Any) -> Iterator[tuple[str, Any]]:
    """Name and picture, one by one: of a folder the path below it, of a file its name, of anything else its number.

    Args:
        pictures: a folder, a file, or any iterable of what a Segmenter takes as one picture (files and folders among
            them), or of pairs (name, picture); it may have no end.

    Raises:
        ValueError: an empty name; a folder without pictures; or what is one picture, not several.
    """
    if isinstance(pictures, (str, os.PathLike)):
        if not os.fspath(pictures):
            raise InputError("The name of the pictures is empty: give that of a file or a folder ('.' is this one).")
        path = Path(pictures).expanduser()
        found = _without_labels(list_pictures(path), path) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} holds no pictures (jpg, png, webp, bmp, tif or gif).")
        for each in found:
            yield each.relative_to(path).as_posix() if path.is_dir() else path.name, each
        return
    if not isinstance(pictures, Iterable) or isinstance(pictures, bytes) or getattr(pictures, "ndim", 4) != 4:
        raise InputError(f"A folder or several pictures are wanted (a list, a generator of frames, an array "
                         f"(b, h, w, 3)), not {type(pictures).__name__}: of one picture call the Segmenter.")
    for number, picture in enumerate(pictures):
        if isinstance(picture, tuple) and len(picture) == 2 and isinstance(picture[0], str):
            yield picture
        elif isinstance(picture, (str, os.PathLike)):
            path = Path(picture).expanduser()
            yield from ((f"{path.name}/{name}" if path.is_dir() else name, one) for name, one in named(picture))
        else:
            yield f"{number:06d}", picture


def _without_labels(files: list[Path], folder: Path) -> list[Path]:
    """The files that lie in no folder `labels` beside a folder `images`; a warning counts the others."""
    kept = [file for file in files if not any(part.name == "labels" and (folder / part.parent / "images").is_dir()
                                              for part in file.relative_to(folder).parents)]
    if len(kept) < len(files):
        warnings.warn(f"{len(files) - len(kept)} files in '{folder}' are labels of images: passed over", stacklevel=3)
    return kept


def prepared(pictures: Iterable[tuple[str, Any]], prepare: Callable[[str, Any], Any]) -> Iterator[tuple[str, Any]]:
    """Each name with what `prepare` makes of name and picture, or with the error by which it refuses the picture.

    One is made ready, in a thread, while the one before it is used.
    """
    from cause_lib.runs.features import ahead  # which loads what training needs

    def each() -> Iterator[tuple[str, Any]]:
        for name, picture in pictures:
            try:
                ready = prepare(name, picture)
            except (ValueError, OSError) as error:
                ready = error
            yield name, ready

    return ahead(each(), depth=1)


def left_out(faults: int, total: int, first: str, where: str = "") -> str:
    """The sentence on pictures that cannot be used; InputError with it if none can be."""
    said = f"{faults} of {total} pictures{where} cannot be used"
    if faults == total:
        raise InputError(f"{said}; the first: {first}")
    return f"{said} and are left out (allow_corrupt='skip'); the first: {first}"
