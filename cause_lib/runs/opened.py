"""What names an artefact of a data set: its fingerprint and classes, without opening a folder that is as it was.

For a folder of pictures they are noted in `<run_dir>/.opened`, under the folder's state (`noted.state_of`), beside the
digests of its files. Notes that cannot be read or written are done without, and a folder that is warned of is opened
every time, so that the warning is seen.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cause_lib.config import Experiment
from cause_lib.data import SegmentationDataset
from cause_lib.data.folder import find_root
from cause_lib.data.noted import digests_below, load_digests, once, state_of
from cause_lib.data.source import endings
from cause_lib.runs.features import open_dataset
from cause_lib.runs.integrity import sealed, what_is_broken
from cause_lib.runs.store import library_version

MOST = 64  # notes kept, the latest


@dataclass(frozen=True)
class Opened:
    """What an artefact's name takes from a data set, as `SegmentationDataset` has it."""

    fingerprint: str
    classes: list[str]
    colors: np.ndarray  # uint8 (c, 3)


def facts_of(experiment: Experiment, role: str) -> Opened | SegmentationDataset:
    """The facts of the pictures of a role, `train` or `test`, of a run. Raises as `open_dataset`."""
    if experiment.dataset != "folder":
        return open_dataset(experiment, role, experiment.image_size)
    root = find_root(experiment.folder)
    splits = experiment.train_split, experiment.test_split
    state, quiet = once(("state", root, splits), lambda: state_of(root, splits))
    asked = [state, str(root), role, getattr(experiment, f"{role}_split"), getattr(experiment, f"{role}_images"),
             experiment.num_classes, experiment.allow_corrupt, endings(), library_version()]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    place = Path(experiment.run_dir) / ".opened"
    facts, digests = place / "facts.json", place / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    with suppress(KeyError, TypeError, ValueError):
        fingerprint, classes, colors = _read(facts)[key]
        return Opened(fingerprint, classes, np.array(colors, dtype=np.uint8))
    before = once(("digests", digests), lambda: load_digests(_read(digests)) or digests_below(root))
    opened = once(("facts", key), lambda: open_dataset(experiment, role, experiment.image_size))
    if Path(experiment.run_dir).is_dir():  # looking makes none
        once(("noted", key), lambda: _note(digests, digests_below(root), before))
        if quiet and not opened.warned:
            once(("noted", key, facts), lambda: _note(facts, dict(list(_read(facts).items())[1 - MOST:]) | {
                key: [opened.fingerprint, opened.classes, opened.colors.tolist()]}))
    return opened


def _note(path: Path, notes: dict, before: dict | None = None) -> None:
    with suppress(OSError):
        if notes != before:
            path.parent.mkdir(exist_ok=True)
            path.write_text(sealed(notes), encoding="utf8")  # half a note, as a kill leaves it, is read as none


def _read(path: Path) -> dict:
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        noted = json.loads(text := path.read_text(encoding="utf8"))
        if not what_is_broken(text, noted) and noted.pop("digest"):
            return noted
    return {}
