"""Tiny runs of the methods of `cause_rivals`, and what has to hold for each of them."""

import json
from pathlib import Path

import pytest
from conftest import TINY, draw_folder

from cause_lib.runs.loop import Run
from cause_rivals import evaluate, fit, rival


def tiny_rival(method: str, root: Path, settings: dict, label_seed: int | None = None, **fields):
    """A run on a drawn folder below `root`."""
    if not (root / "data").exists():
        draw_folder(root / "data", label_seed=label_seed)
    return rival(method, settings, dataset="folder", folder=str(root / "data"), run_dir=str(root / "runs"),
                 **TINY | {"crops": "none"} | fields)


def runs_and_resumes(method: str, root: Path, settings: dict, monkeypatch, **fields) -> dict:
    """Fits and judges; killed at each checkpoint and resumed it has the same bits, and with noise for labels, too.

    Returns the metrics of the first run.
    """
    first = tiny_rival(method, root / "a", settings, **fields)
    whole = (fit(first) / "rival.safetensors").read_bytes()
    metrics = json.loads((evaluate(first) / "metrics.json").read_text())
    killed = tiny_rival(method, root / "b", settings, **fields)
    save, kills = Run.save, 0

    def kill(run: Run) -> None:
        save(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", kill)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(killed)
        kills += 1
    monkeypatch.setattr(Run, "save", save)
    assert kills == 2 and (fit(killed) / "rival.safetensors").read_bytes() == whole
    noisy = tiny_rival(method, root / "c", settings, label_seed=1, **fields)
    assert (fit(noisy) / "rival.safetensors").read_bytes() == whole
    return metrics
