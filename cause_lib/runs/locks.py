"""Made once: of the processes that ask for the same artefact one makes it, and the others wait and find it.

Whoever makes an artefact holds an advisory lock on a file beside its place (flock). The operating system lets go of it
when its holder ends, however it ends, so nothing is ever left locked; and what lies half-written beside a place whose
lock is ours was left by a process that was killed, so it is removed. Where a file system knows no locks, processes may
make an artefact twice, with the same bits, and the first stays (store.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from cause_lib.errors import WriteError
from cause_lib.runs.store import checkpoint_path, is_complete

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # said where there are no locks


def is_made(folder: Path) -> bool:
    """`is_complete`, where what a maker that was killed at the very end did not put away is put away now."""
    if not is_complete(folder):
        return False
    if _lock_file(folder).exists():
        with contextlib.suppress(OSError), locked(folder):  # a folder that cannot be written can be read
            pass
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Until this ends, no other process makes the artefact `folder`; waits for one that does.

    Raises:
        OSError: the place cannot be written.
    """
    path = _lock_file(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path, folder)
    except OSError as error:
        raise WriteError(f"Cannot write below {folder.parent} ({error.strerror or error}): "
                      "choose a run_dir with room that can be written.") from error
    try:
        if descriptor is not None:
            _sweep(folder)
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is ours: whoever waits for it looks whether it is still there
            os.close(descriptor)


@contextlib.contextmanager
def made_once(folders: Sequence[Path], accelerator: Accelerator) -> Iterator[list[Path]]:
    """The locks of several artefacts, held by the first of a run's processes; gives those that are still to be made.

    Every process of the run gets the same list. Locks are taken in the order of names, so that runs which want some of
    the same artefacts never wait for each other in a circle.
    """
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            for folder in sorted(folders):
                stack.enter_context(locked(folder))
        accelerator.wait_for_everyone()
        wanted = [folder for folder in folders if not is_complete(folder)]
        accelerator.wait_for_everyone()  # nothing is written before all have looked
        yield wanted


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _take(path: Path, folder: Path) -> int | None:
    """The descriptor of the lock file, locked; None where the file system has no locks."""
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no locks")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    tqdm.write(f"Another process is making {folder}: waiting for it.")
                    told = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in UNKNOWN:
                raise
            path.unlink(missing_ok=True)
            return None
        os.close(descriptor)  # its last holder removed the file meanwhile: lock the new one


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written beside the artefact; its checkpoint, which is whole, stays."""
    mine = f".{folder.name}."
    for entry in list(os.scandir(folder.parent)):
        if entry.name.startswith(mine) and entry.name != _lock_file(folder).name:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
    if is_complete(folder):  # killed between the artefact's rename and this
        checkpoint_path(folder).unlink(missing_ok=True)
