"""Builds the book: _config.yml, _toc.yml, book/, notebooks/ -> _build/html, every notebook run, a warning is an error.

Jupyter Book keeps executed notebooks and asks only whether their code cells changed. What they import counts as well:
when cause_lib, a library that it computes with, the results of benchmarks and reruns or the tables of experiments are
other ones than last time, the kept outputs and the runs of the embedded default in notebooks/runs are thrown away. Runs
on other backbones are somebody's work and stay where they are.
"""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "seaborn", "pandas")


def library_fingerprint(*folders: Path) -> str:
    """SHA-256 over the folders' files (names and bytes) and the versions of the libraries the book computes with."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def drop_default_runs(runs: Path) -> None:
    """Removes artefacts and checkpoints of the embedded default (`bundled`, trained or random) under `runs`, and nothing else."""
    for record in sorted([*runs.rglob("artefact.json"), *runs.rglob("metrics.json")]):
        if record.exists() and json.loads(record.read_text())["experiment"]["backbone"] in ("bundled", "bundled.random"):
            shutil.rmtree(record.parent)
    for checkpoint in runs.rglob("*bundled*.checkpoint.safetensors"):
        checkpoint.unlink()


def main() -> int:
    """Returns the exit status of Jupyter Book: 0 only where nothing failed and nothing warned."""
    key = BUILD / "library.sha256"
    read = ("cause_lib", "cause_book", "benchmarks/results", "book/results", "experiments")
    fingerprint = library_fingerprint(*(ROOT / folder for folder in read))
    if not key.exists() or key.read_text() != fingerprint:
        shutil.rmtree(BUILD, ignore_errors=True)
        drop_default_runs(ROOT / "notebooks" / "runs")
        BUILD.mkdir()
        key.write_text(fingerprint)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")  # of this environment, whatever PATH says
    command = [str(jupyter_book), "build", str(ROOT), "--all", "-W", "--keep-going"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
