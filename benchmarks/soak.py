"""A soak: `python -m benchmarks.soak --experiments 200 --workers 2 --faults 0.1 --seed 0 --output soak.json`.

Chapter 8 through papermill, again and again, in one shared run_dir: scenes and the embedded backbone as in
experiments/quickstart.csv, heads in turn, a new seed every second time, small enough (SETTINGS: 12 pictures of 64
pixels, 32 concepts, a dozen updates a stage) for some twenty seconds each on one thread, half of them imports. Two
workers, so that the two heads of a seed want one clusterbook at once. In one of ten something goes wrong, drawn by
`seed` from FAULTS: a kernel is killed, a disk is full, a picture is truncated, a clock is set back. An attempt with a
fault must end in the right result or in one sentence that names what is wrong; then the experiment is asked for again,
as a person would.

At the end: every experiment has the numbers of a reference (the same, one after the other in one process, without
papermill, in a folder of their own), nothing half-written lies below run_dir, and memory is flat: the most that each
kernel ever held, and what this process holds, of the first quarter against the last. Needs a system with /proc.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors import safe_open

from benchmarks.chapters import checkout
from benchmarks.measure import machine
from benchmarks.soak_trials import FAULTS, FLAT, REFERENCE, SETTINGS, Place, Trial, _numbers
from cause_lib.config import Experiment
from cause_lib.runs.store import library_version

# --- the reference ---

def refer() -> None:
    """Reads parameters from stdin, a JSON object a line, and prints what the right numbers are, one line each."""
    from cause_lib.stages import evaluate, evaluate_baseline

    for line in sys.stdin:
        experiment = Experiment.from_dict(json.loads(line))
        folders = [make(experiment) for make in (evaluate, evaluate_baseline)]
        print("reference", json.dumps([_numbers(folder / "metrics.json") for folder in folders]), flush=True)


def references(place: Place, asked: Sequence[dict[str, Any]]) -> list[list[dict]]:
    """The right numbers of each of the experiments, from one undisturbed process."""
    lines = "".join(json.dumps(one | {"run_dir": str(place.root / "reference")}) + "\n" for one in asked)
    done = subprocess.run([sys.executable, "-c", REFERENCE], input=lines, env=place.environment(), cwd=place.root,
                          stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("reference ")]


# --- all of it ---

def soak(source: Path, experiments: int, workers: int, faults: float, seed: int,
         kinds: Sequence[Callable[[Trial], None]] = FAULTS) -> dict[str, Any]:
    """Runs all of it; `source` is the checkout that is run.

    Returns:
        {"settings", "experiments": an entry each with its attempts, "summary"}, as JSON takes it.
    """
    drawn = random.Random(seed)
    faulty = sorted(drawn.sample(range(experiments), round(faults * experiments)))
    order = [kind for _ in range(-(-len(faulty) // len(kinds))) for kind in drawn.sample(kinds, len(kinds))]
    wrong = dict(zip(faulty, order))
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        place = Place(source, Path(root).resolve())
        trials: list[Trial] = []
        entries: list[dict[str, Any]] = [{} for _ in range(experiments)]
        before, started = _held(place), time.monotonic()
        usual = [10.0]

        def one(number: int) -> None:
            fault = wrong.get(number)
            parameters = SETTINGS | {"dataset": "scenes", "backbone": "bundled", "head": ("tr", "mlp")[number % 2],
                                     "seed": number // 2, "device": "cpu", "run_dir": str(place.root / "runs")}
            trial = Trial(place, number, parameters, fault.__name__ if fault else "", random.Random(f"{seed} {number}"),
                          statistics.median(usual))
            trials.append(trial)
            began = time.monotonic() - started
            if fault is not None:
                fault(trial)
            last = trial.ask()
            if fault is None and last.ended == "ran":
                usual.append(last.seconds)
            entries[number] = {"number": number, "head": parameters["head"], "seed": parameters["seed"],
                               "fault": trial.fault, "began": round(began, 1)} | _held(place)
            print(f"{number:4} {parameters['head']:3} {trial.fault or 'as it is':18} "
                  + ", ".join(f"{a.ended} {a.seconds:.1f} s" for a in trial.attempts), flush=True)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(experiments)))
        took = time.monotonic() - started
        after, left = _held(place), leftovers(place)
        trials.sort(key=lambda trial: trial.number)
        for trial, entry, right in zip(trials, entries, references(place, [trial.parameters for trial in trials])):
            entry |= judge(trial, right)
    return {"settings": SETTINGS, "experiments": entries,
            "summary": summary(entries, before, after, left, took, workers, seed)}


def judge(trial: Trial, right: list[dict]) -> dict[str, Any]:
    """Holds every attempt against the reference; `outcome` is that of the experiment: right, or what was not."""
    attempts = []
    for attempt in trial.attempts:
        if attempt.ended == "ran":
            differs = sorted({key for mine, its in zip(attempt.numbers, right) for key in mine.keys() | its.keys()
                              if key != "experiment" and mine.get(key) != its.get(key)})
            attempt.ended, attempt.said = ("wrong", "differs in " + ", ".join(differs)) if differs else ("right", "")
        attempts.append({"disturbed": attempt.disturbed, "ended": attempt.ended, "said": attempt.said,
                         "seconds": attempt.seconds, "peak_bytes": attempt.peak_bytes})
    bad = [a["ended"] for a in attempts if a["ended"] not in ("right", "said", "killed")]
    if attempts[-1]["ended"] != "right":
        bad.append(attempts[-1]["ended"])
    return {"outcome": bad[0] if bad else "right", "attempts": attempts}


def leftovers(place: Place) -> dict[str, list[str]]:
    """What should not be there: `half_written` below run_dir, `unreadable` files of artefacts, `temporary` files."""
    runs = place.root / "runs"
    half, unreadable = [], []
    for path in sorted(runs.glob("*/*")):
        if not (path / "artefact.json").is_file() or path.name.startswith("."):
            half.append(path.relative_to(runs).as_posix())
            continue
        for file in path.glob("*.safetensors"):
            try:
                with safe_open(file, framework="np") as tensors:
                    tensors.keys()
            except Exception as error:  # safetensors raises a type of its own
                unreadable.append(f"{file.relative_to(runs).as_posix()}: {error}")
    temporary = sorted(path.name for name in ("temporary", "runtime") for path in (place.root / name).iterdir())
    return {"half_written": half, "unreadable": unreadable, "temporary": temporary}


def _held(place: Place) -> dict[str, int]:
    """What is held now: this process's bytes and open files, shared memory and temporary files by name."""
    gc.collect()
    me, shared = psutil.Process(), Path("/dev/shm")
    return {"driver_bytes": me.memory_info().rss, "driver_files": me.num_fds(),
            "shared_memory_files": len(list(shared.iterdir())) if shared.is_dir() else 0,
            "temporary_files": len(list((place.root / "temporary").iterdir()))}


def trend(values: Sequence[float]) -> dict[str, float]:
    """Medians of the first and of the last quarter, their ratio, and the slope of a line through all, an experiment."""
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    slope = float(np.polyfit(range(len(values)), values, 1)[0]) if len(values) > 1 else 0.0
    return {"first_quarter": first, "last_quarter": last, "ratio": last / first, "slope": slope}


def summary(entries: list[dict[str, Any]], before: dict[str, int], after: dict[str, int], left: dict[str, list[str]],
            took: float, workers: int, seed: int) -> dict[str, Any]:
    """The soak in a few numbers; `good` is the verdict on all but memory, `flat` that on memory."""
    plain = [e["attempts"][0] for e in entries if not e["fault"]]
    peaks = {head: [e["attempts"][-1]["peak_bytes"] for e in entries
                    if e["head"] == head and e["attempts"][-1]["peak_bytes"]] for head in ("tr", "mlp")}
    ended = [a["ended"] for e in entries for a in e["attempts"]]
    trends = {head: trend(found) for head, found in peaks.items() if found}
    driver = trend([e["driver_bytes"] for e in sorted(entries, key=lambda e: e["began"])])
    return {
        "experiments": len(entries), "workers": workers, "seed": seed, "minutes": round(took / 60, 1),
        "seconds_each": statistics.median(a["seconds"] for a in plain) if plain else None,
        "faulty": sum(bool(e["fault"]) for e in entries), "right": sum(e["outcome"] == "right" for e in entries),
        "attempts": {name: ended.count(name) for name in sorted(set(ended))},
        "not_right": [e["number"] for e in entries if e["outcome"] != "right"],
        "kernel_peak": trends, "driver_bytes": driver, "before": before, "after": after, "left": left,
        "flat": all(found["ratio"] <= FLAT for found in (*trends.values(), driver)),
        "good": all(e["outcome"] == "right" for e in entries) and not left["half_written"] and not left["unreadable"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faults", type=float, default=0.1, help="share of experiments in which something goes wrong")
    parser.add_argument("--seed", type=int, default=0, help="draws where, when and what")
    parser.add_argument("--kinds", nargs="*", default=[], metavar="fault",
                        help=f"of {', '.join(kind.__name__ for kind in FAULTS)}; none: all of them")
    parser.add_argument("--output", type=Path, help="the JSON file; none: only what is printed")
    given = parser.parse_args(arguments)
    known = {kind.__name__: kind for kind in FAULTS}
    if unknown := set(given.kinds) - set(known):
        parser.error(f"unknown fault {min(unknown)!r}: there are {', '.join(known)}.")
    with tempfile.TemporaryDirectory() as source:
        record = {"date": datetime.date.today().isoformat(), "commit": checkout(Path(source)),
                  "library": library_version(), "machine": machine("cpu")}
        record |= soak(Path(source), given.experiments, given.workers, given.faults, given.seed,
                       [known[name] for name in given.kinds] or FAULTS)
    print(json.dumps(record["summary"], indent=1))
    for entry in record["experiments"]:
        if entry["outcome"] != "right":
            print(json.dumps(entry, indent=1), file=sys.stderr)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    return 0 if record["summary"]["good"] and record["summary"]["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
