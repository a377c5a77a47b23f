"""What is known of files by their sizes and times, as git's index knows it: digests, and whether a folder is as it was.

A file whose size, times of content and of status, and number in the file system are unchanged keeps its digest. One
that was changed within RACY of the reading is read again the next time: a later change could leave the same times.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import PIL

RACY = 2_000_000_000  # ns, the coarsest times of file systems in use
RULE = f"1, Pillow {PIL.__version__}"  # of digests; others are not taken
_DIGESTS: dict[str, tuple[list[int], str, bool]] = {}  # file -> its stamp, digest, and whether that may be noted
SAID: set[tuple[type, str]] = set()  # warnings that were given in this process
_LOOK: ContextVar[dict | None] = ContextVar("look", default=None)


def stamp_of(found: os.stat_result) -> list[int]:
    """What changes with a file: size, times in ns of its content and of its status, number in the file system."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_racy(stamp: list[int], now: int) -> bool:
    """Whether a file may have been changed after it was read at `now`, in ns, and not show it by its times."""
    return max(stamp[1:3]) > now - RACY


def digest_by(path: Path, found: os.stat_result, read: Callable[[Path], str]) -> str:
    """The digest that `read` makes of a file, made anew where its stamp has changed."""
    stamp, known = stamp_of(found), _DIGESTS.get(str(path))
    if known is None or known[0] != stamp:
        now = time.time_ns()
        _DIGESTS[str(path)] = known = stamp, read(path), not is_racy(stamp, now)
    return known[1]


def stamps_of(files: Iterable[Path]) -> dict[Path, list[int]]:
    """Size and time of content of those of these files that are there; other rights are no change."""
    found = {}
    for path in files:
        with suppress(OSError):
            found[path] = stamp_of(path.stat())[:2]
    return found


def load_digests(noted: dict[str, Any]) -> None:
    """Take digests that `digests_below` gave; those of another rule, or form, are not."""
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        for path, (*stamp, digest) in noted["files"].items() if noted["rule"] == RULE else ():
            _DIGESTS.setdefault(path, (stamp, digest, True))


def digests_below(root: Path) -> dict[str, Any]:
    """The digests of files below a folder, as they are written."""
    inside = str(root) + os.sep
    return {"rule": RULE, "files": {path: [*stamp, digest] for path, (stamp, digest, keep) in _DIGESTS.items()
                                    if keep and path.startswith(inside)}}


@contextmanager
def one_look() -> Iterator[None]:
    """Until the outermost of these ends, a folder counts as it was when it was first looked at (`once`)."""
    before = _LOOK.set(_LOOK.get() if _LOOK.get() is not None else {})
    try:
        yield
    finally:
        _LOOK.reset(before)


def is_looking() -> bool:
    """Whether this is within `one_look`."""
    return _LOOK.get() is not None


def once(key: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns; within `one_look`, made once for a key."""
    if (known := _LOOK.get()) is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


@contextmanager
def said_once() -> Iterator[list[warnings.WarningMessage]]:
    """Collects the warnings of a block; at its end those are given that were not yet given in this process."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield said
    finally:
        for one in said:
            if (key := (one.category, str(one.message))) not in SAID:
                SAID.add(key)
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def state_of(root: Path, splits: Iterable[str | None] = ()) -> tuple[str, bool]:
    """A digest of the names and stamps of all that a folder of pictures is made of, and whether it may be noted.

    That is classes.json, images/ and labels/ with all below, in the folder, those in it and `splits`; else the names.
    """
    now, entries, walked = time.time_ns(), [], set()
    todo = [*((str(root / (split or "")), 1, ()) for split in splits), (str(root), 0, ())]  # the last one first
    while todo:
        folder, depth, seen = todo.pop()
        if (place := os.path.realpath(folder)) in (seen or walked):  # a circle of links, or a split seen before
            continue
        walked.add(place)
        with suppress(OSError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if (whole := depth > 1 or entry.name in ("images", "labels")) or entry.name == "classes.json":
                    with suppress(OSError):
                        entries.append((entry.path, stamp_of(entry.stat())))
                else:
                    entries.append((depth, entry.name))
                if entry.is_dir() and (whole or depth == 0):
                    todo.append((entry.path, 2 if whole else 1, (*seen, place)))
    quiet = not any(isinstance(stamp, list) and is_racy(stamp, now) for _, stamp in entries)
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest(), quiet
