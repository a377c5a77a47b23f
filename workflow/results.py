"""The numbers of a table that has been run, beside the published ones where there are any.

    python -m workflow.results experiments/published.csv results.csv results.md

A line is one result: a line of the table, a read-out, with or without CRF. Published numbers come from a file beside
the table, `<table>_rows.csv`, which has them by `row`; mIoU and pAcc are in per cent, as published.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from cause_lib.stages import collect_metrics, find
from workflow.rows import KEYS, Row, read_rows

COLUMNS = ["line", "row", "dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou", "pacc",
           "published_miou", "published_pacc", "clusters_used", "num_clusters", "images", "device", "seconds", "folder"]


def results(rows: list[Row], published: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the lines left in their run_dir; lines that have not been run are not in it.

    published: columns `row`, `miou` and `pacc`, in per cent.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    for row in rows:
        if (folder := find(row.experiment, KEYS[row.stage])) is not None:
            frames.append(collect_metrics(folder).assign(line=row.number, row=row.label))
    table = pd.concat(frames[1:] or frames, ignore_index=True)
    table[["miou", "pacc"]] = (100 * table[["miou", "pacc"]].astype(float)).round(2)
    if published is not None:
        wanted = published[["row", "miou", "pacc"]].rename(columns=lambda n: n if n == "row" else f"published_{n}")
        table = table.merge(wanted, on="row", how="left")
    return table.reindex(columns=COLUMNS)


def markdown(table: pd.DataFrame) -> str:
    """The same, without the folders, as a table of a Markdown page; what is unknown is left empty."""
    shown = table.drop(columns="folder").astype(object).where(table.drop(columns="folder").notna(), "")
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def published_beside(table: str | Path) -> pd.DataFrame | None:
    """The published numbers that belong to a table, or None."""
    path = Path(table).with_name(f"{Path(table).stem}_rows.csv")
    return pd.read_csv(path) if path.is_file() else None


if __name__ == "__main__":
    source, as_csv, as_markdown = sys.argv[1:]
    numbers = results(read_rows(source), published_beside(source))
    numbers.to_csv(as_csv, index=False)
    Path(as_markdown).write_text(markdown(numbers), encoding="utf8")
    print(f"{len(numbers)} results in {as_csv} and {as_markdown}")
