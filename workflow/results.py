"""The numbers of a table that has been run, beside the published ones where there are any.

    python -m workflow.results experiments/published.csv results.csv results.md
    python -m workflow.results experiments/published.csv book/results/published.csv

A line is one result: a line of the table, a read-out, with or without CRF; and what made it: settings, library,
weights, device, date, and the seconds that it took. Published numbers come from a file beside the table,
`<table>_rows.csv`, which has them by `row`; mIoU and pAcc are in per cent, as published. The Markdown table can be left
out.

If the file is there already, its lines stay for whatever this machine has no run of: runs of one table on several
machines add up.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from cause_lib.runs.results import evaluation_folders, of_other_steps
from cause_lib.runs.saved import read_experiment
from cause_lib.runs.store import read_record, write_whole
from cause_lib.stages import collect_metrics
from workflow.rows import KEYS, PLACES, Row, read_rows

COLUMNS = ["line", "row", "dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou",
           "miou_present", "pacc", "published_miou", "published_pacc", "clusters_used", "num_clusters", "images", "date", "device",
           "seconds", "total_seconds", "library", "weights", "settings", "folder"]
UNSEEN = ["library", "weights", "settings", "folder"]  # too wide for a page
PERCENT = ["miou", "miou_present", "pacc"]


def results(rows: list[Row], published: pd.DataFrame | None = None) -> pd.DataFrame:
    """What the lines left in their run_dir; lines that have not been run are not in it, nor, with a warning, those that
    left a file that is missing or damaged.

    published: columns `row`, `miou` and `pacc`, in per cent.

    Returns:
        COLUMNS; `seconds` are those of judging, `total_seconds` those of all stages behind the line, `settings` its
        cells as JSON.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    for row, folder in _left_by(rows):
        settings = {name: value for name, value in row.parameters.items() if name not in PLACES}
        try:
            seconds = total_seconds(folder)
        except Refusal as error:
            warnings.warn(f"line {row.number}, {row.label}, is left out: {error}", stacklevel=2)
            continue
        frames.append(collect_metrics(folder).assign(
            line=row.number, row=row.label, settings=json.dumps(settings, sort_keys=True), total_seconds=seconds))
    table = pd.concat(frames[1:] or frames, ignore_index=True)
    table[PERCENT] = (100 * table[PERCENT].astype(float)).round(2)
    if published is not None:
        wanted = published[["row", "miou", "pacc"]].rename(columns=lambda n: n if n == "row" else f"published_{n}")
        table = table.merge(wanted, on="row", how="left")
    return table.reindex(columns=COLUMNS)


def warned(rows: list[Row]) -> list[str]:
    """What the runs of the lines were warned of (`cause_lib.runs.health`), a sentence each, with the line's number."""
    return [f"line {row.number}, {row.label}: {sentence}" for row, folder in _left_by(rows)
            for sentence in read_record(folder).get("notes", {}).get("warnings", [])]


def _left_by(rows: list[Row]) -> Iterator[tuple[Row, Path]]:
    """The lines that have been run, and the folder of the latest evaluation of each."""
    left = {run_dir: evaluations(run_dir) for run_dir in {row.experiment.run_dir for row in rows}}
    for row in rows:
        if (folder := left[row.experiment.run_dir].get(_name(row.experiment, KEYS[row.stage]))) is not None:
            yield row, folder


def evaluations(run_dir: str | Path) -> dict[str, Path]:
    """The evaluations below a folder by their settings, the latest of each; asks for neither pictures nor weights.

    Those made when `label_free=False` was step 3 alone are left out: the same settings mean other steps now.
    """
    found = {}
    folders = [folder for folder in evaluation_folders(run_dir) if folder.parent.parent == Path(run_dir)]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
        try:
            record = read_record(folder)
            experiment = read_experiment(record, folder)
        except Refusal as error:
            warnings.warn(f"One evaluation is left out: {error}", stacklevel=2)
            continue
        if not of_other_steps(record):
            found[_name(experiment, record["stage"])] = folder
    return found


def _name(experiment: Experiment, stage: str) -> str:
    return json.dumps([stage, experiment.key(stage)], sort_keys=True)


def total_seconds(folder: Path) -> float:
    """Seconds of an artefact's stage and of every stage behind it; features that several runs share not counted."""
    record, run_dir = read_record(folder), folder.parent.parent
    return round(record["seconds"] + sum(total_seconds(run_dir / place) for place in record["upstream"].values()), 2)


def with_kept(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """`table`, and those lines of the file at `path`, if there is one, whose settings `table` has no result of."""
    if not Path(path).is_file():
        return table
    kept = read_table(path)
    if "miou_all" in kept:  # written before `miou` was the published mean, see cause_lib.runs.store.as_now
        kept = kept.rename(columns={"miou": "miou_present", "miou_all": "miou"})
        made_alike = kept["label_free"].astype(bool) | kept["settings"].str.contains('"release"')
        kept = kept[made_alike]  # without what other steps made, as in `evaluations`
    frames = [frame for frame in (table, kept[~kept["settings"].isin(table["settings"])]) if len(frame)]
    return pd.concat(frames, ignore_index=True).reindex(columns=table.columns) if frames else table


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV file whose empty cells alone are missing: a line may be called NA or None."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def markdown(table: pd.DataFrame) -> str:
    """The same, without the widest columns, as a table of a Markdown page; what is unknown is left empty."""
    shown = table.drop(columns=UNSEEN).astype(object)
    shown = shown.where(shown.notna(), "")
    lines = [list(shown.columns), ["---"] * len(shown.columns), *shown.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def published_beside(table: str | Path) -> pd.DataFrame | None:
    """The published numbers that belong to a table, or None."""
    path = Path(table).with_name(f"{Path(table).stem}_rows.csv")
    return read_table(path) if path.is_file() else None


def main(source: str, as_csv: str, as_markdown: str | None = None) -> None:
    rows = read_rows(source)
    numbers = results(rows, published_beside(source))
    numbers = with_kept(numbers, as_csv)
    write_whole(Path(as_csv), numbers.to_csv(index=False))
    if as_markdown is not None:
        write_whole(Path(as_markdown), markdown(numbers))
    print(f"{len(numbers)} results in {as_csv}" + (f" and {as_markdown}" if as_markdown else ""))
    for sentence in warned(rows):
        print(sentence)


if __name__ == "__main__":
    main(*sys.argv[1:])
