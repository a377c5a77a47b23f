"""Before any work: what every line of a table resolves to, and what of it is not on this machine.

    python -m workflow.check experiments/published.csv            says both, fetches nothing
    python -m workflow.check --fetch experiments/published.csv    fetches what its source lets anybody fetch, and ends
                                                                  with an error if anything is still missing

With --plan FILE, what Snakemake needs to run the lines that can be run is written there, and it is an error only if
none can (`make table`).

Every data set is opened and the header and end of every picture looked at, every weights file read and every size held
against its backbone's patches (`cause_lib.runs.check`), so what is said is what the run itself would say, but for all
lines at once and one line for each thing that is missing or refused. `python -m cause_lib.data check` looks further.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from workflow.identity import Plan, make_plan, with_plan, write_plan
from workflow.rows import Job, Row, job_of, read_jobs, read_rows, upstream


def described(rows: Iterable[Row], jobs: dict[str, dict[str, Job]]) -> str:
    """For each line: its notebook, its parameters, the executed notebook it leaves, and those it waits for."""
    lines = []
    for row in rows:
        job = job_of(jobs, row)
        lines += [f"line {row.number}: {row.label}", f"  papermill {job.notebook} {job.output} {job.arguments}"]
        lines += [f"  after {need.output}" for need in upstream(jobs, job)]
    return "\n".join(lines)


def to_do(plan: Plan, *, each: bool) -> str:
    """How many jobs are to be run, and why; `each`: a line for every one."""
    reasons = {name: entry["why"] for name, entry in plan.items() if entry["why"] and not entry["refused"]}
    lines = [f"to run: {name} ({why})" for name, why in reasons.items()] * each
    kinds = Counter(why.partition(":")[0] for why in reasons.values())
    counts = ", ".join(f"{count} because {why}" for why, count in kinds.items())
    return "\n".join([*lines, f"{len(reasons)} of {len(plan)} jobs are to be run" + f": {counts}" * bool(counts)])


def missing(rows: Iterable[Row], *, fetch: bool) -> dict[str, list[int]]:
    """The first of what `findings` returns."""
    return findings(rows, fetch=fetch)[0]


def findings(rows: Iterable[Row], *, fetch: bool) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """What is not there, or cannot be used: the sentence that says so -> the numbers of the lines that need it.

    fetch: whether data and weights that anybody may download are downloaded now. If not, set HF_HUB_OFFLINE before
    this is called for the first time, as `main` does: the hub's client reads it once.

    Returns:
        That, and in the same way what a run would warn of before any work, such as labels of one class.
    """
    # PyTorch and timm take seconds to import, and a table that cannot be read should be refused at once.
    from cause_lib.runs.check import looks

    said: dict[Hashable, tuple[str | None, list[str]]] = {}
    gaps: dict[str, list[int]] = {}
    remarks: dict[str, list[int]] = {}
    for row in rows:
        given, stage = row.experiment, row.stage
        if stage == "rival":  # looks at the same pictures and sizes
            given, stage = given.experiment, "evaluation"
        for thing, look in looks(given, stage, here=False, fetch=fetch).items():
            if thing not in said:
                said[thing] = _heard(look)
            refusal, warned = said[thing]
            for found, sentence in [(gaps, refusal)] * (refusal is not None) + [(remarks, one) for one in warned]:
                found.setdefault(sentence, []).append(row.number)
    gaps, remarks = ({sentence: sorted(set(numbers)) for sentence, numbers in found.items()}
                     for found in (gaps, remarks))
    return gaps, remarks


def _heard(look: Callable[[], object]) -> tuple[str | None, list[str]]:
    """The sentence with which a look refuses, or None, and those of its warnings."""
    from cause_lib.data.noted import SAID

    SAID.clear()  # what was said of one line is said of the next, too
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            look()
            refusal = None
        except (FileNotFoundError, RuntimeError, ValueError) as error:
            refusal = " ".join(str(error).split())
    return refusal, [str(one.message) for one in caught if one.category is UserWarning]


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
    parser.add_argument("--plan", help="a file for which jobs are to be run, for Snakemake (workflow.identity)")
    given = parser.parse_args(arguments)
    if not given.fetch:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        rows = read_rows(given.table)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    jobs = read_jobs(rows)
    print(f"{given.table}: {len(rows)} lines, " + ", ".join(f"{len(found)} {stage}" for stage, found in jobs.items()))
    gaps, remarks = findings(rows, fetch=given.fetch)
    unfit = {number: sentence for sentence, numbers in reversed(gaps.items()) for number in numbers}
    plan = make_plan(rows, jobs, unfit)
    if given.plan:
        write_plan(plan, given.plan)
    if not given.fetch:
        print(described(rows, with_plan(jobs, plan)))
    if old := {folder for entry in plan.values() for folder in entry["old"]}:
        print(f"remark: another version of the library made {len(old)} artefacts; they are made anew, and those of "
              "before are put aside: .made-by-... in the run_dir", file=sys.stderr if given.fetch else sys.stdout)
    for found, word in ((remarks, "remark on"), (gaps, "missing for")):
        for sentence, numbers in found.items():
            print(f"{word} {'line' if len(numbers) == 1 else 'lines'} {ranges(numbers)}: {sentence}",
                  file=sys.stderr if given.fetch else sys.stdout)
    if not gaps:
        print("nothing is missing")
    elif not given.fetch:
        print("Nothing was fetched. Before any work, the run itself fetches what its source lets anybody fetch.")
    elif len(unfit) < len(rows):
        print(f"{len(unfit)} of {len(rows)} lines cannot be run; the others are.", file=sys.stderr)
    print(to_do(plan, each=not given.fetch))
    return 1 if given.fetch and gaps and (len(unfit) == len(rows) or not given.plan) else 0


if __name__ == "__main__":
    sys.exit(main())
