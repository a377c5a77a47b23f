"""Before any work: what every line of a table resolves to, and what of it is not on this machine.

    python -m workflow.check experiments/published.csv            says both, fetches nothing
    python -m workflow.check --fetch experiments/published.csv    fetches what its source lets anybody fetch, and ends
                                                                  with an error if anything is still missing

Every data set is opened, every weights file read and every size held against its backbone's patches, so what is said is
what the run itself would say, but for all lines at once and one line for each thing that is missing or refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from workflow.rows import Job, Row, job_of, read_jobs, read_rows


def plan(rows: Iterable[Row], jobs: dict[str, dict[str, Job]]) -> str:
    """For each line: its notebook, its parameters, the executed notebook it leaves, and those it waits for."""
    lines = []
    for row in rows:
        job = job_of(jobs, row)
        lines += [f"line {row.number}: {row.label}", f"  papermill {job.notebook} {job.output} {job.arguments}"]
        lines += [f"  after {need}" for need in _upstream(jobs, job)]
    return "\n".join(lines)


def _upstream(jobs: dict[str, dict[str, Job]], job: Job) -> list[str]:
    """What a job waits for, what that waits for first."""
    by_output = {other.output: other for stage in jobs.values() for other in stage.values()}
    found: list[str] = []
    for need in job.needs:
        found += [*_upstream(jobs, by_output[need]), need]
    return found


def missing(rows: Iterable[Row], *, fetch: bool) -> dict[str, list[int]]:
    """What is not there, or cannot be used: the sentence that says so -> the numbers of the lines that need it.

    fetch: whether data and weights that anybody may download are downloaded now. If not, set HF_HUB_OFFLINE before
    this is called for the first time, as `main` does: the hub's client reads it once.
    """
    # PyTorch and timm take seconds to import, and a table that cannot be read should be refused at once.
    from cause_lib.backbones import check_backbone, weights_fingerprint
    from cause_lib.data import load_dataset
    from cause_lib.runs.loop import refuse_precision
    from cause_lib.runs.released import load_released
    from cause_lib.runs.saved import open_backbone, read_as

    sentences: dict[tuple, str | None] = {}
    found: dict[str, list[int]] = {}
    for row in rows:
        experiment = row.experiment
        name, read = experiment.backbone, read_as(experiment)
        trained = [experiment.train_size] if row.stage == "evaluation" and not experiment.release else []
        sizes = (experiment.image_size, *trained)
        looks = {("precision", experiment.precision, experiment.device): lambda e=experiment: refuse_precision(
                     e, e.device),
                 ("backbone", name, *read.values(), sizes): lambda n=name, r=read, s=sizes: check_backbone(n, *s, **r),
                 ("weights", name): lambda n=name: weights_fingerprint(n),
                 ("read", name, *read.values()): lambda e=experiment: open_backbone(e, None)}
        splits = [(experiment.test_split, experiment.test_images)]
        if experiment.release:
            looks["release", experiment.release, experiment.head] = lambda e=experiment: load_released(
                e.release, e.head)
        else:
            splits.insert(0, (experiment.train_split, experiment.train_images))
        for split, limit in splits:
            data = (experiment.dataset, split, experiment.folder, limit, experiment.num_classes,
                    experiment.allow_corrupt)
            looks[data] = lambda e=experiment, s=split, n=limit: load_dataset(
                e.dataset, s, image_size=e.image_size, folder=e.folder, limit=n, num_classes=e.num_classes,
                allow_corrupt=e.allow_corrupt, download=fetch)
        for thing, look in looks.items():
            if thing not in sentences:
                try:
                    look()
                    sentences[thing] = None
                except (FileNotFoundError, RuntimeError, ValueError) as error:
                    sentences[thing] = " ".join(str(error).split())
            if sentences[thing] is not None:
                found.setdefault(sentences[thing], []).append(row.number)
    return {sentence: sorted(set(numbers)) for sentence, numbers in found.items()}


def ranges(numbers: list[int]) -> str:
    """1, 2, 3, 5 -> '1-3, 5'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("table")
    parser.add_argument("--fetch", action="store_true", help="fetch what may be; an error if anything is missing")
    given = parser.parse_args(arguments)
    if not given.fetch:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        rows = read_rows(given.table)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    jobs = read_jobs(rows)
    if not given.fetch:
        print(plan(rows, jobs))
    print(f"{given.table}: {len(rows)} lines, " + ", ".join(f"{len(found)} {stage}" for stage, found in jobs.items()))
    gaps = missing(rows, fetch=given.fetch)
    for sentence, numbers in gaps.items():
        print(f"missing for {'line' if len(numbers) == 1 else 'lines'} {ranges(numbers)}: {sentence}",
              file=sys.stderr if given.fetch else sys.stdout)
    if not gaps:
        print("nothing is missing")
    elif not given.fetch:
        print("Nothing was fetched. Before any work, the run itself fetches what its source lets anybody fetch.")
    return 1 if gaps and given.fetch else 0


if __name__ == "__main__":
    sys.exit(main())
