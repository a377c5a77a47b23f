"""What the data sets of the published tables share: where they lie, and which files a split needs.

published.json holds the pictures of each split, and the names and colours of the classes, as published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pooch

from cause_lib.data.source import Source, open_files
from cause_lib.errors import InputError, NotFound

FACTS = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
COUNTS = {name: facts["pictures"] for name, facts in FACTS.items()}  # set -> split -> pictures


class MissingFiles(NotFound):
    """A split needs files that are not there: the message in one sentence, all of them in `paths`."""

    def __init__(self, message: str, paths: Sequence[Path]):
        super().__init__(message)
        self.paths = list(paths)


def places(folder: str) -> list[Path]:
    """Where `folder` may lie: below $CAUSE_DATA, if that is set, and in the user's cache."""
    return [Path(home).expanduser() / folder for home in (os.environ.get("CAUSE_DATA"), pooch.os_cache("cause-book")) if home]


def find_folder(tried: Sequence[Path], layout: str, name: str = "") -> Path:
    """The first of these places that is a folder. Raises FileNotFoundError that says where it looked."""
    for path in tried:
        if path.is_dir():
            return path.resolve()
    said = f"{name} is not on this machine, there is no folder" if name else "there is no folder"
    raise NotFound(f"{said} {' or '.join(repr(str(path)) for path in tried)}: {layout}")


def check_split(name: str, split: str, *others: str) -> None:
    """Raises ValueError for a split that was not published and is none of `others`."""
    if split not in (known := (*COUNTS[name], *others)):
        raise InputError(f"{name} has no split '{split}': use one of {', '.join(known)}")


def read_list(what: str, path: Path, layout: str) -> list[str]:
    """The names in a list of pictures, one a line, without folder and ending; what follows on a line is ignored.

    Raises MissingFiles if there is no such list, ValueError if it is empty.
    """
    if not path.is_file():
        raise MissingFiles(f"{what} lacks its list of pictures '{path}': {layout}", [path])
    names = [Path(line.split()[0]).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError(f"the list of pictures '{path}' is empty: {layout}")
    return names


def open_pairs(what: str, root: Path, images: Sequence[Path], labels: Sequence[Path], classes: Mapping[str, Any],
               layout: str, **options: Any) -> Source:
    """Pictures and labels of `what`, "<data set> <split>", as `source.open_files` (also for the options) opens them.

    classes: name -> colour. Raises MissingFiles unless every file is there.
    """
    require(what, {"pictures": images, "labels": labels}, layout)
    return open_files(root, images, labels, classes, classes.values(), extra=what.split()[0], **options)


def require(what: str, groups: Mapping[str, Sequence[Path]], layout: str) -> None:
    """Raises MissingFiles unless all paths of all groups ({"pictures": paths, ...}) are there."""
    folders = {path.parent for paths in groups.values() for path in paths}
    present = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    gaps = {kind: [path for path in paths if path.name not in present[path.parent]] for kind, paths in groups.items()}
    said = [f"{len(gap)} of {len(groups[kind])} {kind} (the first is '{gap[0]}')" for kind, gap in gaps.items() if gap]
    if said:
        raise MissingFiles(f"{what} lacks {' and '.join(said)}: {layout}", sum(gaps.values(), []))
