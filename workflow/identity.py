"""What a job's executed notebook depends on; so which jobs of a table are to be run, and why.

A job depends on its line's settings (`Experiment.key`) and on what these mean on this machine now: the pictures, their
labels and the weights, which name its artefacts (`cause_lib.runs.stage.folder_of`); the library's numeric code, where
versions of the same bits count as one (`cause_lib.runs.version`); and the notebook's code. The executed notebook's name
ends in a digest of these. So a job is done if that notebook and the artefacts are there; times of files are not looked
at. Where an artefact has been removed, the notebook that is made again is called `.2`, `.3`, ... beside the first. An
artefact in which other numeric code had a part, and features of it, are put aside by the job and made anew.

    python -m workflow.identity experiments/camvid.csv plan.json      as `workflow.check --plan`, without its check
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from workflow.rows import Job, Row, job_of, read_jobs, read_rows, upstream

#: The artefacts that each job leaves.
ARTEFACTS = {"clusterbook": ("clusterbook",), "head": ("head",), "baseline": ("baseline", "baseline_evaluation"),
             "evaluation": ("probe", "evaluation"), "rival": ("rival", "rival_evaluation")}
#: What decides which pictures are opened, see `cause_lib.runs.features.open_dataset`.
OPENED = ("dataset", "folder", "train_split", "test_split", "train_images", "test_images", "image_size", "crops",
          "crop_ratio", "num_classes", "resize", "allow_corrupt", "test_view")
WORDS = {"weights": "the weights changed", "library": "the library changed", "notebook": "the notebook changed",
         "artefacts": "the data changed"}
#: stage/name -> {executed: what the notebook is called, identity, why: it is to be run ("" if not), refused: why it
#: cannot be ("" if it can), reason: the file for what ended it, old: artefacts of other numeric code}.
Plan = dict[str, dict[str, Any]]


def make_plan(rows: list[Row], jobs: dict[str, dict[str, Job]], unfit: Mapping[int, str] = {}) -> Plan:
    """What is to be run of a table, and why; nothing is fetched for the lines that cannot be run.

    unfit: number of a line -> why it cannot be run. A job that all its lines share this with is `refused`.
    """
    lines: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        last = job_of(jobs, row)
        for job in (*upstream(jobs, last), last):
            lines.setdefault((job.stage, job.name), []).append(row.number)
    plan: Plan = {}
    opening = opener()
    for (stage, name), numbers in lines.items():
        job, refused = jobs[stage][name], unfit[numbers[0]] if all(number in unfit for number in numbers) else ""
        entry = _unknown(job) if refused else _entry(job, opening)
        again = any(plan["/".join(need)]["why"] for need in job.needs)
        plan[f"{stage}/{name}"] = entry | {"why": entry["why"] or "what it needs is run again" * again,
                                           "refused": refused, "reason": job.reason}
    return plan


def with_plan(jobs: dict[str, dict[str, Job]], plan: Plan) -> dict[str, dict[str, Job]]:
    """The same jobs, their executed notebooks called as the plan says."""
    return {stage: {name: dataclasses.replace(job, executed=plan[f"{stage}/{name}"]["executed"])
                    for name, job in named.items()} for stage, named in jobs.items()}


def opener() -> Callable[[Experiment, str], Any]:
    """A function that opens the pictures of a role of an experiment, equal ones once, and fetches none."""
    from cause_lib.runs.features import open_dataset

    opened: dict[str, Any] = {}

    def opening(experiment: Experiment, role: str) -> Any:
        asked = repr([role, *(getattr(experiment, name) for name in OPENED)])
        if asked not in opened:
            opened[asked] = open_dataset(experiment, role, experiment.image_size, download=False)
        return opened[asked]

    return opening


def today(experiment: Experiment, stage: str, opening: Callable[[Experiment, str], Any]) -> Path | None:
    """The folder that an artefact has for the pictures, labels and weights that are here now; None where there are no
    such pictures or weights. opening: an `opener`."""
    if "rival" in stage:
        from cause_rivals.run import folder_of
    else:
        from cause_lib.runs.stage import folder_of
    try:
        return folder_of(experiment, stage, opening)
    except Refusal:
        return None


def _entry(job: Job, opening: Callable[[Experiment, str], Any]) -> dict[str, Any]:
    from cause_lib.runs.store import made_by_other
    from cause_lib.weights import weights_fingerprint

    released = job.stage == "evaluation" and job.experiment.release
    artefacts = [today(job.experiment, stage, opening) for stage in ARTEFACTS[job.stage][-1 if released else 0:]]
    if None in artefacts:  # the job fetches what it lacks, or says what that is
        return _unknown(job)
    identity = {"artefacts": [folder.name for folder in artefacts],
                "weights": weights_fingerprint(job.experiment.backbone), "library": _library(),
                "notebook": _code_of(job.notebook)}
    name = f"{job.name}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"
    place, runs = Path(job.output).parent, 0
    while (place / f"{_called(name, runs + 1)}.ipynb").is_file():
        runs += 1
    gone = [folder for folder in artefacts if not _is_whole(folder)]
    old = [folder for folder in artefacts if made_by_other(folder)]
    why = "" if runs else _why(place, job.name, identity)
    if runs and gone:
        why = f"an artefact is gone or damaged: {gone[0].parent.name}/{gone[0].name}"
    elif runs and old:
        why = f"another version of the library made an artefact: {old[0].parent.name}/{old[0].name}"
    if why:
        old += [path.parent for path in Path(job.experiment.run_dir).glob("features/*/artefact.json")
                if made_by_other(path.parent)]
    return {"executed": _called(name, runs + bool(why)), "identity": identity, "why": why, "old": [*map(str, old)]}


def _unknown(job: Job) -> dict[str, Any]:
    return {"executed": f"{job.name}-unknown", "identity": {}, "why": "its pictures or weights are not here",
            "old": []}


def _called(name: str, run: int) -> str:
    return name if run <= 1 else f"{name}.{run}"


def _is_whole(folder: Path) -> bool:
    from cause_lib.runs.store import is_made

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of artefacts of another version, which are made anew
            return is_made(folder)
    except Refusal:  # the job itself will say what is wrong with it
        return False


def _library() -> str:
    """The library's version; of those that go on to the same bits, the first."""
    from cause_lib.runs.version import SAME_BITS, library_version

    version = library_version()
    return SAME_BITS.get(version.partition("+")[2], (version,))[0]


def _code_of(notebook: str) -> str:
    cells = json.loads(Path(notebook).read_text(encoding="utf8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def _why(place: Path, name: str, identity: dict[str, Any]) -> str:
    """What differs from the nearest of the notebooks that were executed for the same settings."""
    changed = []
    for path in place.glob(f"{name}-*.ipynb"):
        before = json.loads(path.read_text(encoding="utf8"))["metadata"].get("cause", {})
        changed.append([part for part in WORDS if before.get(part) != identity[part]])
    nearest = min(changed, key=len, default=[])
    if "weights" in nearest:
        nearest = [part for part in nearest if part != "artefacts"]  # whose names follow from the weights, too
    return ", ".join(WORDS[part] for part in nearest) or "nothing is there"


def main(table: str, place: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported
    rows = read_rows(table)
    write_plan(make_plan(rows, read_jobs(rows)), place)


def write_plan(plan: Plan, place: str | Path) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(json.dumps(plan, indent=1), encoding="utf8")


if __name__ == "__main__":
    main(*sys.argv[1:])
