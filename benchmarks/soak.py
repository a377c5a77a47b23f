"""A soak: `python -m benchmarks.soak --experiments 200 --workers 2 --faults 0.1 --seed 0 --output soak.json`.

Chapter 5 through papermill, again and again, in one shared run_dir: scenes and the embedded backbone as in
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
import dataclasses
import datetime
import gc
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image
from safetensors import safe_open

from benchmarks.chapters import checkout
from benchmarks.measure import machine
from cause_lib.config import Experiment
from cause_lib.errors import Refusal
from cause_lib.runs.store import library_version

SETTINGS = dict(image_size=64, train_images=12, test_images=6, crops="none", num_concepts=32, concept_steps=12,
                head_steps=8, probe_steps=12, projection_dim=64, kmeans_restarts=1, checkpoint_steps=2)
LIMIT = 600  # seconds after which an attempt hangs
FLAT = 1.1  # memory is flat where the last quarter's median is at most so many times the first's
LAST_CELL = """
import json
from benchmarks.measure import high_water
print(json.dumps({"peak_bytes": high_water(), "folders": [str(folder), str(baseline_folder)]}))
"""
REFERENCE = "from benchmarks.soak import refer\nrefer()"
# What a notebook's reader may be told with; everything else is an accident.
SAYS = tuple(kind.__name__ for kind in Refusal.__subclasses__())
MISSPELT = {"sede": "seed", "n_concepts": "num_concepts", "head_step": "head_steps", "epochs": "head_steps"}
OUT_OF_RANGE = {"lr": float("nan"), "contrast_temperature": 0.0, "ema_decay": 1.5, "batch_size": 0, "seed": -1,
                "dropout": float("inf"), "head": "cnn"}
# A clock that is an hour back after some seconds, in kernels alone.
SITECUSTOMIZE = """
import os, time
if "JPY_PARENT_PID" in os.environ:
    real, start = time.time, time.monotonic()
    time.time = lambda: real() - 3600 * (time.monotonic() - start > {after})
"""


@dataclass
class Attempt:
    """One papermill call: whether it was disturbed, seconds, the kernel's peak_bytes (None: it did not live to say),
    how it ended (right, wrong, said, accident, killed, hung; `ran` until it is judged), and what it said."""

    parameters: dict[str, Any]
    disturbed: bool = False
    seconds: float = 0.0
    peak_bytes: int | None = None
    ended: str = ""
    said: str = ""
    numbers: list[dict] | None = None


@dataclass
class Place:
    """Where a soak happens: `source` is the checkout that is run, all else is below `root`."""

    source: Path
    root: Path
    notebook: Path = field(init=False)
    calls: Iterator[int] = field(init=False, default_factory=itertools.count)

    def __post_init__(self) -> None:
        for name in ("runs", "reference", "temporary", "runtime", "executed", "data"):
            (self.root / name).mkdir()
        content = json.loads((self.source / "notebooks/05_evaluation.ipynb").read_text(encoding="utf8"))
        content["cells"].append({"cell_type": "code", "id": "told", "metadata": {}, "source": LAST_CELL, "outputs": [],
                                 "execution_count": None})
        self.notebook = self.root / "asked.ipynb"
        self.notebook.write_text(json.dumps(content), encoding="utf8")

    def environment(self, *before: Path) -> dict[str, str]:
        """One thread a process, the checkout's library, nothing of this machine's data; what is temporary is here."""
        inherited = {name: value for name, value in os.environ.items() if name not in ("CAUSE_DATA", "CAUSE_WEIGHTS")}
        return inherited | {"PYTHONPATH": os.pathsep.join(map(str, [*before, self.source])), "OMP_NUM_THREADS": "1",
                            "TMPDIR": str(self.root / "temporary"), "JUPYTER_RUNTIME_DIR": str(self.root / "runtime")}


# --- one attempt ---

class Trial:
    """One experiment of the soak: its attempts, and how each is made."""

    def __init__(self, place: Place, number: int, parameters: dict[str, Any], fault: str, drawn: random.Random,
                 usual: float) -> None:
        self.place, self.number, self.parameters, self.fault, self.drawn = place, number, parameters, fault, drawn
        self.usual = usual  # seconds that an undisturbed one takes
        self.attempts: list[Attempt] = []

    def ask(self, changes: dict[str, Any] | None = None, *, says: str | None = None, after: float | None = None,
            disturb: Callable[[psutil.Process], None] = psutil.Process.kill, before: Sequence[Path] = ()) -> Attempt:
        """Papermill once. `says`: it may end with one sentence, which has this in it; None: it must end well.

        disturb: what happens to the kernel `after` so many seconds, if it lives that long.
        """
        parameters = self.parameters | (changes or {})
        attempt = Attempt(parameters, disturbed=bool(changes or before or says or after is not None))
        self.attempts.append(attempt)
        done = self.place.root / "executed" / f"{self.number}-{next(self.place.calls)}.ipynb"
        command = [sys.executable, "-m", "papermill", str(self.place.notebook), str(done), "--cwd",
                   str(self.place.root), "--kernel", "python3", "--no-progress-bar", "--execution-timeout", str(LIMIT),
                   "-y", yaml.safe_dump(parameters)]
        started = time.monotonic()
        disturbed = False
        with (done.with_suffix(".log")).open("wb") as log:
            process = subprocess.Popen(command, env=self.place.environment(*before), stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT)
            try:
                if after is not None:
                    disturbed = _disturb(process, after, disturb)
                status = process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()
                process.wait()
                status, attempt.ended = -1, "hung"
        attempt.seconds = round(time.monotonic() - started, 2)
        if status == 0:
            told = _told(done)
            attempt.peak_bytes = told["peak_bytes"]
            attempt.numbers = [_numbers(Path(folder) / "metrics.json") for folder in told["folders"]]
            attempt.ended = "ran"
        elif not attempt.ended:
            attempt.ended, attempt.said = _sentence(done, says)
            if not attempt.said:  # the kernel did not live to say anything
                by_us = disturbed and disturb is psutil.Process.kill
                attempt.ended = "killed" if by_us else "accident"
                attempt.said = "" if by_us else done.with_suffix(".log").read_text(errors="replace")[-2000:]
        for path in (done, done.with_suffix(".log")):
            path.unlink(missing_ok=True)
        return attempt

    def made(self, stage: str) -> Path:
        """The folder of one of the experiment's own artefacts."""
        asked = {name: self.parameters[name] for name in ("head", "seed")}
        for folder in sorted((self.place.root / "runs" / stage).iterdir()):
            if (folder / "artefact.json").is_file() and not folder.name.startswith("."):
                made = json.loads((folder / "artefact.json").read_text(encoding="utf8"))["experiment"]
                if all(made[name] == value for name, value in asked.items()):
                    return folder
        raise FileNotFoundError(f"experiment {self.number} left no {stage}")


def _disturb(process: subprocess.Popen, after: float, disturb: Callable[[psutil.Process], None]) -> bool:
    """Wait, then do it to the kernel; whether it was still there."""
    started = time.monotonic()
    while process.poll() is None:
        children = psutil.Process(process.pid).children()
        if children and time.monotonic() - started >= after:
            disturb(children[0])
            return True
        time.sleep(0.05)
    return False


def _told(notebook: Path) -> dict[str, Any]:
    last = json.loads(notebook.read_text(encoding="utf8"))["cells"][-1]
    return json.loads("".join(last["outputs"][0]["text"]))


def _sentence(notebook: Path, says: str | None) -> tuple[str, str]:
    """How a failed notebook ended, `said` or `accident`, and the error that its reader sees, if any."""
    cells = json.loads(notebook.read_text(encoding="utf8"))["cells"] if notebook.is_file() else []
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    if not errors:
        return "accident", ""
    name, text = errors[-1]["ename"], errors[-1]["evalue"]
    clear = name in SAYS and 20 < len(text) < 800 and "\n" not in text.strip() and "Traceback" not in text
    return "said" if says is not None and clear and says in text else "accident", f"{name}: {text}"


def _numbers(path: Path) -> dict[str, Any]:
    """All that a metrics.json says of the result: neither how long it took, nor when and where."""
    report = json.loads(path.read_text(encoding="utf8"))
    report["positive_seconds"] = report.pop("seconds") >= 0
    report.pop("date")
    report["experiment"].pop("run_dir")
    return report


# --- what goes wrong ---

def killed(trial: Trial) -> None:
    """The kernel is killed at a random moment."""
    trial.ask(after=trial.drawn.uniform(0.3, 0.95) * trial.usual)


def misspelt(trial: Trial) -> None:
    """A parameter that does not exist."""
    wrong, right = trial.drawn.choice(sorted(MISSPELT.items()))
    trial.ask({wrong: 3}, says=f"'{right}'")


def out_of_range(trial: Trial) -> None:
    """A value that a parameter cannot have."""
    name, value = trial.drawn.choice(sorted(OUT_OF_RANGE.items(), key=lambda item: item[0]))
    trial.ask({name: value}, says=name)


def damaged(trial: Trial) -> None:
    """An artefact of an earlier stage is truncated before the start; what the sentence says is then done."""
    if trial.ask().ended != "ran":
        return
    stage = trial.drawn.choice(("head", "probe"))
    file = trial.made(stage) / f"{trial.drawn.choice(('head', 'probe')) if stage == 'probe' else 'head'}.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:trial.drawn.randrange(len(content))])
    shutil.rmtree(trial.made("evaluation"))
    if stage == "head":
        shutil.rmtree(trial.made("probe"))
    if trial.ask(says=str(file)).ended == "said":
        shutil.rmtree(file.parent)


def truncated_picture(trial: Trial) -> None:
    """One's own pictures, one of them cut off in the middle; then, where that can be asked, without it."""
    folder = trial.place.root / "data" / str(trial.number)
    colours = np.random.default_rng(trial.number)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        for i in range(6):
            picture = colours.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(picture).save(folder / split / "images" / f"{i}.png")
    file = folder / trial.drawn.choice(("train", "val")) / "images" / f"{trial.drawn.randrange(6)}.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:len(whole) // 2])
    trial.parameters = trial.parameters | {"dataset": "folder", "folder": str(folder), "num_classes": 4}
    trial.ask(says=file.name)
    if "allow_corrupt" in {field.name for field in dataclasses.fields(Experiment)}:
        trial.parameters |= {"allow_corrupt": "skip"}  # asked again, and held against the reference, as it is
    else:
        file.write_bytes(whole)


def below_a_file(trial: Trial) -> None:
    """A run_dir that cannot be made."""
    file = trial.place.root / "data" / f"{trial.number}.txt"
    file.write_text("not a folder\n")
    trial.ask({"run_dir": str(file / "runs")}, says=str(file))


def disk_full(trial: Trial) -> None:
    """No file can grow beyond so many bytes; the largest of an experiment may just fit."""
    most = 2 ** trial.drawn.choice((12, 14, 16, 18))
    trial.ask(after=0.0, disturb=lambda kernel: kernel.rlimit(psutil.RLIMIT_FSIZE, (most, most)),
              says=trial.parameters["run_dir"])


def clock_set_back(trial: Trial) -> None:
    """The kernel's clock jumps back an hour at a random moment."""
    folder = trial.place.root / "data" / f"clock-{trial.number}"
    folder.mkdir()
    after = trial.drawn.uniform(0.3, 0.95) * trial.usual
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(after=after))
    trial.ask(before=[folder])


def twice_at_once(trial: Trial) -> None:
    """Two kernels want the same experiment at the same time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: trial.ask(), range(2)))


FAULTS = (killed, misspelt, out_of_range, damaged, truncated_picture, below_a_file, disk_full, clock_set_back,
          twice_at_once)


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
