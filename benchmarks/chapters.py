"""Every chapter alone: `python -m benchmarks.chapters [chapter ...]`, seconds and peak memory of each.

A chapter is taken from a clean checkout of HEAD, whatever else lies in the working tree, and run through papermill with
the embedded default in an empty folder of its own, so it makes whatever it needs from earlier chapters itself. Seconds
are those of the whole run, the kernel's start included. A cell added at the end asks the kernel for the most memory it
ever held (chapters start no other processes), and with what it was run.

Writes benchmarks/results/chapters.json, which book/machine.md reads: chapter -> {date, commit, library, machine,
versions, seconds, peak_bytes}. Chapters that were not asked for keep the numbers they have.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import ROOT, high_water, machine

RESULTS = Path(__file__).parent / "results" / "chapters.json"
VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "accelerate", "papermill")
LAST_CELL = "import json\nfrom benchmarks.chapters import told\nprint(json.dumps(told()))"


def told() -> dict[str, Any]:
    """What a kernel says of itself: peak_bytes (int), library (str), machine and versions (dicts)."""
    peak = high_water()  # before anything that is not the chapter's
    from cause_lib.runs.store import library_version

    return {"library": library_version(), "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS}, "peak_bytes": peak}


def checkout(folder: Path) -> str:
    """Puts the files of HEAD into `folder`; returns the commit's id."""
    git = ["git", "-C", str(ROOT)]
    packed = subprocess.run([*git, "archive", "--format=zip", "HEAD"], stdout=subprocess.PIPE, check=True).stdout
    zipfile.ZipFile(io.BytesIO(packed)).extractall(folder)
    return subprocess.run([*git, "rev-parse", "HEAD"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def measure_chapter(notebook: Path, source: Path) -> dict[str, Any]:
    """Runs one notebook in an empty folder; `source` is the checkout that its imports come from.

    Returns:
        What `told` says, and seconds (float) of wall clock.

    Raises:
        RuntimeError: a cell failed; its error is in the message.
    """
    content = json.loads(notebook.read_text(encoding="utf8"))
    content["cells"].append({"cell_type": "code", "id": "told", "metadata": {}, "source": LAST_CELL, "outputs": [],
                             "execution_count": None})
    environment = {name: value for name, value in os.environ.items() if name not in ("CAUSE_DATA", "CAUSE_WEIGHTS")}
    with tempfile.TemporaryDirectory() as folder:
        asked, done, empty = (Path(folder) / name for name in ("asked.ipynb", "done.ipynb", "empty"))
        asked.write_text(json.dumps(content), encoding="utf8")
        empty.mkdir()
        started = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "papermill", str(asked), str(done), "--cwd", str(empty), "--kernel", "python3",
             "--no-progress-bar", "--execution-timeout", "3600"],
            env=environment | {"PYTHONPATH": str(source)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False)
        seconds = time.perf_counter() - started
        if run.returncode:
            raise RuntimeError(f"{notebook.name} failed:\n{run.stdout[-2000:]}")
        last = json.loads(done.read_text(encoding="utf8"))["cells"][-1]
    return json.loads("".join(last["outputs"][0]["text"])) | {"seconds": round(seconds, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chapters", description="Each chapter alone.")
    parser.add_argument("chapters", nargs="*", metavar="chapter", help="such as 12_frontdoor; none: all of them")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file; other chapters in it are kept")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        commit = checkout(Path(folder))
        there = {path.stem: path for path in sorted((Path(folder) / "notebooks").glob("*.ipynb"))}
        if unknown := set(given.chapters) - set(there):
            parser.error(f"unknown chapter {min(unknown)!r}: HEAD has {', '.join(there)}.")
        for name in given.chapters or there:
            found = {"date": datetime.date.today().isoformat(), "commit": commit}
            found |= measure_chapter(there[name], Path(folder))
            print(f"{name:16} {found['seconds']:8.1f} s {found['peak_bytes'] / 2**20:8.0f} MiB", flush=True)
            results = json.loads(given.output.read_text(encoding="utf8")) if given.output.is_file() else {}
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(json.dumps(dict(sorted((results | {name: found}).items())), indent=1) + "\n",
                                    encoding="utf8")


if __name__ == "__main__":
    main()
