"""The soak's harness: what it calls right, said, wrong and left over; and four notebooks of a real, short one."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import soak

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path):
    return soak.Place(ROOT, tmp_path)


def failed(path, name, value):
    error = {"output_type": "error", "ename": name, "evalue": value, "traceback": []}
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": [error]}]}))
    return path


@pytest.mark.parametrize("name, value, says, ended", [
    ("ValueError", "Unknown parameter 'sede': did you mean 'seed'?", "'seed'", "said"),
    ("ValueError", "Unknown parameter 'sede': did you mean 'seed'?", "'head'", "accident"),
    ("ValueError", "Unknown parameter 'sede': did you mean 'seed'?", None, "accident"),
    ("KeyError", "'seed' is what the traceback ends with", "seed", "accident"),
    ("RuntimeError", "seed, said\non two lines", "seed", "accident"),
])
def test_only_one_sentence_that_names_it_counts_as_said(tmp_path, name, value, says, ended):
    assert soak._sentence(failed(tmp_path / "a.ipynb", name, value), says) == (ended, f"{name}: {value}")
    assert soak._sentence(tmp_path / "none.ipynb", says) == ("accident", "")


def test_attempts_are_held_against_the_reference(place):
    right = [{"results": [1], "experiment": {}}, {"results": [2], "experiment": {}}]
    trial = soak.Trial(place, 0, {}, "killed", random.Random(0), 1.0)
    trial.attempts = [soak.Attempt({}, ended="killed"), soak.Attempt({}, ended="ran", numbers=right)]
    assert soak.judge(trial, right)["outcome"] == "right"
    trial.attempts[-1:] = [soak.Attempt({}, ended="ran", numbers=[right[0], right[1] | {"results": [3]}])]
    judged = soak.judge(trial, right)
    assert judged["outcome"] == "wrong" and judged["attempts"][1]["said"] == "differs in results"
    trial.attempts = [soak.Attempt({}, ended="said", said="what is wrong")]  # and never asked again
    assert soak.judge(trial, right)["outcome"] == "said"


def test_leftovers_are_whatever_is_no_whole_artefact(place):
    runs = place.root / "runs"
    whole = runs / "head" / "scenes-0"
    whole.mkdir(parents=True)
    (whole / "artefact.json").write_text("{}")
    save_file({"x": torch.zeros(3)}, whole / "head.safetensors")
    assert soak.leftovers(place) == {"half_written": [], "unreadable": [], "temporary": []}
    (runs / "head" / ".scenes-1.abc").mkdir()
    (runs / "head" / "scenes-1.checkpoint.safetensors").write_bytes(b"")
    (whole / "head.safetensors").write_bytes(b"cut")
    (place.root / "temporary" / "tmp1").mkdir()
    found = soak.leftovers(place)
    assert found["half_written"] == ["head/.scenes-1.abc", "head/scenes-1.checkpoint.safetensors"]
    assert found["unreadable"][0].startswith("head/scenes-0/head.safetensors: ") and found["temporary"] == ["tmp1"]


def test_a_trend_is_of_quarters_and_of_a_line():
    flat, rising = soak.trend([5.0] * 8), soak.trend([float(i) for i in range(8)])
    assert flat["ratio"] == 1 and flat["slope"] == pytest.approx(0, abs=1e-12)
    assert (rising["first_quarter"], rising["last_quarter"]) == (0.5, 6.5) and rising["slope"] == pytest.approx(1)


def test_a_fault_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        soak.main(["--kinds", "flood"])
    assert "unknown fault 'flood': there are killed, misspelt" in capsys.readouterr().err


@pytest.mark.notebook
def test_a_short_soak_ends_with_everything_right():
    record = soak.soak(ROOT, 3, 2, 0.34, 0, [soak.misspelt])
    assert record["summary"]["good"] and record["summary"]["attempts"] == {"right": 3, "said": 1}
    (faulty,) = [entry for entry in record["experiments"] if entry["fault"]]
    assert [attempt["ended"] for attempt in faulty["attempts"]] == ["said", "right"]
    assert "did you mean" in faulty["attempts"][0]["said"]
    assert all(entry["attempts"][-1]["peak_bytes"] > 2**20 for entry in record["experiments"])
    json.dumps(record, allow_nan=False)
