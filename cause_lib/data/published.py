"""What the data sets of the published tables share: where they lie, and which files a split needs.

Each is looked for in $CAUSE_DATA/<its folder>, then in the user's cache. published.json holds how many pictures a split
has, and the names and colours of the classes, as published.
"""

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


def places(folder: str) -> list[Path]:
    """Where `folder` may lie: below $CAUSE_DATA, if that is set, and in the user's cache."""
    homes = os.environ.get("CAUSE_DATA"), pooch.os_cache("cause-book")
    return [Path(home).expanduser() / folder for home in homes if home]


def find_folder(tried: Sequence[Path], layout: str, name: str = "") -> Path:
    """The first of these places that is a folder. Raises FileNotFoundError that says where it looked."""
    for path in tried:
        if path.is_dir():
            return path.resolve()
    if files := [path for path in tried if path.is_file()]:
        raise NotFound(f"'{files[0]}' is a file, not a folder (an archive has to be unpacked first): {layout}")
    said = f"{name} is not on this machine, there is no folder" if name else "there is no folder"
    raise NotFound(f"{said} {' or '.join(repr(str(path)) for path in tried)}: {layout}")


def check_split(name: str, split: str, *others: str) -> None:
    """Raises ValueError for a split that was not published and is none of `others`."""
    if split not in (known := (*COUNTS[name], *others)):
        raise InputError(f"{name} has no split '{split}': use one of {', '.join(known)}")


def read_list(what: str, path: Path, layout: str) -> list[str]:
    """The names in a list of pictures, one a line, without folder and ending; what follows on a line is ignored."""
    if not path.is_file():
        raise NotFound(f"{what} lacks its list of pictures '{path}': {layout}")
    names = [Path(line.split()[0]).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError(f"the list of pictures '{path}' is empty: {layout}")
    return names


def open_pairs(what: str, root: Path, images: Sequence[Path], labels: Sequence[Path], classes: Mapping[str, Any],
               layout: str, **options: Any) -> Source:
    """Pictures and labels of `what`, "<data set> <split>", as `source.open_files` (also for the options) opens them.

    classes: name -> colour. Raises FileNotFoundError, which says how many files are missing, unless all are there.
    """
    folders = {path.parent for path in [*images, *labels]}
    present = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    if said := [f"{len(gap)} of {len(paths)} {kind} (the first is '{gap[0]}')"
                for kind, paths in (("pictures", images), ("labels", labels))
                if (gap := [path for path in paths if path.name not in present[path.parent]])]:
        raise NotFound(f"{what} lacks {' and '.join(said)}: {layout}")
    return open_files(root, images, labels, classes, classes.values(), extra=what.split()[0], **options)
