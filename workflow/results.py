"""The numbers of a table that has been run, beside the published ones where there are any.

    python -m workflow.results experiments/published.csv results.csv results.md
    python -m workflow.results experiments/published.csv cause_book/results/published.csv

A line is one result: a line of the table, a read-out, with or without CRF; and what made it: settings, library,
weights, device, date, and the seconds that it took. Published numbers come from a file beside the table,
`<table>_rows.csv`, which has them by `row`; mIoU and pAcc are in per cent, as published. The Markdown table can be left
out.

Of several runs of the same settings, the one counts that was made from today's pictures, labels and weights, whatever
the times of files; lines of which only others are there have no results, and that is said. A line that has come to no
end stands there with the reason, in a last column `error`, which is there only then.

If the file is there already, its lines stay for whatever this machine has no run of: runs of one table on several
machines add up.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cause_lib.errors import Refusal
from cause_lib.runs.results import evaluation_folders, of_other_steps
from cause_lib.runs.saved import read_experiment
from cause_lib.runs.store import read_record, write_whole
from cause_lib.stages import collect_metrics
from workflow.identity import opener, today
from workflow.rows import KEYS, Row, job_of, read_jobs, read_rows, upstream

COLUMNS = ["line", "row", "dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou",
           "miou_present", "miou_per_image", "pacc", "published_miou", "published_pacc", "clusters_used",
           "num_clusters", "images", "date", "device", "seconds", "total_seconds", "peak_mb", "library", "weights",
           "settings", "folder"]
UNSEEN = ["library", "weights", "settings", "folder"]  # too wide for a page
Left = tuple[Row, "Path | None", list[Path]]  # a line, its evaluation, and older ones
PERCENT = ["miou", "miou_present", "miou_per_image", "pacc"]


def results(rows: list[Row], published: pd.DataFrame | None = None, left: list[Left] | None = None) -> pd.DataFrame:
    """What the lines left in their run_dir; lines that have not been run are not in it, nor, with a warning, those that
    left a file that is missing or damaged.

    published: columns `row`, `miou` and `pacc`, in per cent. left: what `left_by` gives, if that is there already.

    Returns:
        COLUMNS; `seconds` are those of judging, `total_seconds` those of all stages behind the line, `peak_mb` the
        most memory of any of them, `settings` its cells as JSON.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    for row, folder, _ in left_by(rows) if left is None else left:
        try:
            behind = records_behind(folder) if folder else []
        except Refusal as error:
            warnings.warn(f"line {row.number}, {row.label}, is left out: {error}", stacklevel=2)
            continue
        if folder is not None:
            frames.append(collect_metrics(folder).assign(line=row.number, row=row.label, settings=row.settings,
                                                         total_seconds=_seconds(behind), peak_mb=max(
                                                             (one.get("peak_mb") or 0 for one in behind)) or None))
    table = pd.concat(frames[1:] or frames, ignore_index=True)
    table[PERCENT] = (100 * table[PERCENT].astype(float)).round(2)
    if published is not None:
        wanted = published[["row", "miou", "pacc"]].rename(columns=lambda n: n if n == "row" else f"published_{n}")
        table = table.merge(wanted, on="row", how="left")
    return table.reindex(columns=COLUMNS)


def remarks(left: list[Left]) -> list[str]:
    """What the runs were warned of (`cause_lib.runs.health`), and which older ones do not count: a sentence each, with
    the line's number."""
    found = []
    for row, folder, older in left:
        sentences = read_record(folder).get("notes", {}).get("warnings", []) if folder else []
        if older:
            sentences = [*sentences, f"{', '.join(map(str, older))} was made from other pictures, labels or weights, "
                         "and does not count."]
        found += [f"line {row.number}, {row.label}: {sentence}" for sentence in sentences]
    return found


def errors(rows: list[Row]) -> pd.DataFrame:
    """Lines that have come to no end: `line`, `row`, `settings`, and as `error` what the first of their jobs said."""
    jobs, found = read_jobs(rows), []
    for row in rows:
        last = job_of(jobs, row)
        reasons = [path for path in (Path(job.reason) for job in (*upstream(jobs, last), last)) if path.is_file()]
        if reasons:
            found.append({"line": row.number, "row": row.label, "settings": row.settings,
                          "error": reasons[0].read_text(encoding="utf8")})
    return pd.DataFrame(found, columns=["line", "row", "settings", "error"])


def left_by(rows: list[Row]) -> Iterator[Left]:
    """The lines that have been run: the evaluation of each, or None, and older ones, of other pictures or weights.

    Which is which follows from what is on this machine now. Where the pictures are not here, or the weights, that is
    not known, and the latest by its date counts.
    """
    left = {run_dir: evaluations(run_dir) for run_dir in {row.experiment.run_dir for row in rows}}
    opening = opener()
    for row in rows:
        if folders := left[row.experiment.run_dir].get(_name(row.experiment, KEYS[row.stage])):
            now = today(row.experiment, KEYS[row.stage], opening)
            chosen = folders[-1] if now is None else next((one for one in folders if one.name == now.name), None)
            yield row, chosen, [one for one in folders if one != chosen]


def evaluations(run_dir: str | Path) -> dict[str, list[Path]]:
    """The evaluations below a folder by their settings, ordered by date; asks for neither pictures nor weights.

    Those made when `label_free=False` was step 3 alone are left out: the same settings mean other steps now.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    for folder in evaluation_folders(run_dir):
        if folder.parent.parent != Path(run_dir):
            continue
        try:
            record = read_record(folder)
            experiment = read_experiment(record, folder)
            if record["stage"] == "rival_evaluation":
                experiment = rival_of(record)
        except Refusal as error:
            warnings.warn(f"One evaluation is left out: {error}", stacklevel=2)
            continue
        if not of_other_steps(record):
            found.setdefault(_name(experiment, record["stage"]), []).append((record.get("date", ""), folder))
    return {name: [folder for _, folder in sorted(dated)] for name, dated in found.items()}


def rival_of(record: dict[str, Any]) -> Any:
    """The run of a rival that an artefact records, see `cause_rivals.Rival`."""
    from cause_rivals import rival

    notes = record["notes"]
    return rival(notes["method"], notes["settings"], **record["experiment"])


def _name(experiment: Any, stage: str) -> str:
    return json.dumps([stage, experiment.key(stage)], sort_keys=True)


def records_behind(folder: Path) -> list[dict[str, Any]]:
    """The record of an artefact and of every stage behind it; features that several runs share are not among them."""
    record, run_dir = read_record(folder), folder.parent.parent
    return [record, *(one for place in record["upstream"].values() for one in records_behind(run_dir / place))]


def total_seconds(folder: Path) -> float:
    """Seconds of an artefact's stage and of every stage behind it."""
    return _seconds(records_behind(folder))


def _seconds(records: list[dict[str, Any]]) -> float:
    return round(sum(record["seconds"] for record in records), 2)


def with_kept(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """`table`, and those lines of the file at `path`, if there is one, whose settings `table` has no result of: in the
    order of the lines, if they have numbers, whichever machine ran them."""
    if not Path(path).is_file():
        return table
    kept = read_table(path)
    if "error" in kept:  # of a run before
        kept = kept[kept["error"].isna()]
    if "miou_all" in kept:  # written before `miou` was the published mean, see cause_lib.runs.store.as_now
        kept = kept.rename(columns={"miou": "miou_present", "miou_all": "miou"})
        made_alike = kept["label_free"].astype(bool) | kept["settings"].str.contains('"release"')
        kept = kept[made_alike]  # without what other steps made, as in `evaluations`
    frames = [frame for frame in (table, kept[~kept["settings"].isin(table["settings"])]) if len(frame)]
    if not frames:
        return table
    both = pd.concat(frames, ignore_index=True).reindex(columns=table.columns)
    return both.sort_values("line", kind="stable", ignore_index=True) if "line" in both else both  # none in a diagnosis


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
    left, failed = list(left_by(rows)), errors(rows)
    numbers = with_kept(results(rows, published_beside(source), left), as_csv)
    numbers = numbers[~numbers["settings"].isin([row.settings for row, folder, _ in left if folder is None])]
    if len(failed):
        numbers = pd.concat([numbers, failed], ignore_index=True)
    write_whole(Path(as_csv), numbers.to_csv(index=False))
    if as_markdown is not None:
        write_whole(Path(as_markdown), markdown(numbers))
    print(f"{len(numbers) - len(failed)} results in {as_csv}" + (f" and {as_markdown}" if as_markdown else ""))
    for sentence in remarks(left):
        print(sentence)
    for line in failed.to_dict("records"):
        print(f"line {line['line']}, {line['row']}, has come to no end: {line['error']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
