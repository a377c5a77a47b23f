"""The numbers of many runs as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cause_lib.runs.store import read_record

if TYPE_CHECKING:
    import pandas as pd

OTHER_STEPS = "Made by {}, where label_free=False let labels act in step 3 alone: it is not comparable; run it again."
COLUMNS = ["dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou", "pacc", "clusters_used",
           "num_clusters", "images", "device", "seconds", "folder", "miou_present", "date", "library", "weights",
           "dead_clusters", "effective_clusters", "dead_concepts", "effective_concepts", "warnings"]


def collect_metrics(run_dir: str | Path) -> "pd.DataFrame":
    """Every `metrics.json` below a folder as one table, a line a method, read-out, CRF setting and run.

    Its `warnings` say of a run with labels whether other steps than those of now made it, see `of_other_steps`.
    """
    import pandas as pd  # a second to import, needed here alone

    lines = []
    for path in sorted(Path(run_dir).rglob("metrics.json")):
        record = read_record(path.parent)
        experiment, concepts = record["experiment"], record.get("concepts", {})
        lines += [dict.fromkeys(COLUMNS) | experiment | record | result | {  # columns by their names, and the others
            "dataset": experiment["folder"] or experiment["dataset"], "images": record["dataset"]["images"],
            "label_free": record["stage"] == "baseline_evaluation" or experiment["label_free"],
            "folder": path.parent.as_posix(), "weights": record["weights"]["sha256"],
            "dead_clusters": result["num_clusters"] - result["clusters_used"], "dead_concepts": concepts.get("dead"),
            "effective_concepts": concepts.get("effective"),
            "warnings": " ".join([OTHER_STEPS.format(record.get("library", "another version"))] * of_other_steps(record)
                                 + record.get("notes", {}).get("warnings", []))} for result in record["results"]]
    return pd.DataFrame(lines, columns=COLUMNS)


def of_other_steps(record: dict[str, Any]) -> bool:
    """Whether a record is of a run with labels from when `label_free=False` was step 3 alone: now it is other steps."""
    experiment = record["experiment"]
    return not (record["stage"] == "baseline_evaluation" or experiment["label_free"] or experiment.get("release")
                or "labels_in_norm" in experiment)
