"""What a difference between paper and code does to the numbers: runs that part in one switch, side by side.

    python -m workflow.audit cause_book/results/audit.csv experiments/audit.csv experiments/audit_photos.csv

In such a table of experiments `row` says which difference a line shows. A line called `paper` is what others are held
against: those of the same pictures, backbone, head and seed. Two differences need no run of their own, because one run
has both numbers: the dense CRF, and the mean IoU over the classes that occur in the labels, `miou_present` in place of
`miou`. All others are taken without CRF. If the file is there already, what this machine has no run of stays in it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from cause_lib.runs.store import write_whole
from workflow.results import results, with_kept
from workflow.rows import PLACES, Row, read_rows

PAPER = "paper"
CRF, PRESENT = "dense CRF", "mean over present classes"  # the differences that are in every run
SETTING = ("dataset", "folder", "num_classes", "image_size", "crops", "train_images", "test_split", "test_images",
           "backbone", "head", "seed")
COLUMNS = ["item", "switch", "dataset", "images", "backbone", "head", "readout", "seed", "miou", "pacc", "paper_miou",
           "paper_pacc", "clusters_used", "paper_clusters_used", "num_clusters", "date", "device", "total_seconds",
           "library", "weights", "settings"]


def audit(rows: list[Row]) -> pd.DataFrame:
    """The runs of a table that are there, each with the run that it is held against.

    Returns:
        COLUMNS: a line a difference, read-out and seed; mIoU and pAcc in per cent, `paper_` those of the line `paper`.

    Raises:
        ValueError: a line has no line `paper` with the same pictures, backbone, head and seed.
    """
    papers = {_setting(row): row for row in rows if row.label == PAPER}
    for row in rows:
        if _setting(row) not in papers:
            setting = zip(SETTING, _setting(row))
            said = ", ".join(f"{name} {value}" for name, value in setting if value not in (None, ""))
            raise ValueError(f"line {row.number} ({row.label}) has nothing to be held against: add a line whose row is "
                             f"'{PAPER}' with {said}.")
    found = results(rows)
    runs = {(line["line"], line["readout"], line["crf"]): line for line in found.to_dict("records")}
    lines = []
    for row in rows:
        paper = papers[_setting(row)]
        how = switch(row, paper)
        for readout in ("modularity", "kmeans"):
            crf = how.startswith("crf_picture")  # changes nothing else
            ours, theirs = runs.get((row.number, readout, crf)), runs.get((paper.number, readout, crf))
            if ours is None or theirs is None:
                continue
            if row is not paper:
                lines.append(_line(row, row.label, how, ours, theirs))
                continue
            if (sharpened := runs.get((row.number, readout, True))) is not None:
                lines.append(_line(row, CRF, "crf=True", sharpened, theirs))
            lines.append(_line(row, PRESENT, "miou_present", ours | {"miou": ours["miou_present"]}, theirs))
    return pd.DataFrame(lines, columns=COLUMNS)


def switch(row: Row, paper: Row) -> str:
    """The cells of a line that the other's has not, as `name=value, name=value`; what follows from them is left out."""
    return ", ".join(f"{name}={value}" for name, value in row.parameters.items()
                     if (name, value) not in paper.parameters.items() and name not in (*PLACES, "crf"))


def _setting(row: Row) -> tuple:
    return tuple(getattr(row.experiment, name) for name in SETTING)


def _line(row: Row, item: str, how: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    held = {f"paper_{name}": theirs[name] for name in ("miou", "pacc", "clusters_used")}
    return ours | held | {"item": item, "switch": how, "head": row.experiment.head}


if __name__ == "__main__":
    target, *tables = sys.argv[1:]
    parts = [part for part in (audit(read_rows(table)) for table in tables) if len(part)]
    numbers = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    numbers = with_kept(numbers.drop_duplicates(["item", "settings", "readout"]), target)
    write_whole(Path(target), numbers.to_csv(index=False))
    print(f"{len(numbers)} comparisons in {target}")
