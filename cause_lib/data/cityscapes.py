"""Cityscapes: 2,975 + 500 street scenes of 2048 x 1024 pixels from 50 cities, 27 classes, in the official layout:

    leftImg8bit/{train,val}/<city>/<frame>_leftImg8bit.png
    gtFine/{train,val}/<city>/<frame>_gtFine_labelIds.png

The 27 classes are the label ids 7 (road) to 33 (bicycle), as in STEGO and CAUSE, not the benchmark's 19; lower ids are
void. Names and colours are the official ones; pole and pole group share a colour there.
Cordts et al. 2016, "The Cityscapes Dataset for Semantic Urban Scene Understanding".
"""

from cause_lib.data.published import FACTS, check_split, find_folder, open_pairs, places
from cause_lib.data.source import Source, spread
from cause_lib.errors import NotFound

TABLE = (*[-1] * 7, *range(27))  # the class of each label id
IMAGE, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
LAYOUT = ("unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (from cityscapes-dataset.com, after "
          "registration) into $CAUSE_DATA/cityscapes, or go on with dataset='scenes'")


def open_cityscapes(split: str, *, limit: int | None, **_) -> Source:
    """Cityscapes' `split`, train or val, with fine labels, in the order of cities and frames."""
    check_split("cityscapes", split)
    root = find_folder(places("cityscapes"), LAYOUT, "cityscapes")
    pairs = ((root / "leftImg8bit" / split, IMAGE), (root / "gtFine" / split, LABEL))
    frames = {(path.parent.name, path.name.removesuffix(end))
              for folder, end in pairs for path in folder.glob(f"*/*{end}")}
    if not frames:
        pictures, labels = (f"'{folder}/<city>/*{end}'" for folder, end in pairs)
        raise NotFound(f"cityscapes {split} has neither pictures {pictures} nor labels {labels}: {LAYOUT}")
    frames = spread(sorted(frames), limit)  # every frame with a picture or a label: where one is missing, it is said
    images, labels = ([folder / city / f"{frame}{end}" for city, frame in frames] for folder, end in pairs)
    return open_pairs(f"cityscapes {split}", root, images, labels, FACTS["cityscapes"]["classes"], LAYOUT, table=TABLE)
