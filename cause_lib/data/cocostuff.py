"""COCO-Stuff on COCO 2017 as `cocostuff27`, `coco81` and `coco171`, laid out as the public `cocostuff` folder is:

    images/{train,val}2017/<id>.jpg
    annotations/{train,val}2017/<id>.png      fine ids 0 to 181, 255 = void
    curated/{train,val}2017/<list>.txt        one <id> a line

The lists are IIC's; the tables train on Coco164kFull_Stuff_Coarse (97,702 pictures). The 27 classes are judged on
Coco164kFull_Stuff_Coarse_7 (2,175: at least three quarters stuff, both sides at least 360 pixels), the other two on
val2017's Coco164kFull_Stuff_Coarse (4,172).

cocostuff.json holds the 182 fine names of COCO-Stuff's label list, the class of the 27 that STEGO and CAUSE give each,
and the 11 things that COCO has a name for but never segmented. The other two follow from it: coco171 is what remains
without those 11, in order; coco81 is its 80 things as 1 to 80, and all stuff as class 0. In the released code the 11
would become class 0 there; here they are void. Colours are this library's palette.

Caesar, Uijlings and Ferrari 2018, "COCO-Stuff"; Ji, Henriques and Vedaldi 2019 (IIC); Cho et al. 2021 (PiCIE).
"""

import json
from pathlib import Path

from cause_lib.data.palette import palette
from cause_lib.data.published import check_split, find_folder, open_pairs, places, read_list
from cause_lib.data.source import Source, spread

FACTS = json.loads(Path(__file__).with_name("cocostuff.json").read_text(encoding="utf-8"))
THINGS = 91  # ids below are things, the rest is stuff
LAYOUT = ("lay COCO-Stuff out in $CAUSE_DATA/cocostuff as images/{train,val}2017, annotations/{train,val}2017 (of "
          "stuffthingmaps_trainval2017.zip) and curated/{train,val}2017 (IIC's lists), or go on with dataset='scenes'")


def open_cocostuff(split: str, *, name: str, limit: int | None, **_) -> Source:
    """The `split`, train or val, of `name`, one of cocostuff27, coco81 and coco171."""
    check_split(name, split)
    root, year = find_folder(places("cocostuff"), LAYOUT, name), f"{split}2017"
    listed = f"Coco164kFull_Stuff_Coarse{'_7' if (name, split) == ('cocostuff27', 'val') else ''}.txt"
    ids = spread(read_list(f"{name} {split}", root / "curated" / year / listed, LAYOUT), limit)
    images = [root / "images" / year / f"{i}.jpg" for i in ids]
    labels = [root / "annotations" / year / f"{i}.png" for i in ids]
    classes, table = classes_of(name)
    colors = dict(zip(classes, palette(len(classes))))
    return open_pairs(f"{name} {split}", root, images, labels, colors, LAYOUT, table=table)


def classes_of(name: str) -> tuple[list[str], tuple[int, ...]]:
    """Class names of `name`, and the class of each of the 182 fine ids (-1: none)."""
    if name == "cocostuff27":
        classes, called = FACTS["classes"], [coarse for _, coarse in FACTS["fine"]]
    else:
        merged = name == "coco81"
        called = ["stuff" if merged and i >= THINGS else fine for i, (fine, _) in enumerate(FACTS["fine"])]
        classes = list(dict.fromkeys(["stuff"] * merged + [fine for fine in called if fine not in FACTS["unused"]]))
    return classes, tuple(classes.index(each) if each in classes else -1 for each in called)
