"""What is read is what was written: digests of files and records, and numbers that an evaluation can have given.

`artefact.json` has three entries for this, which artefacts of before lack; those are read as they are.

    artefact   the name of its folder, so that another run's is not taken for this one
    files      file name -> SHA-256 of every file beside it
    digest     SHA-256 of its own text, taken while this entry is empty (`sealed`); a saved Segmenter's config.json too

Each file is hashed when it is first read in a process, and again once it changes: 0.7 s for a GB, hence some tenths of
a second for a finished run of the published size, which has less than 100 MB. Cached tokens may have many GB. They have
a CRC-32 of each view instead, `crc32` of their record, which is held against a view when that is first read: 0.25 s for
a GB that is read, in the thread that reads ahead, and nothing for what is not read (runs/features.py). A checkpoint has
one CRC-32, and the name of its artefact. All this finds damage and mix-ups; people can write a digest, too.
"""

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cause_lib.metrics import scores
from cause_lib.weights import file_sha256


def sealed(record: dict[str, Any]) -> str:
    """A record as the text of a JSON file, with `digest`, by which `what_is_broken` knows whether it was changed."""
    text = json.dumps(record | {"digest": ""}, indent=1, allow_nan=False) + "\n"
    return f'{text[:-4]}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def what_is_broken(text: str, record: dict[str, Any]) -> str:
    """Why this is not the text that `sealed` made; "" if it is, or has no `digest`."""
    digest = record.get("digest")
    blank = text.replace(digest, "") if isinstance(digest, str) else ""
    if digest is not None and hashlib.sha256(blank.encode()).hexdigest() != digest:
        return "it was changed since it was written, its digest is not that of its text"
    return ""


def digests(folder: Path, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries `artefact` and `files` of a folder that is written, `but` for the files of these names."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in but)
    return {"artefact": folder.name, "files": {path.name: file_sha256(path) for path in paths}}


def what_is_foreign(record: dict[str, Any], folder: Path) -> str:
    """Why an `artefact.json` does not belong to the folder that it is in; "" if it does, or is of before."""
    if ("files" in record) != ("digest" in record):
        return "one of its entries digest and files is missing"
    name = record.get("artefact", folder.name)
    if name != folder.name and re.search("-[0-9a-f]{8}$", folder.name):  # another name is a copy's, which may have any
        return f"it is that of {name}"
    return ""


def what_changed(record: dict[str, Any], path: Path) -> str:
    """Why a file is not the one that the `artefact.json` beside it was written with; "" if it is, or that is of before.
    Raises OSError where it cannot be read."""
    if "files" not in record:
        return ""
    if (wanted := record["files"].get(path.name)) is None:
        return "artefact.json does not name it"
    return "" if file_sha256(path) == wanted else "its SHA-256 is not the one in artefact.json"


def what_cannot_be(record: dict[str, Any]) -> str:
    """What no evaluation wrote into `results`: none at all, numbers beyond [0, 1], an assignment that is no matching,
    or numbers that their table of counts does not give; "" if there is nothing of the kind. Odd types raise."""
    if "results" in record and not record["results"]:
        return "it has no results"
    for i, one in enumerate(record.get("results", ())):
        for name in ("miou", "miou_present", "miou_per_image", "pacc"):
            value = one.get(name)
            if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
                return f"results[{i}] has the {name} {value}, which is not in [0, 1]"
        assignment, counts = one.get("assignment", []), np.array(one.get("confusion", []))
        c = one.get("num_clusters", len(assignment))
        if "assignment" in one and (len(assignment) != c or {*assignment} != {*range(c)}):
            return f"results[{i}] has an assignment that matches no {c} clusters to {c} classes"
        if "confusion" not in one:  # which a saved Segmenter leaves out
            continue
        if counts.shape != (len(counts),) * 2 or counts.dtype.kind != "i" or (counts < 0).any():
            return f"results[{i}] has a confusion that is no square table of counts"
        for name, found in scores(counts, one.get("num_classes")).items():
            if not _alike(one.get(name), found):
                return f"results[{i}] has another {name} than its confusion gives"
    return ""


def crc32_of(tensors: dict[str, Tensor], text: str) -> str:
    """CRC-32 (hex) of the tensors of a checkpoint, all on the CPU, with names, dtypes and shapes, and of a text."""
    crc32 = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc32 = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc32)
        crc32 = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy(), crc32)
    return f"{crc32:08x}"


def _alike(one: Any, other: Any) -> bool:
    """Whether two numbers, or two lists of them, are the same but for rounding; None is like None alone."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other or None not in (one, other) and abs(one - other) < 1e-6
