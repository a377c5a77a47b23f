"""Steps 2 and 3 against the authors' training functions, update by update, in float64 (tests/data/vectors)."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from vectors import CENTROIDS, gap, load, make_head, tensor, to_ours, unpack

from cause_lib import steps
from cause_lib.clusterbook import Clusterbook, thin_pictures
from cause_lib.config import Experiment
from cause_lib.contrast import ConceptBank, share_of_each
from cause_lib.heads import TRHead
from cause_lib.probes import LinearProbe

STORED = 3e-7  # weights are stored in single precision
SIZES = dict(thin=4, reduced_dim=12, projection_dim=24, num_concepts=12, dropout=0.0, batch_size=4, head_steps=5,
             probe_steps=5, probe_decay_steps=2, reading="released", device="cpu")
STEP2 = [(f"step2_{file}", case) for file, case in (
    *[("mlp", f"{data}/{case}") for data in ("cocostuff27", "cityscapes") for case in ("labels", "zeros", "outside")],
    ("mlp", "cocostuff27/own"), ("tr_cocostuff27", "cocostuff27/own"),
    *[(f"tr_{data}", f"{data}/{case}") for data in ("cocostuff27", "cityscapes") for case in ("labels", "zeros", "outside")])]
STEP3 = [(f"step3_{head}", case) for head in ("mlp", "tr") for case in (
    *[f"{data}/{case}" for data in ("cocostuff27", "cityscapes") for case in ("labels", "zeros")],
    "cocostuff27/frozen", "cocostuff27/own", "coco81/labels")]


class Views:
    """The labels of one batch an update, in the place of `FrozenFeatures`."""

    grid, dataset = (12, 12), type("Set", (), {"num_classes": 27, "has_labels": True})

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 4

    def pictures(self, batches):
        return iter([{"label": label} for label in self.labels[-len(batches):]])


@pytest.fixture
def double(monkeypatch):
    """Everything in float64, TR with the vectors' narrow decoder."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(steps, "TRHead", partial(TRHead, hidden_dim=32))
    monkeypatch.setattr(steps, "ConceptBank", partial(ConceptBank, dtype=torch.float64))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(before)


def given(file, case, inputs, monkeypatch):
    """The experiment of a case, its labels, and its random choices handed in.

    Clip, decay and what labels reach are what the presets say of the data set, the head and `label_free`.
    """
    data, kind = case.split("/")
    own = "own_" if kind == "own" else ""
    run = Experiment(dataset=data, head="tr" if "_tr" in file else "mlp", label_free=kind in ("outside", "frozen"), **SIZES)
    patterns = iter(tensor(inputs[f"{own}kept"]))
    monkeypatch.setattr(steps, "kept_patches", lambda *_: next(patterns))
    rows = iter(tensor(inputs.get(f"{own}bank_rows", np.zeros((0, 0), int))))
    monkeypatch.setattr(steps, "share_of_each", lambda *_: (drawn := next(rows))[drawn >= 0])
    labels = tensor(inputs["labels"])
    return run, Views(torch.zeros_like(labels) if kind == "zeros" else labels)


def weights_of(module):
    return {name: value for name, value in module.state_dict().items() if "clusterbook" not in name}


@pytest.mark.parametrize("file, case", STEP2)
def test_step_2_is_theirs(double, monkeypatch, file, case):
    inputs, found = load("step2_inputs"), load(file)
    run, views = given(file, case, inputs, monkeypatch)
    start = unpack(found["init"], found["names"], found["shapes"])
    model = steps.head_run(run, Path("unused"), Clusterbook(tensor(inputs["codebook"])), Accelerator(cpu=True), views)
    parts = {"head": (model.state["student"]["head"], "head"), "projection": (model.state["student"]["projection"], "projection_head"),
             "teacher": (model.state["teacher"]["head"], "head_ema"),
             "its projection": (model.state["teacher"]["projection"], "projection_head_ema")}
    if not run.label_free:
        parts["linear"] = (model.state["linear"], "linear")
    for module, prefix in parts.values():
        module.load_state_dict(module.state_dict() | to_ours(start, prefix))
    losses = []
    for step, tokens in enumerate(tensor(inputs["tokens"])):
        losses.append(float(model.update(tokens, step)))
        if f"{case}/after{step + 1}" in found:
            after = unpack(found[f"{case}/after{step + 1}"], found["names"], found["shapes"])
            for name, (module, prefix) in parts.items():
                assert gap(weights_of(module), to_ours(after, prefix)) < STORED, (name, step)
    np.testing.assert_allclose(losses, found[f"{case}/losses"][:, 0], atol=1e-9)
    own = "own_" if case.endswith("own") else ""
    assert model.state["bank"].counts.tolist() == inputs[f"{own}bank_counts"][-1].tolist()


@pytest.mark.parametrize("file, case", STEP3)
def test_step_3_is_theirs(double, monkeypatch, file, case):
    inputs, found = load("step3_inputs"), load(file)
    run, views = given(file, case, inputs, monkeypatch)
    start = unpack(found["init"], found["names"], found["shapes"])
    book = tensor(inputs["codebook"])
    head = make_head(start, book, grid=(12, 12))
    linear = LinearProbe(27, 12)
    linear.load_state_dict(to_ours(start, "linear"))
    model = steps.probe_run(run, Path("unused"), head.requires_grad_(False), start[CENTROIDS], Accelerator(cpu=True), views,
                            None if run.label_free else linear)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    losses = []
    for step, tokens in enumerate(tensor(inputs["tokens"])):
        losses.append(float(model.update(tokens, step)))
        assert {group["lr"] for group in model.optimizer.param_groups} == {found["rates"][step, 0]} == {found["rates"][step, 1]}
        if f"{case}/after{step + 1}" in found:
            vector = found[f"{case}/after{step + 1}"]
            alone = [CENTROIDS] if len(vector) == 324 else None
            after = unpack(vector, found["names"], found["shapes"], only=alone)
            assert gap(model.state["probe"].state_dict(), to_ours(after, CENTROIDS)) < STORED
            if alone is None:
                assert gap(weights_of(head), to_ours(after, "head_ema")) < STORED
                assert gap(model.state["linear"].state_dict(), to_ours(after, "linear")) < STORED
    np.testing.assert_allclose(losses, found[f"{case}/losses"][:, 0], atol=1e-9)
    if run.label_free:
        assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("side", [14, 20, 23, 40])
def test_their_thinning(side, monkeypatch):
    found = load("thinning")
    drawn = thin_pictures((side, side), 4, torch.Generator().manual_seed(side), 3)
    assert drawn.tolist() == found[f"side{side}/drawn_kept"].tolist()
    order = tensor(found[f"side{side}/order"])
    monkeypatch.setattr(torch, "randint", lambda high, shape, generator: order.view(shape))
    assert thin_pictures((side, side), 4, torch.Generator(), 3).tolist() == found[f"side{side}/kept"].tolist()


def test_their_draw_for_the_bank():
    """Of each concept's m patches floor(m / 2), whatever the order; with their rows, their bank."""
    found = load("bank")
    bank = ConceptBank(8, 3, 100, dtype=torch.float64)
    bank.update(tensor(found["bank_start"]), torch.arange(8).repeat_interleave(tensor(found["counts_start"])))
    for update in (1, 2):
        concepts = tensor(found[f"update{update}/concepts"]).flatten()
        projections = tensor(found[f"update{update}/projections"]).flatten(0, 1)
        rows = tensor(found[f"update{update}/rows"])
        order = torch.randperm(len(concepts), generator=torch.Generator().manual_seed(update))
        drawn = share_of_each(concepts, 0.5, order, 8)
        assert len(drawn.unique()) == len(drawn)
        assert torch.bincount(concepts[drawn], minlength=8).tolist() == (torch.bincount(concepts, minlength=8) // 2).tolist()
        place = {int(patch): i for i, patch in enumerate(order)}
        for concept in range(8):
            of_it = [place[int(patch)] for patch in drawn if concepts[patch] == concept]
            assert of_it == sorted(place[int(patch)] for patch in (concepts == concept).nonzero())[:len(of_it)]
        # an order that has their rows first draws their rows
        others = torch.tensor([patch for patch in range(len(concepts)) if patch not in set(rows.tolist())])
        assert share_of_each(concepts, 0.5, torch.cat([rows, others]), 8).tolist() == rows[concepts[rows].argsort(stable=True)].tolist()
        bank.update(projections[rows], concepts[rows])
        assert bank.counts.tolist() == found[f"update{update}/counts"].tolist()
        held, theirs = bank.state_dict(), torch.nn.functional.normalize(tensor(found[f"update{update}/bank"]), dim=-1)
        for concept in range(8):
            oldest_first = [held["projections"][(held["concepts"] == concept) & (held["slots"] == int(slot))][0]
                            for slot in (torch.arange(100) + bank.written[concept] % 100) % 100
                            if ((held["concepts"] == concept) & (held["slots"] == int(slot))).any()]
            first = found[f"update{update}/counts"][:concept].sum()
            count = found[f"update{update}/counts"][concept]
            if count:
                torch.testing.assert_close(torch.stack(oldest_first), theirs[first:first + count], atol=1e-7, rtol=0)
