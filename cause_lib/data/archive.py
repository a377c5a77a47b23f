"""Archives that stay in their folder: a tar file is a list of paths, and paths can lead anywhere.

What is unpacked here are plain files and folders, with names below the folder that they are unpacked into. An archive
with any other name in it, absolute or by way of `..`, and one that would have us make a link or a device, is refused
before anything is written, on every Python. Where tarfile has a filter of its own (PEP 706: since 3.12, and in the
later releases before), that one looks at each member as well, and takes set-user-id bits and owners away.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from cause_lib.errors import InputError


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Unpack what lies at or below `members`, paths as they stand in the (not compressed) tar file, into `folder`.

    Raises:
        ValueError: it is no tar file, it has nothing at one of `members`, or it would write anything but files and
        folders below `folder`; nothing has been written then.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            inside = tar.getmembers()
            chosen = [info for info in inside if any(_is_below(info, member) for member in members)]
            _refuse(archive, inside, lambda info: _leads_out(info.name), "lies outside the folder it is unpacked into")
            _refuse(archive, chosen, lambda info: not (info.isfile() or info.isdir()), "is a link or a device")
            for member in members:
                if not any(_is_below(info, member) for info in chosen):
                    raise InputError(f"'{archive}' has nothing at '{member}', so it is another archive than it should "
                                     "be: delete it and try again.")
            tar.extractall(folder, chosen, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    except tarfile.TarError as error:
        raise InputError(f"'{archive}' is no tar file that can be read ({error}): delete it and try again.") from error


def _is_below(info: tarfile.TarInfo, member: str) -> bool:
    return PurePosixPath(info.name).is_relative_to(member)


def _leads_out(name: str) -> bool:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or windows.anchor != "" or ".." in (*posix.parts, *windows.parts)


def _refuse(archive: Path, members: Sequence[tarfile.TarInfo], wrong: Callable[[tarfile.TarInfo], bool],
            reason: str) -> None:
    if (info := next(filter(wrong, members), None)) is not None:
        raise InputError(f"'{archive}' was not unpacked, because {info.name!r} in it {reason}, which an archive of "
                         "pictures has no use for: delete it and fetch it from its authors.")
