"""Pascal VOC 2012: 1,464 + 1,449 photographs, 20 kinds of objects and background, laid out in VOCdevkit/VOC2012 as:

    JPEGImages/<name>.jpg
    SegmentationClass/<name>.png                       class ids 0 to 20, 255 = void (outlines and what is unclear)
    ImageSets/Segmentation/{train,val,trainval}.txt    one <name> a line

Fetched from its authors (2 GB, going on where it was cut off), held against the archive's SHA-256, and unpacked. Where
ImageSets/Segmentation has a trainaug.txt too, the split `trainaug` reads its labels from SegmentationClassAug. Ids
above 20 other than 255, which the released code makes void, are an error here. The tables squash every view to a square
instead of cutting one out, to train and to judge.

Everingham et al. 2010, "The Pascal Visual Object Classes Challenge".
"""

import shutil
from pathlib import Path

import pooch
from filelock import FileLock

from cause_lib.data.download import explained, fetch, resume, unpack
from cause_lib.data.published import FACTS, check_split, find_folder, open_pairs, places, read_list
from cause_lib.data.source import Source, spread

BASE_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/"  # torchvision's
ARCHIVE = "VOCtrainval_11-May-2012.tar"
SHA256 = "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"  # TensorFlow Datasets' (url_checksums)
RETRIES = 4
HOME = "VOCdevkit/VOC2012"
SQUASH = True  # views become square by squashing
NEEDED = ["ImageSets/Segmentation", "JPEGImages", "SegmentationClass"]
LAYOUT = (f"unpack {ARCHIVE} into $CAUSE_DATA/pascalvoc, so that there is $CAUSE_DATA/pascalvoc/{HOME}/JPEGImages, or "
          "go on with dataset='scenes'")


def open_pascalvoc(split: str, *, limit: int | None, download: bool, **_) -> Source:
    """VOC 2012's segmentation `split`: train, val, trainval or trainaug; fetched if it is nowhere."""
    check_split("pascalvoc", split, "trainval", "trainaug")
    tried = places(f"pascalvoc/{HOME}")
    if download and not any(path.is_dir() for path in tried):
        fetch_pascalvoc(places("pascalvoc")[-1])
    root = find_folder(tried, f"let it be downloaded (2 GB), or {LAYOUT}", "pascalvoc")
    names = spread(read_list(f"pascalvoc {split}", root / f"ImageSets/Segmentation/{split}.txt", LAYOUT), limit)
    images = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    folder = root / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
    labels = [folder / f"{name}.png" for name in names]
    return open_pairs(f"pascalvoc {split}", root, images, labels, FACTS["pascalvoc"]["classes"], LAYOUT, squash=SQUASH)


def fetch_pascalvoc(target: Path) -> None:
    """Fetches the archive and unpacks into `target` what segmentation needs; raises what `download.fetch` does.

    Whoever comes second waits. VOCdevkit gets its name only once all is unpacked.
    """
    fetcher = pooch.create(target, BASE_URL, registry={ARCHIVE: f"sha256:{SHA256}"}, retry_if_failed=RETRIES)
    with explained("pascalvoc", ARCHIVE, fetcher, LAYOUT):
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".lock"):
            if not (target / HOME).is_dir():
                [archive] = fetch("pascalvoc", fetcher, [ARCHIVE], LAYOUT, downloader=resume)
                shutil.rmtree(target / "unpacked", ignore_errors=True)  # left by a process that was killed
                unpack(archive, target / "unpacked", [f"{HOME}/{folder}" for folder in NEEDED])
                (target / "unpacked/VOCdevkit").rename(target / "VOCdevkit")
                (target / "unpacked").rmdir()
                archive.unlink()
