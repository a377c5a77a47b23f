"""workflow/labels.py on known trainings, checkpoints and rivals; the table of book/labels.md is what runs give."""

import doctest
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rival_steps
import torch
import torch.nn.functional as F
from torch import nn

from cause_lib.config import Experiment
from workflow import labels
from workflow.labels import Share, label_share, training_of

ROOT = Path(__file__).resolve().parents[2]
LABELS = torch.arange(40) % 3
SMALL = {"image_size": 48, "train_images": 4, "crops": "none", "num_concepts": 8, "concept_steps": 1, "thin": 2,
         "projection_dim": 16, "head_steps": 2, "probe_steps": 2, "kmeans_restarts": 1, "batch_size": 2}


def toy(labels, *, detach=True, joint=False, drawn=None):
    """A head and a linear probe on its features. joint: one clip norm over both; drawn: an unseeded choice."""
    torch.manual_seed(0)
    head, probe, x = nn.Linear(8, 4), nn.Linear(4, 3), torch.randn(40, 8)
    start = {"head.weight": head.weight.detach().clone(), "other.buffer": torch.tensor(3)}
    adam = torch.optim.Adam([*head.parameters(), *probe.parameters()])
    for _ in range(4):
        features = head(x)
        loss = features.square().mean() + F.cross_entropy(probe(features.detach() if detach else features), labels)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*head.parameters(), *(probe.parameters() if joint else ())], 0.1)
        adam.step()
    weight = head.weight.detach() + (0 if drawn is None else next(drawn))
    return start, {"head.weight": weight, "other.buffer": torch.tensor(3)}


def test_no_way_for_labels_no_share():
    assert label_share(toy, LABELS) == {"head": Share(0.0, 0.0, 0.0), "other": Share(0.0, 0.0, 0.0)}


@pytest.mark.parametrize("leak", [{"detach": False}, {"joint": True}], ids=["gradient", "norm"])
def test_a_leak_has_a_share(leak):
    train = partial(toy, **leak)
    found = label_share(train, LABELS, LABELS.flip(0) * 0 + 1)["head"]
    (start, real), other = train(LABELS), train(torch.ones_like(LABELS))[1]
    apart = (other["head.weight"] - real["head.weight"]).double()
    assert found.largest == float(apart.abs().max()) > 1e-6 and found.floor == 0
    way = (real["head.weight"] - start["head.weight"]).double().norm()
    assert found.share == pytest.approx(float(apart.norm() / way), rel=1e-6) and found.share > 1e-4


def test_what_is_not_reproducible_is_said():
    train = partial(toy, drawn=iter([0.0, 0.5, 0.25]))  # real, replaced, again
    with pytest.warns(UserWarning, match=r"other weights \(head\): training is not reproducible"):
        found = label_share(train, LABELS)["head"]
    assert found.floor > 0 and found.share == pytest.approx(2 * found.floor)


def test_refusals():
    with pytest.raises(ValueError, match="replaced labels are the labels"):
        label_share(toy, torch.zeros(40, dtype=torch.int64))
    one = {"head.weight": torch.ones(2)}
    with pytest.raises(ValueError, match="'replaced' have other names or shapes"):
        labels.compare(one, {"head.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="'again' are not all finite"):
        labels.compare(one, one, again={"head.weight": torch.tensor([1.0, torch.nan])})
    # a part that has not moved from its start, and does with other labels
    assert labels.compare(one, {"head.weight": torch.zeros(2)}, start=one)["head"].share == torch.inf


def test_examples_are_right():
    assert doctest.testmod(labels) == (0, 3)


def test_checkpoints(tmp_path):
    weights = {"start": 0.0, "real": 1.0, "replaced": 1.5, "again": 1.0}
    for name, value in weights.items():
        state = {"head.f1.weight": torch.full((4,), value), "probe.weight": torch.full((2,), weights["real"])}
        torch.save({"state_dict": state, "epoch": 3} if name == "again" else state, tmp_path / f"{name}.pth")

    def run(*words):
        return subprocess.run([sys.executable, "-m", "workflow.labels", *words], cwd=tmp_path, capture_output=True,
                              text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})

    done = run("real.pth", "replaced.pth", "--start", "start.pth", "--again", "again.pth")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["part", "largest", "share", "floor"], ["head", "5.00e-01", "50.00%", "0.00%"],
                     ["probe", "0.00e+00", "0.00%", "0.00%"]], done.stderr


@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_the_library_is_label_free_unless_asked(head):
    """The steps of the default keep their bits; with `label_free=False` labels move head and centroids."""
    change = (lambda label: label), torch.zeros_like
    free, released = (label_share(training_of(Experiment(head=head, label_free=each, **SMALL)), *change)
                      for each in (True, False))
    assert free == dict.fromkeys(("head 2", "head 3", "centroids"), Share(0.0, 0.0, 0.0))
    assert released["head 2"].share > 1e-4 and min(released[part].share for part in ("head 3", "centroids")) > 0.01
    assert all(found.floor == 0 for found in released.values())


@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_the_released_reading_is_label_free_too(head):
    found = label_share(training_of(Experiment(head=head, reading="released", **SMALL)), lambda label: label, torch.zeros_like)
    assert found == dict.fromkeys(("head 2", "head 3", "centroids"), Share(0.0, 0.0, 0.0))


def test_the_two_ways_can_be_had_apart():
    run = Experiment(head="mlp", label_free=False, labels_in_norm=False, **SMALL)
    found = label_share(training_of(run), lambda label: label, torch.zeros_like)
    assert found["head 2"] == Share(0.0, 0.0, 0.0) and found["head 3"].share > 0.01


# --- the table of the page ---

TABLE = pd.read_csv(ROOT / "cause_book/results/labels.csv")


def test_the_table_is_what_the_vectors_and_the_rivals_give():
    torch.set_num_threads(1)
    made = pd.DataFrame([*rival_steps.of_authors(), *rival_steps.of_rivals()], columns=rival_steps.COLUMNS)
    made[["largest", "percent"]] = made[["largest", "percent"]].astype(float)
    pd.testing.assert_frame_equal(TABLE, made, rtol=0.02)
    percent = dict(zip(zip(made["method"], made["training"]), made["percent"]))
    for (method, training), share in percent.items():
        if training.startswith(("control", "checkpoint", "as released: mask")):
            assert share > 1, (method, training)
        elif method != "CAUSE":
            assert share == 0, (method, training)
    assert (made.loc[made["method"] == "CAUSE", "percent"] > 0.1).all()


# --- the loss of IIC is that of its authors' code; of STEGO and HP, test_rivals_*.py ---

def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(ROOT / f"tests/data/rivals/{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.mark.parametrize("reach", [0, 2])
def test_iics_loss(reach):
    a, case = arrays("iic"), f"identity_align1_half{reach}_lambda1.0_uncollapsed_"
    logits = [a[name].requires_grad_() for name in ("logits1", "logits2")]
    loss = rival_steps.iic_loss(*(x.softmax(dim=1) for x in logits), a["mask"], reach)
    loss.backward()
    torch.testing.assert_close(loss.detach(), a[f"{case}loss"].to(loss.dtype), rtol=1e-9, atol=0)
    for x, name in zip(logits, ("grad1", "grad2")):
        torch.testing.assert_close(x.grad, a[case + name], rtol=1e-9, atol=1e-15)
