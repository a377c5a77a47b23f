"""`python -m benchmarks [subject ...] [--quick]`: the table, and its numbers in benchmarks/results/<machine>.json.

`python -m benchmarks gpu` does that and all else that needs a GPU, see gpu.py."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, measure_curve, measure_row
from cause_lib.runs.store import library_version

SUBJECTS = ("modularity", "contrast", "crf", "kmeans", "heads")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours against the textbook forms.")
    parser.add_argument("subjects", nargs="*", metavar="subject", help=f"of {', '.join(SUBJECTS)}; none: all of them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries everything, measures nothing")
    parser.add_argument("--output", type=Path, help="the JSON file; other subjects' numbers in it are kept")
    given = parser.parse_args(arguments)
    if unknown := set(given.subjects) - set(SUBJECTS):
        parser.error(f"unknown subject {min(unknown)!r}: there are {', '.join(SUBJECTS)}.")
    here = machine(given.device)
    path = given.output
    if path is None and not given.quick:
        slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((R|TM)\)", "", here["device"]).lower()).strip("-")
        cores = f"-{here['cores']}-cores" if given.device == "cpu" else ""
        path = Path(__file__).parent / "results" / f"{slug}{cores}.json"
    results = json.loads(path.read_text(encoding="utf8")) if path is not None and path.is_file() else {}
    print(", ".join(f"{name} {value}" for name, value in here.items()))
    for subject in given.subjects or SUBJECTS:
        module = import_module(f"benchmarks.{subject}")
        record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "library": library_version(),
                                  "machine": here, "rows": [], "curves": []}
        for row in module.ROWS:
            record["rows"].append(measure_row(row, given.device, subject, given.quick))
            print(table(record["rows"][-1]), flush=True)
        for curve in module.CURVES:
            record["curves"].append(measure_curve(curve, given.device, given.quick))
            print(growth(record["curves"][-1]), flush=True)
        results[subject] = record
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


def table(record: dict[str, Any]) -> str:
    """One row as text, a line a form."""
    lines = [f"\n{record['name']}  ({', '.join(f'{name} {size}' for name, size in record['sizes'].items())})",
             f"  {'':24}{'median s':>12}{'faster':>10}{'extra MB':>12}{'smaller':>10}"]
    for form, found in record["forms"].items():
        ratios = [f"{found[name]:.1f} x" if name in found else "" for name in ("times_faster", "times_smaller")]
        lines.append(f"  {form:24}{found['median']:12.4f}{ratios[0]:>10}{found['extra_bytes'] / 2**20:12.1f}"
                     f"{ratios[1]:>10}")
    if not record["fits"]:
        lines.append(f"  the last form does not fit: its largest tensor would have {record['largest_bytes'] / 1e9:.0f} GB"
                     f"; ours took {next(iter(record['forms'].values()))['peak_bytes'] / 1e9:.1f} GB in all")
    return "\n".join(lines)


def growth(record: dict[str, Any]) -> str:
    """One curve as text, a line a value."""
    lines = [f"\n{record['name']}: seconds along {record['along']}"]
    for point in record["points"]:
        times = ", ".join(f"{form} {value:.4f}" for form, value in point.items() if form != record["along"])
        lines.append(f"  {point[record['along']]:>6}  {times}")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks import gpu

        raise SystemExit(gpu.main(sys.argv[2:]))
    main()
