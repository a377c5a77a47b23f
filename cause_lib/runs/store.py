"""Artefacts: what a stage leaves, as a folder that is whole or absent, and that is made once.

A folder is written beside its place, flushed to disk and renamed (`whole`). `artefact.json` says what made it. A stage
under way keeps one checkpoint file beside the folder, so that a kill costs a few updates and changes no bit.

Of the processes that ask for an artefact one makes it: it holds a lock on a file beside it (`locked`), which the
operating system drops when its holder ends, even by a kill; what lies half-written there the next holder removes.
Without locks an artefact may be made twice, to the same bits.

Written here because joblib's cache pickles its results, DVC and MLflow want a repository or a server, and none of them
has checkpoints of unfinished work. Here an artefact is a folder of JSON and safetensors that other programs can read.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from cause_lib.errors import InputError, NotFound, Refusal, WriteError
from cause_lib.metrics import scores
from cause_lib.runs.integrity import (crc32_of, digests, sealed, what_cannot_be, what_changed, what_is_broken,
                                      what_is_foreign)
from cause_lib.runs.version import library_version, same_bits
from cause_lib.weights import all_finite

if TYPE_CHECKING:
    from accelerate import Accelerator

FORMAT = 1  # of artefact folders and checkpoints; one more whenever files of before can no longer be read
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # of a file system without them
ROOM = "choose a run_dir with room that can be written"


@contextlib.contextmanager
def whole(path: str | Path, what: str = "", way_out: str = "make room, or choose another place", *,
          last: str | None = None) -> Iterator[Path]:
    """A place for a new file or folder, which is flushed and gets the name `path` when the block ends without an error.

    Until then `path` is as it was before. Nothing half-written is left, but by a kill, see `locked`. Yields the path to
    write a file to, or to make a folder at.

    Args:
        path: its folder is made. A file that is there is replaced; a folder that is there is an error.
        what, way_out: what is written, and what to do, for the error: `Cannot write {what} {path} (why): {way_out}.`
        last: for a folder that may be there: its files are replaced one by one, the one of this name last.

    Raises:
        OSError: it cannot be written; what was there stays. Errors of the library itself pass as they are.
    """
    place = Path(path).absolute() if Path(path).name != ".." else Path(path).resolve()
    scratch = place.with_name(f".{place.name}.{secrets.token_hex(4)}")  # on the same file system; `_sweep` knows it
    written = scratch / place.name  # files too get a folder: safetensors writes beside its place first
    try:
        scratch.mkdir(parents=True)
        yield written
        for part in (*written.rglob("*"), written):
            _flush(part)
        if last is not None and place.is_dir():
            for part in sorted(written.iterdir(), key=lambda part: part.name == last):
                os.replace(part, place / part.name)
        elif place.is_dir() and (written.is_file() or any(place.iterdir())):
            raise OSError("a folder of that name is in the way: move it away")
        else:
            os.replace(written, place)
        _flush(place.parent)
    except Refusal:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WriteError(f"Cannot write {what}{' ' * bool(what)}{path} ({reason}): {way_out}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, UTF-8, see `whole`."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf8")


def artefact_folder(run_dir: str | Path, stage: str, label: str, depends: dict[str, Any]) -> Path:
    """Where the artefact of a stage goes: run_dir/stage/label-hash, the hash over what it depends on."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:8]
    label = re.sub(r"[^\w.+-]+", "_", label).strip("_.").encode()[:120].decode(errors="ignore")  # a name has 255 bytes
    return Path(run_dir) / stage / f"{label}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether the artefact is there; a folder under way is not. Warns, once, where other numeric code made it, and
    raises ValueError where it, or a file of it, is damaged (integrity.py), or in a format that this version does not
    read."""
    return _record_of_whole(folder) is not None


def _record_of_whole(folder: Path) -> dict[str, Any] | None:
    if not (path := folder / "artefact.json").is_file():
        return None
    _recognise(folder)
    record = _read_json(path)
    for name in record.get("files", ()):
        _refuse_changed(folder / name, record)
    return record


def _refuse_changed(path: Path, record: dict[str, Any] | None = None) -> None:
    """Raise for a file that is not, or no longer, the one that its artefact, of this record, was written with."""
    if record is None and (beside := path.with_name("artefact.json")).is_file():
        record = _read_json(beside)
    try:
        reason = what_changed(record or {}, path)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _damaged(path, error) from None
    if reason:
        raise _damaged(path, reason)


@functools.cache
def _recognise(folder: Path) -> None:
    record = _read_json(folder / "artefact.json")
    theirs, ours = record.get("library", "unknown"), library_version()
    if (form := record.get("format", 1)) != FORMAT:
        raise InputError(f"{folder} has format {form}, and cause_lib {ours} reads format {FORMAT}: use the version "
                         f"that made it ({theirs}), or remove the folder and run its stage again.")
    if not same_bits(theirs, ours):
        warnings.warn(f"{folder} was made by cause_lib {theirs}, and this is {ours}: it is used as it is; remove the "
                      "folder to have it made anew.", stacklevel=4)


def made_by_other(folder: Path) -> str:
    """The version of other numeric code that had a part in an artefact, "" where there is none, or no record of it."""
    with contextlib.suppress(Refusal):
        record = _read_json(folder / "artefact.json")
        for theirs in (record.get("library", "unknown"), *record.get("libraries", [])):
            if not same_bits(theirs, library_version()):
                return theirs
    return ""


def put_aside(folder: Path) -> Path | None:
    """Take an artefact of other numeric code out of the way, so that it is made anew: into `.made-by-<version>` of its
    run_dir; features, which can be computed again, are removed. Returns where it is now, None where it was not."""
    with locked(folder):
        if not (theirs := made_by_other(folder)):
            return None
        place = folder.parent.parent / f".made-by-{theirs}" / folder.parent.name / folder.name
        if folder.parent.name == "features" or place.exists():
            shutil.rmtree(folder)
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, place)
        return place


def libraries_of(upstream: Iterable[Path]) -> list[str]:
    """The versions of the library that had a part in what is made now from these artefacts: this one, and theirs."""
    records = (_read_json(folder / "artefact.json") for folder in upstream)
    theirs = ([record.get("library", "unknown"), *record.get("libraries", [])] for record in records)
    return sorted({library_version()}.union(*theirs))


def read_record(folder: str | Path) -> dict[str, Any]:
    """What made an artefact: its `metrics.json` if it has one, else its `artefact.json`. Raises FileNotFoundError where
    the folder is not an artefact, or one of its two files is missing, ValueError where that file is damaged."""
    metrics, path = Path(folder) / "metrics.json", Path(folder) / "artefact.json"
    if metrics.is_file():
        _refuse_changed(metrics)
        return _read_json(metrics)
    if not path.is_file():
        raise NotFound(f"{folder} is not an artefact (it has no artefact.json): run its stage first.")
    if str((record := _read_json(path)).get("stage")).endswith("evaluation"):
        raise _missing(metrics)
    return record


def as_now(record: dict[str, Any]) -> dict[str, Any]:
    """The same record, its results with the names of now: `miou_all` is now `miou`, and `miou` is `miou_present`."""
    for one in (one for one in record.get("results", []) if "miou_present" not in one):
        if "confusion" in one:  # which a saved Segmenter leaves out
            one |= scores(np.array(one["confusion"]))
        elif "miou_all" in one:
            one |= {"miou_present": one["miou"], "miou": one["miou_all"]}
        one.pop("miou_all", None)
    if "dataset" in record and record.get("results") and all(one.get("miou", 0) is None for one in record["results"]):
        record["dataset"]["labelled"] = False  # as for no labels, where all is void
    return record


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record, reason = json.loads(text := path.read_text(encoding="utf8")), "it holds no record"
        if isinstance(record, dict) and record:
            reason = what_is_broken(text, record) or what_is_foreign(record, path.parent)
            reason = reason or what_cannot_be(record := as_now(record))
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError) as error:  # of UTF-8 too
        raise _damaged(path, error) from None
    if reason:
        raise _damaged(path, reason)
    return record


def _damaged(path: Path, reason: object) -> InputError:
    reason = " ".join(str(reason).split())  # safetensors' have several lines
    return InputError(f"{path} is damaged ({reason}): remove {path.parent} and run its stage again.")


def _missing(path: Path) -> NotFound:
    return NotFound(f"{path} is missing: remove {path.parent} and run its stage again.")


@contextlib.contextmanager
def new_artefact(folder: Path, way_out: str = ROOM) -> Iterator[Path]:
    """An empty folder for an artefact's files, `write_record`'s among them; then it is the artefact, see `whole`.

    If another process has put the artefact there meanwhile, theirs stays."""
    try:
        with whole(folder, "the artefact", way_out) as beside:
            beside.mkdir()
            yield beside
    except WriteError:
        if not is_complete(folder):
            raise
    checkpoint_path(folder).unlink(missing_ok=True)


def write_record(folder: Path, record: dict[str, Any], tensors: dict[str, dict[str, Tensor]] | None = None,
                 metrics: dict[str, Any] | None = None, *, unhashed: tuple[str, ...] = ()) -> None:
    """Write into a folder of `new_artefact`: `artefact.json`, which is the record with format, version and the digests
    of all files there but those `unhashed`, `metrics.json`, and the tensors, file stem -> name -> tensor, each file a
    safetensors file."""
    for stem, named in (tensors or {}).items():
        _save_tensors(named, folder / f"{stem}.safetensors")
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf8")
    record = {"format": FORMAT, "library": library_version()} | record | digests(folder, unhashed)
    (folder / "artefact.json").write_text(sealed(record), encoding="utf8")


def write_artefact(folder: Path, record: dict[str, Any], tensors: dict[str, dict[str, Tensor]] | None = None,
                   metrics: dict[str, Any] | None = None) -> Path:
    """Write a whole artefact folder at once: `new_artefact` and `write_record`. Returns `folder`."""
    with new_artefact(folder) as beside:
        write_record(beside, record, tensors, metrics)
    return folder


def _save_tensors(named: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in named.items()}, path, metadata=metadata)


def load_tensors(path: Path, needs: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises FileNotFoundError where there is none, ValueError where it
    is damaged, lacks one of the names that it `needs`, or holds numbers that are not finite."""
    _refuse_changed(path)
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except Exception as error:  # safetensors raises a type of its own
        raise _damaged(path, error) from None
    for name in dict.fromkeys((*needs, *tensors)):
        if name not in tensors:
            raise _damaged(path, f"it has no {name}")
        if not all_finite(tensors[name]):
            raise _damaged(path, f"{name} has numbers that are not finite")
    return tensors


def checkpoint_path(folder: Path) -> Path:
    """The one file in which a stage under way keeps its state."""
    return folder.with_name(folder.name + ".checkpoint.safetensors")


def save_checkpoint(folder: Path, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace a stage's checkpoint. `state` is anything JSON holds; both come back from `load_checkpoint`."""
    about = {"state": json.dumps(state), "library": library_version(), "format": str(FORMAT), "artefact": folder.name}
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    about["crc32"] = crc32_of(tensors, about["state"])
    with whole(checkpoint_path(folder), "the checkpoint", ROOM) as beside:
        _save_tensors(tensors, beside, about)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """State and tensors of the latest checkpoint, or None where there is none.

    One that is damaged, of another format or of other numeric code (version.py) is removed, with a warning."""
    path = checkpoint_path(folder)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            state, tensors = json.loads(about["state"]), {name: file.get_tensor(name) for name in file.keys()}
        if int(about.get("format", 1)) == FORMAT and same_bits(about["library"], library_version()):
            if about.get("artefact", folder.name) != folder.name:
                raise InputError(f"it is that of {about['artefact']}")
            if "crc32" in about and about["crc32"] != crc32_of(tensors, about["state"]):  # those of before have none
                raise InputError("it was changed since it was written")
            return state, tensors
        reason = f"was written by cause_lib {about['library']}, and this is {library_version()}"
    except Exception as error:  # safetensors raises a type of its own; metadata may be anything
        reason = f"is damaged ({' '.join(str(error).split())})"
    warnings.warn(f"The checkpoint {path} {reason}: it is removed, and the stage begins anew.", stacklevel=3)
    path.unlink(missing_ok=True)
    return None


def is_made(folder: Path) -> bool:
    """`is_complete`, and so are those that it was made from, as far as they are there; FileNotFoundError where a folder
    has lost its artefact.json. What a maker that was killed at the very end left beside it is removed."""
    if (record := _record_of_whole(folder)) is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise _missing(folder / "artefact.json")
        return False
    for place in (record.get("upstream") or {}).values():
        is_made(folder.parent.parent / place)
    if _lock_file(folder).exists():
        with contextlib.suppress(OSError), locked(folder):  # a folder that cannot be written can be read
            pass
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Until this ends, no other process makes the artefact `folder`; waits for one that does. Raises OSError."""
    path = _lock_file(folder)
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock, a file that is there, would outlive its holder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
        if not lock.is_locked:
            tqdm.write(f"Another process is making {folder}: waiting for it.")
            lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise WriteError(f"Cannot write below {folder.parent} ({error.strerror or error}): {ROOM}.") from error
        path.unlink(missing_ok=True)
    try:
        if lock.is_locked:
            _sweep(folder)
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is ours: to whoever waits for it, a lock on a removed file is none
            lock.release()


@contextlib.contextmanager
def made_once(folders: Sequence[Path], accelerator: "Accelerator") -> Iterator[list[Path]]:
    """The locks of several artefacts, held by the first of a run's processes; all get those still to be made."""
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            for folder in sorted(folders):  # in the same order everywhere: runs never wait for each other in a circle
                stack.enter_context(locked(folder))
        accelerator.wait_for_everyone()
        wanted = [folder for folder in folders if not is_complete(folder)]
        accelerator.wait_for_everyone()  # nothing is written before all have looked
        yield wanted


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written beside the artefact; its checkpoint, which is whole, stays."""
    for path in list(folder.parent.iterdir()):
        if path.name.startswith(f".{folder.name}.") and path != _lock_file(folder):
            with contextlib.suppress(OSError):
                path.unlink()  # a file or a link; a folder refuses
            shutil.rmtree(path, ignore_errors=True)
    if is_complete(folder):  # killed between the artefact's rename and this
        checkpoint_path(folder).unlink(missing_ok=True)
