"""The numbers of many runs as one table."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cause_lib.errors import InputError, NotFound, Refusal
from cause_lib.runs.saved import MAKE_ANEW, judged_as, refused
from cause_lib.runs.store import read_record

if TYPE_CHECKING:
    import pandas as pd

OTHER_STEPS = "Made by {}, where label_free=False let labels act in step 3 alone: it is not comparable; run it again."
COLUMNS = ["dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou", "pacc", "clusters_used",
           "num_clusters", "images", "device", "seconds", "folder", "miou_present", "miou_per_image", "date",
           "library", "weights", "dead_clusters", "effective_clusters", "dead_concepts", "effective_concepts",
           "warnings"]


def collect_metrics(run_dir: str | Path) -> "pd.DataFrame":
    """Every `metrics.json` below a folder as one table, a line a method, read-out, CRF setting and run.

    A run whose numbers are missing, damaged or changed is left out, with a warning that says so; `attrs["left_out"]` of
    the table has the sentence of each.
    Its `warnings` say of a run with labels whether other steps than those of now made it, see `of_other_steps`.
    """
    import pandas as pd  # a second to import, needed here alone

    lines, left_out = [], []
    for folder in evaluation_folders(run_dir):
        try:
            lines += _lines_of(folder)
        except Refusal as error:
            left_out.append(str(error))
    if left_out:
        warnings.warn(f"{len(left_out)} of the evaluations below {run_dir} cannot be read and are left out of the "
                      f"table; the first: {left_out[0]}", stacklevel=2)
    table = pd.DataFrame(lines, columns=COLUMNS)
    table.attrs["left_out"] = left_out
    return table


def evaluation_folders(run_dir: str | Path) -> list[Path]:
    """The folders of evaluations below a folder, or itself; of those whose metrics.json is gone, too. Hidden ones are
    not looked at: they are under way, or of another version and put aside."""
    paths = [path for name in ("metrics.json", "artefact.json") for path in Path(run_dir).rglob(name)]
    return sorted({path.parent for path in paths
                   if not any(part.startswith(".") for part in path.relative_to(run_dir).parts)
                   and (path.name == "metrics.json" or path.parent.parent.name.endswith("evaluation"))})


def evaluation_of(run: Path, probe: Path, readout: str) -> dict[str, Any] | None:
    """The record of a probe's evaluation: that at `run` if it is one, else one with CRF where there is; None without
    any, ValueError where their masks would differ."""
    places = evaluation_folders(run if (run / "metrics.json").is_file() else probe.absolute().parents[1] / "evaluation")
    found = {place: one for place in places
             if (one := read_record(place))["upstream"].get("probe") == f"probe/{probe.name}"}
    if bare := [place for place in found if not (place / "artefact.json").is_file()]:
        raise NotFound(f"{bare[0]} has no artefact.json, so it is no whole evaluation: {MAKE_ANEW}")
    ways = {place: judged_as(record, place, readout) for place, record in found.items()}
    best = max(found, key=lambda place: sum(value is not None for value in ways[place].values()), default=None)
    if any(value not in (None, ways[best][key]) for way in ways.values() for key, value in way.items()):
        raise InputError(f"{probe} has {len(ways)} evaluations that differ; choose one: {', '.join(map(str, found))}.")
    return found.get(best)


def _lines_of(folder: Path) -> list[dict[str, Any]]:
    with refused(f"{folder} is damaged, its metrics.json is not what an evaluation wrote", MAKE_ANEW,
                 (LookupError, TypeError, AttributeError)):
        record = read_record(folder)
        experiment, concepts = record["experiment"], record.get("concepts", {})
        return [dict.fromkeys(COLUMNS) | experiment | record | result | {  # columns by their names, and the others
            "dataset": experiment["folder"] or experiment["dataset"], "images": record["dataset"]["images"],
            "label_free": record["stage"] == "baseline_evaluation" or experiment["label_free"],
            "folder": folder.as_posix(), "weights": record["weights"]["sha256"],
            "dead_clusters": result["num_clusters"] - result["clusters_used"], "dead_concepts": concepts.get("dead"),
            "effective_concepts": concepts.get("effective"),
            "warnings": " ".join([OTHER_STEPS.format(record.get("library", "another version"))]
                                 * of_other_steps(record) + record.get("notes", {}).get("warnings", []))}
            for result in record["results"]]


def of_other_steps(record: dict[str, Any]) -> bool:
    """Whether a record is of a run with labels from when `label_free=False` was step 3 alone: now it is other steps."""
    experiment = record["experiment"]
    return not (record["stage"] == "baseline_evaluation" or experiment["label_free"] or experiment.get("release")
                or "labels_in_norm" in experiment)
