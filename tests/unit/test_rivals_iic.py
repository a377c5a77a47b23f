"""IIC's objective: values of its authors' code, and tiny runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rival_runs import runs_and_resumes

from cause_rivals.iic import iic_loss

FILE = Path(__file__).resolve().parents[1] / "data/rivals/iic.npz"
with np.load(FILE) as file:
    A = {name: torch.from_numpy(file[name]) for name in file}
CASES = sorted(name.removesuffix("_loss") for name in A if name.startswith("identity") and name.endswith("_loss"))


@pytest.mark.parametrize("case", CASES)
def test_values_of_the_authors_code(case):
    reach, weight = int(case.split("half")[1][0]), float(case.split("lambda")[1][:3])
    logits = [A[name].clone().requires_grad_() for name in ("logits1", "logits2")]
    loss = iic_loss(*(x.softmax(dim=1) for x in logits), A["mask"], reach, weight, "uncollapsed" not in case)
    loss.backward()
    torch.testing.assert_close(loss.detach(), A[f"{case}_loss"], rtol=1e-10, atol=1e-12)
    for x, name in zip(logits, ("grad1", "grad2")):
        if f"{case}_{name}" in A:
            torch.testing.assert_close(x.grad, A[f"{case}_{name}"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("turn", ["flip_align1", "rotate20_scale1p1_align1", "rotate20_scale1p1_align0"])
def test_of_a_view_that_was_turned_back(turn):
    p, p2 = (A[name].softmax(dim=1) for name in ("logits1", "logits2"))
    name, _, align = turn.rpartition("_align")
    places = F.affine_grid(A[f"affine_{name}"], p2.shape, align_corners=align == "1")
    back = F.grid_sample(p2, places, align_corners=align == "1")
    loss = iic_loss(p, back, A["mask"], 2)
    torch.testing.assert_close(loss, A[f"{turn}_half2_lambda1.0_uncollapsed_loss"], rtol=1e-6, atol=1e-8)


def test_naive_twin():
    generator = torch.Generator().manual_seed(0)
    p, p2 = (torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).softmax(dim=1) for _ in range(2))
    losses = []
    for up in (-1, 0, 1):
        for left in (-1, 0, 1):
            joint = torch.zeros(3, 3, dtype=torch.float64)
            for b in range(2):
                for i in range(4):
                    for j in range(5):
                        if 0 <= i + up < 4 and 0 <= j + left < 5:
                            joint += torch.outer(p[b, :, i, j], p2[b, :, i + up, j + left])
            joint = joint / joint.sum()
            joint = (joint + joint.T) / 2
            losses.append(-(joint * (joint.log() - joint.sum(0).log()[None] - joint.sum(1).log()[:, None])).sum())
    torch.testing.assert_close(iic_loss(p, p2, None, 1), torch.stack(losses).mean())


def test_runs(tmp_path, monkeypatch):
    metrics = runs_and_resumes("iic", tmp_path, {"steps": 8, "width": 12, "overclusters": 6}, monkeypatch)
    assert {line["readout"] for line in metrics["results"]} == {"own", "kmeans"}
