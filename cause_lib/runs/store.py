"""Artefacts: what a stage leaves behind, as a folder that is whole or absent.

A folder is written beside its place, flushed to disk and renamed; `artefact.json` says what made it, with the version
of the library and the format of the files. A stage that is under way keeps one checkpoint file beside the folder,
replaced as a whole, so that a kill costs a few updates, no bit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cause_lib.errors import InputError, NotFound, WriteError
from cause_lib import __version__
from cause_lib.weights import all_finite

FORMAT = 1  # of artefact folders and checkpoints; one more whenever files of before can no longer be read


@functools.cache
def library_version() -> str:
    """The library's version and the first digits of the SHA-256 of its sources, as `0.1.0+1a2b3c4d`."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


def artefact_folder(run_dir: str | Path, stage: str, label: str, depends: dict[str, Any]) -> Path:
    """Where the artefact of a stage goes: run_dir/stage/label-hash, the hash over what it depends on."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:8]
    label = re.sub(r"[^\w.+-]+", "_", label).strip("_.").encode()[:120].decode(errors="ignore")  # a name has 255 bytes
    return Path(run_dir) / stage / f"{label}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether the artefact is there; a folder under way is not. Warns, once, where another version made it.

    Raises:
        ValueError: it is there, and damaged, or in a format that this version does not read.
    """
    if not (folder / "artefact.json").is_file():
        return False
    _recognise(folder)
    return True


@functools.cache
def _recognise(folder: Path) -> None:
    record = _read_json(folder / "artefact.json")
    theirs, ours = record.get("library", "unknown"), library_version()
    if (form := record.get("format", FORMAT)) != FORMAT:
        raise InputError(f"{folder} has format {form}, and cause_lib {ours} reads format {FORMAT}: use the version "
                         f"that made it ({theirs}), or remove the folder and run its stage again.")
    if theirs != ours:
        warnings.warn(f"{folder} was made by cause_lib {theirs}, and this is {ours}: it is used as it is; remove the "
                      "folder to have it made anew.", stacklevel=4)


def libraries_of(upstream: Iterable[Path]) -> list[str]:
    """The versions of the library that had a part in what is made now from these artefacts: this one, and theirs."""
    records = [_read_json(folder / "artefact.json") for folder in upstream]
    return sorted({library_version()}.union(*([record.get("library", "unknown"), *record.get("libraries", [])]
                                              for record in records)))


def read_record(folder: str | Path) -> dict[str, Any]:
    """What made an artefact: its `metrics.json` if it has one, else its `artefact.json`.

    Raises:
        FileNotFoundError: the folder is not an artefact. ValueError: that file is damaged.
    """
    for name in ("metrics.json", "artefact.json"):
        if (Path(folder) / name).is_file():
            return _read_json(Path(folder) / name)
    raise NotFound(f"{folder} is not an artefact (it has no artefact.json): run its stage first.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(record, dict) or not record:
            raise InputError("it holds no record")
    except (ValueError, OSError, RecursionError) as error:  # of JSON and of UTF-8 too
        raise InputError(f"{path} is damaged ({error}): remove {path.parent} and run its stage again.") from None
    return record


def write_artefact(folder: Path, record: dict[str, Any], tensors: dict[str, dict[str, Tensor]] | None = None,
                   metrics: dict[str, Any] | None = None, files: dict[str, Path] | None = None) -> Path:
    """Write a whole artefact folder at once.

    Args:
        folder: its place; if another process has put it there meanwhile, theirs stays.
        record: goes to `artefact.json`, with format and version. metrics: goes to `metrics.json`.
        tensors: file stem -> name -> tensor, each file a safetensors file.
        files: file name -> a file that is moved in.

    Raises:
        OSError: the place cannot be written; nothing half-written is left.
    """
    beside = beside_of(folder)
    try:
        beside.mkdir(parents=True)
        for stem, named in (tensors or {}).items():
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in named.items()},
                      beside / f"{stem}.safetensors")
        for name, source in (files or {}).items():
            os.replace(source, beside / name)
        for name, content in (("metrics.json", metrics), ("artefact.json", {"format": FORMAT, "library": library_version()} | record)):
            if content is not None:
                (beside / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")
        for path in (*beside.iterdir(), beside):
            _flush(path)
        try:
            os.replace(beside, folder)
        except OSError as error:
            if folder.is_dir() and not is_complete(folder):
                error.strerror = "a folder of that name, which is no artefact, is in the way: move it away"
            if not is_complete(folder):
                raise
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"Cannot write the artefact {folder} ({getattr(error, 'strerror', None) or error}): "
                      "choose a run_dir with room that can be written.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    checkpoint_path(folder).unlink(missing_ok=True)
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8, that is whole or as it was before at every moment; its folder is made.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    beside = beside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf8")
        _flush(beside)
        os.replace(beside, path)
    except OSError as error:
        raise WriteError(f"Cannot write {path} ({error.strerror or error}): make room, or choose another place.") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def beside_of(folder: Path, suffix: str = "") -> Path:
    """Where what becomes part of an artefact is written first: a name of its own, on the same file system."""
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{suffix}")


def load_tensors(path: Path, needs: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is damaged, lacks one of the names that it `needs`, or holds
        numbers that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        missing = [name for name in needs if name not in tensors]
        if missing:
            raise InputError(f"it has no {missing[0]}")
        endless = [name for name, value in tensors.items() if not all_finite(value)]
        if endless:
            raise InputError(f"{endless[0]} has numbers that are not finite")
        return tensors
    except FileNotFoundError:
        raise NotFound(f"{path} is missing: remove {path.parent} and run its stage again.") from None
    except Exception as error:  # safetensors raises a type of its own
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({reason}): remove {path.parent} and run its stage again.") from None


def checkpoint_path(folder: Path) -> Path:
    """The one file in which a stage under way keeps its state."""
    return folder.with_name(folder.name + ".checkpoint.safetensors")


def save_checkpoint(folder: Path, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace a stage's checkpoint. `state` is anything JSON holds; both come back from `load_checkpoint`."""
    path = checkpoint_path(folder)
    beside = beside_of(folder, ".checkpoint")
    try:
        beside.mkdir(parents=True)  # a folder, since safetensors too writes beside its place first
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, beside / path.name,
                  metadata={"state": json.dumps(state), "library": library_version()})
        _flush(beside / path.name)
        os.replace(beside / path.name, path)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"Cannot write the checkpoint {path} ({getattr(error, 'strerror', None) or error}): "
                      "choose a run_dir with room that can be written.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """State and tensors of the latest checkpoint, or None where there is none.

    One that is damaged, or was written by another version of the library, which would go on to other bits, is removed
    with a warning: the stage begins anew.
    """
    path = checkpoint_path(folder)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            written, state = file.metadata()["library"], json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        ours = library_version()
        reason = None if written == ours else f"was written by cause_lib {written}, and this is {ours}"
    except Exception as error:  # safetensors raises a type of its own; metadata may be anything
        reason = f"is damaged ({' '.join(str(error).split())})"
    if reason is None:
        return state, tensors
    warnings.warn(f"The checkpoint {path} {reason}: it is removed, and the stage begins anew.", stacklevel=3)
    path.unlink(missing_ok=True)
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
