"""What a soak asks for: one attempt at chapter 8 in a shared run_dir, and the faults that may befall it (soak.py)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
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

from cause_lib.config import Experiment
from cause_lib.errors import Refusal

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
        content = json.loads((self.source / "notebooks/08_evaluation.ipynb").read_text(encoding="utf8"))
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
    """All that a metrics.json says of the result: neither how long it took, nor when and where, nor how much memory."""
    report = json.loads(path.read_text(encoding="utf8"))
    report["positive_seconds"] = report.pop("seconds") >= 0
    del report["date"], report["peak_mb"]
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
