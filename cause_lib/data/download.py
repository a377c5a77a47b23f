"""Fetching what a data set needs, by pooch; errors say the way out in one sentence.

By hand: `resume`, because pooch begins anew where its connection was cut, and VOC has 2 GB; and `unpack`, because
`pooch.Untar` lets tarfile refuse what leads out of its folder on Python 3.12 and later alone.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
from requests.exceptions import RequestException
from tqdm.contrib.concurrent import thread_map

from cause_lib.errors import InputError, Refusal, RunError, WriteError

BLOCK, PATIENCE = 2**16, 30  # bytes written at once, and seconds without an answer after which a connection is cut


def fetch(name: str, fetcher: pooch.Pooch, files: Sequence[str], layout: str, downloader=None) -> list[Path]:
    """The paths of `files` of the data set `name`, after fetching what is not there yet, or not right.

    layout: what to put where, for errors. downloader: one of pooch's; by default the one that fits the address. Raises
    RuntimeError if a file cannot be fetched, ValueError for another checksum, OSError if it cannot be written.
    """
    pooch.get_logger().setLevel("WARNING")  # one progress bar says more than a line a file

    def fetch_one(file: str) -> Path:
        with explained(name, file, fetcher, layout):
            (fetcher.abspath / file).parent.mkdir(parents=True, exist_ok=True)  # pooch's threads would race for it
            return Path(fetcher.fetch(file, downloader=downloader))

    return thread_map(fetch_one, files, max_workers=8, desc=name, unit="file", disable=len(files) == 1)


@contextmanager
def explained(name: str, file: str, fetcher: pooch.Pooch, layout: str) -> Iterator[None]:
    """Errors about `file` of the data set `name`, in one sentence with the way out."""
    try:
        yield
    except Refusal:
        raise
    except RequestException as error:
        raise RunError(f"{name} could not be downloaded ({type(error).__name__} on {file} from {fetcher.base_url}): "
                       f"try again, or {layout}") from error
    except ValueError as error:
        raise InputError(f"'{file}' from {fetcher.base_url} does not have its known SHA-256 and was not kept: try "
                         f"again, or {layout}") from error
    except OSError as error:
        raise WriteError(f"'{file}' cannot be written to '{fetcher.abspath}' ({error.strerror or error}): make room "
                         f"there and let it be written, or {layout}") from error


def resume(url: str, output_file: str, fetcher: pooch.Pooch | None = None) -> None:
    """A pooch downloader that goes on where a cut line or a killed process left off, in `<name>.part` beside the file.

    A server that ignores HTTP Range sends all of it, and the file starts anew; the checksum says whether it is right.
    """
    part = Path(output_file).with_name(f"{PurePosixPath(url).name}.part")
    with open(part, "ab") as file:

        def start_anew(answer, **_) -> None:
            if answer.status_code in (200, 416):  # all of it and not the rest; or more is there than the file has
                file.truncate(0)

        headers = {"Accept-Encoding": "identity", "Range": f"bytes={file.tell()}-"}
        download = pooch.HTTPDownloader(True, BLOCK, timeout=PATIENCE, headers=headers, hooks={"response": start_anew})
        download(url, file, fetcher)
    os.replace(part, output_file)


def unpack(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Unpack what lies at or below `members` of a tar file into `folder`, the rest is left out.

    Raises ValueError, before anything is written, if one of these leads out of `folder`, or is no file and no folder.
    """
    with tarfile.open(archive, "r:") as tar:
        chosen = [info for info in tar if any(PurePosixPath(info.name).is_relative_to(member) for member in members)]
        for info in chosen:
            if ".." in PureWindowsPath(info.name).parts or not (info.isfile() or info.isdir()):  # splits at / and at \
                raise InputError(f"'{archive}' was not unpacked, because {info.name!r} in it leads out of its folder, "
                                 "or is a link or a device: delete it and fetch it from its authors.")
        tar.extractall(folder, chosen, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
