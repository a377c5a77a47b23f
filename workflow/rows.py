"""A table of experiments as jobs: a line is a run, and what several lines need is one job.

A table is a CSV file whose columns are fields of `cause_lib.config.Experiment`; an empty cell keeps the default. Two
more columns may be there, which no notebook gets: `row`, what the line is called (the published row that it repeats),
and `notebook`, what it runs: chapter 8 unless said, or the baseline's, for raw tokens. A line with a `method`, and
perhaps `settings`, is a run of a rival (`cause_rivals`).

Lines that agree in all that a stage's artefact depends on (`Experiment.key`) share one job of that stage. Two heads
therefore never compute the same clusterbook, not even at once; nor do two seeds of the evaluation the same baseline.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cause_lib.config import STAGE_FIELDS, Experiment

#: The notebook that makes each stage's artefact.
NOTEBOOKS = {
    "clusterbook": "notebooks/05_clusterbook.ipynb",
    "head": "notebooks/07_heads.ipynb",
    "baseline": "workflow/baseline.ipynb",
    "evaluation": "notebooks/08_evaluation.ipynb",
    "rival": "workflow/rival.ipynb",
}
#: Which fields tell the jobs of a stage apart.
KEYS = {"clusterbook": "clusterbook", "head": "head", "baseline": "baseline_evaluation", "evaluation": "evaluation",
        "rival": "rival_evaluation"}
#: What each stage takes from others.
UPSTREAM = {"clusterbook": (), "head": ("clusterbook",), "baseline": (), "evaluation": ("head", "baseline"),
            "rival": ()}
LABELS = ("row", "notebook")
PLACES = ("run_dir", "device", "cache_gb", "num_workers", "checkpoint_steps")  # decide where and how fast, not what


@dataclass(frozen=True)
class Row:
    """A line of a table: its number (the first after the heading is 1), what it is called, its cells, what it runs."""

    number: int
    label: str
    parameters: dict[str, Any]
    experiment: Any  # an Experiment, or a Rival, which has its fields, too
    stage: str  # "evaluation", "baseline" for raw tokens, or "rival"

    @property
    def settings(self) -> str:
        """Its cells as JSON, without those that only say where and how fast it runs."""
        return json.dumps({name: cell for name, cell in self.parameters.items() if name not in PLACES}, sort_keys=True)


@dataclass(frozen=True)
class Job:
    """One executed notebook: `parameters` are what papermill gives it, `needs` the names of the jobs it waits for.

    `executed` is what the notebook is called once it has been run (`workflow.identity`); until that is known, `name`.
    """

    stage: str
    name: str
    parameters: dict[str, Any]
    experiment: Any
    needs: tuple[tuple[str, str], ...]  # stage and name of each
    executed: str = ""

    @property
    def notebook(self) -> str:
        return NOTEBOOKS[self.stage]

    @property
    def output(self) -> str:
        return f"{self.experiment.run_dir}/notebooks/{self.stage}/{self.executed or self.name}.ipynb"

    @property
    def reason(self) -> str:
        """The file that says why the job has not come to its end, while it has not (`workflow.job`)."""
        return f"{self.experiment.run_dir}/notebooks/under-way/{self.stage}-{self.name}.txt"

    @property
    def arguments(self) -> str:
        """The parameters as papermill's command line takes them; text goes as text, even if it looks like a number."""
        words = []
        for name, value in self.parameters.items():
            words += ["-r" if isinstance(value, str) else "-p", name, str(value)]
        return shlex.join(words)


def read_rows(table: str | Path) -> list[Row]:
    """The lines of a table; lines without any filled cell are none.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a line or a column that is none; the message names the line and, for a column, the nearest field.
    """
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"There is no table {table}: give the path of a CSV file, such as "
                                "experiments/quickstart.csv.")
    try:
        text = table.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the text
        names, *lines = [*csv.reader(io.StringIO(text))] or [[]]
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}): save it as CSV, in UTF-8.") from None
    for mark, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and mark in names[0]:
            raise ValueError(f"{table} separates its cells by {called}: save it as CSV with commas, as "
                             f"{names[0].replace(mark, ',')[:60]}.")
    while names and not names[-1].strip():  # which spreadsheets leave beside a table
        names.pop()
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{table} has the column {twice[0]!r} more than once: keep the one that you mean.")
    rows = []
    for number, cells in enumerate((line for line in lines if "".join(line).strip()), start=1):
        try:
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(names):
                raise ValueError(f"it has {len(cells)} cells, and the heading has {len(names)}: make them as many.")
            filled = {name: text for name, text in zip(names, cells) if text != ""}
            rows.append(_row(number, table, filled))
        except ValueError as error:
            raise ValueError(f"{table}, line {number}: {error}") from None
    if not rows:
        raise ValueError(f"{table} has no lines: write one below its heading for every run.")
    run_dirs = sorted({row.experiment.run_dir for row in rows})
    if len(run_dirs) > 1:
        raise ValueError(f"{table} names several run_dir ({', '.join(run_dirs)}): keep one, so that the lines of a "
                         "table can share what they compute.")
    return rows


def read_jobs(rows: list[Row]) -> dict[str, dict[str, Job]]:
    """stage -> name -> job: everything that the lines of a table need, each once, and no stage without a job."""
    jobs: dict[str, dict[str, Job]] = {stage: {} for stage in NOTEBOOKS}
    for row in rows:
        _add(jobs, row, row.stage)
    return {stage: found for stage, found in jobs.items() if found}


def job_of(jobs: dict[str, dict[str, Job]], row: Row, stage: str | None = None) -> Job:
    """The job that runs a line, or one upstream of it."""
    return jobs[stage or row.stage][_name(row.experiment, stage or row.stage)]


def upstream(jobs: dict[str, dict[str, Job]], job: Job) -> list[Job]:
    """What a job waits for, what that waits for first; each once."""
    found: list[Job] = []
    for stage, name in job.needs:
        found += [one for one in (*upstream(jobs, jobs[stage][name]), jobs[stage][name]) if one not in found]
    return found


def _row(number: int, table: Path, cells: dict[str, str]) -> Row:
    stages = {NOTEBOOKS[stage]: stage for stage in ("evaluation", "baseline")}
    label, notebook = cells.pop("row", f"{table.stem}-{number}"), cells.pop("notebook", NOTEBOOKS["evaluation"])
    if notebook not in stages:
        if found := [name for name in stages if Path(name).stem == _renamed(Path(notebook).stem)]:
            raise ValueError(f"notebook {notebook!r} is called {found[0]!r} here: write that.")
        raise ValueError(f"notebook {notebook!r} is none of {', '.join(stages)}.")
    kinds = {field.name: field.type.split(" | ")[0] for field in dataclasses.fields(Experiment)}
    parameters = {name: _value(text, kinds.get(name)) for name, text in cells.items()}
    if "method" in parameters:
        from cause_rivals import rival  # with PyTorch, which other tables do not wait for

        return Row(number, label, parameters, rival(**parameters), "rival")
    return Row(number, label, parameters, Experiment.from_dict(parameters), stages[notebook])


def _renamed(chapter: str) -> str:
    """What a chapter of an earlier edition is called now; other names stay."""
    moved = Path(__file__).resolve().parents[1] / "book/_ext/moved.json"
    return json.loads(moved.read_text(encoding="utf8"))["pages"].get(chapter, chapter)


def _value(text: str, kind: str | None) -> Any:
    """A cell as its field's kind; what does not fit stays text, and `Experiment` says what is wrong with it."""
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in ("int", "float"):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                pass
    return text


def _add(jobs: dict[str, dict[str, Job]], row: Row, stage: str) -> tuple[str, str]:
    alone = stage == "evaluation" and row.experiment.release  # released files are judged as they are
    needs = tuple(_add(jobs, row, upstream) for upstream in (() if alone else UPSTREAM[stage]))
    name = _name(row.experiment, stage)
    parameters = row.parameters
    if stage == "baseline":  # the same whichever line needs it, and no head's settings in a notebook without a head
        kept = {*STAGE_FIELDS[KEYS[stage]], *PLACES, "reading"}  # which decides some of these fields
        parameters = {key: value for key, value in parameters.items() if key in kept}
    jobs[stage].setdefault(name, Job(stage, name, parameters, row.experiment, needs))
    return stage, name


def _name(experiment: Any, stage: str) -> str:
    """A file name that a person can read, and the hash of all that the stage's artefact depends on."""
    key = experiment.key(KEYS[stage])
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    parts = [Path(experiment.folder).name or experiment.dataset, experiment.backbone]
    parts += [key.get("method") or experiment.head] if {"head", "method"} & {*key} else []
    parts += [] if key.get("label_free", True) else ["labels"]
    parts += ["release"] if key.get("release") else []
    return re.sub(r"[^\w.+-]+", "_", "-".join([*parts, f"s{experiment.seed}", digest]))
