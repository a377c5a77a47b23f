"""Pascal VOC 2012, segmentation: 1,464 + 1,449 photographs, 20 kinds of objects and the background.

Looked for in $CAUSE_DATA/pascalvoc, then in the user's cache, in the official layout below VOCdevkit/VOC2012:

    JPEGImages/<name>.jpg
    SegmentationClass/<name>.png                       class ids 0 to 20, 255 = void (outlines and what is unclear)
    ImageSets/Segmentation/{train,val,trainval}.txt    one <name> a line

else fetched from its authors (2 GB, going on where it was cut off), held against the archive's SHA-256, and unpacked.
Where ImageSets/Segmentation has a trainaug.txt too, the split `trainaug` reads its labels from SegmentationClassAug.
Ids above 20 other than 255, which the released code makes void, are an error here: the file would not be one of VOC's.

The tables squash every view to a square instead of cutting one out, by nearest neighbour, to train and to judge.

The SHA-256 is the one that TensorFlow Datasets states for this archive (url_checksums/voc.txt), the address is that of
torchvision, which states its MD5, 6cd6e144f989b92b3379bac3b3de84fd.

Everingham et al. 2010, "The Pascal Visual Object Classes Challenge".
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pooch
from requests.exceptions import RequestException
from torch import Tensor

from cause_lib.data.archive import unpack
from cause_lib.data.download import resume
from cause_lib.data.images import resize_to
from cause_lib.data.published import check_split, find_root, open_pairs, read_list
from cause_lib.data.source import Source, spread
from cause_lib.data.views import SegmentationDataset
from cause_lib.errors import InputError, RunError, WriteError

BASE_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/"
ARCHIVE = "VOCtrainval_11-May-2012.tar"
SHA256 = "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"
RETRIES = 2
HOME = "VOCdevkit/VOC2012"
NEEDED = ["ImageSets/Segmentation", "JPEGImages", "SegmentationClass"]
SPLITS = ("train", "val", "trainval", "trainaug")
CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor",
]  # fmt: skip
LAYOUT = (
    f"unpack {ARCHIVE} into $CAUSE_DATA/pascalvoc, so that there is $CAUSE_DATA/pascalvoc/{HOME}/JPEGImages, or go on "
    "with dataset='scenes'"
)


def open_pascalvoc(split: str, *, limit: int | None, download: bool, **_) -> Source:
    """VOC 2012's segmentation `split`: train, val, trainval or trainaug.

    Raises ValueError for another split, FileNotFoundError naming what is missing and where it belongs, RuntimeError if
    it is nowhere and cannot be fetched.
    """
    check_split("pascalvoc", split, SPLITS)
    try:
        root = find_root("pascalvoc", f"pascalvoc/{HOME}", f"let it be downloaded (2 GB), or {LAYOUT}")
    except FileNotFoundError:
        if not download:
            raise
        root = fetch_pascalvoc(pooch.os_cache("cause-book") / "pascalvoc") / HOME
    what = f"pascalvoc {split}"
    names = spread(read_list(what, root / "ImageSets" / "Segmentation" / f"{split}.txt", LAYOUT), limit)
    labels = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
    return open_pairs(
        what,
        root,
        [root / "JPEGImages" / f"{name}.jpg" for name in names],
        [labels / f"{name}.png" for name in names],
        layout=LAYOUT,
        classes=CLASSES,
        colors=voc_palette(len(CLASSES)),
    )


def fetch_pascalvoc(target: Path) -> Path:
    """`target`, after fetching the archive and unpacking into it what segmentation needs.

    It gets its name only once all is unpacked; an archive that is there and right is not fetched again, and of one that
    was cut off only the rest is (download.py).
    Raises RuntimeError if it cannot be fetched, ValueError if it arrives with another checksum, OSError if it cannot be
    written.
    """
    pooch.get_logger().setLevel("WARNING")  # one progress bar says it all
    unpacked = target.with_name(f"{target.name}.part")
    shutil.rmtree(unpacked, ignore_errors=True)  # left by a process that was killed
    fetcher = pooch.create(target.parent, BASE_URL, registry={ARCHIVE: f"sha256:{SHA256}"}, retry_if_failed=RETRIES)
    try:
        archive = Path(fetcher.fetch(ARCHIVE, downloader=partial(resume, progress=True)))
    except RequestException as error:
        reason = type(error).__name__
        raise RunError(f"pascalvoc could not be downloaded ({reason} on {BASE_URL}): {LAYOUT}") from error
    except ValueError as error:
        raise InputError(
            f"'{ARCHIVE}' from {BASE_URL} does not have its known SHA-256 and was not kept: try again, or {LAYOUT}"
        ) from error
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        unpack(archive, unpacked, [f"{HOME}/{folder}" for folder in NEEDED])
        target.mkdir(exist_ok=True)
        (unpacked / "VOCdevkit").rename(target / "VOCdevkit")
        unpacked.rmdir()
        archive.unlink()
    except OSError as error:
        raise unwritable(target, error) from error
    return target


def unwritable(target: Path, error: OSError) -> OSError:
    """What to do where archive or pictures cannot be written, in one sentence."""
    return WriteError(
        f"pascalvoc cannot be written to '{target}' ({error.strerror or error}): make room there, for the archive and "
        f"for what is in it, and let it be written, or {LAYOUT}"
    )


def voc_palette(count: int) -> np.ndarray:
    """VOC's own colours, uint8 (count, 3): an id's bits, dealt in turn to red, green and blue, high ones first."""
    ids = np.arange(count)
    channels = [sum((ids >> (3 * j + channel) & 1) << (7 - j) for j in range(3)) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def squash(picture: Tensor, size: int, resize: str = "nearest") -> Tensor:
    """(h, w) or (c, h, w) -> (size, size) or (c, size, size), whatever the shape before; resize: a key of `RESIZE`."""
    planes = picture if picture.ndim == 3 else picture[None]
    planes = resize_to(planes, [size, size], resize)
    return planes if picture.ndim == 3 else planes[0]


class SquashedDataset(SegmentationDataset):
    """Items as `SegmentationDataset`'s, each view squashed to a square instead of cropped to one."""

    fit = staticmethod(squash)
