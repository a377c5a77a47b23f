"""PiCIE's objective: values of its authors' code, and tiny runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rival_runs import runs_and_resumes

from cause_lib.metrics import SegmentationMetrics
from cause_rivals.minibatch import Centroids, clustered, moved, nearest
from cause_rivals.picie import picie_loss

with np.load(Path(__file__).resolve().parents[1] / "data/rivals/picie.npz") as file:
    A = {name: torch.from_numpy(np.asarray(file[name])) for name in file}


def unit(maps: torch.Tensor) -> torch.Tensor:
    """(b, r, h, w) -> (b, n, r) of length one."""
    return F.normalize(maps, dim=1).flatten(2).mT


@pytest.mark.parametrize("view", [1, 2])
def test_minibatch_kmeans_and_labels(view):
    features = unit(A[f"features{view}"])
    batches = [batch.flatten(0, 1) for batch in features.split(2)]
    mu = A["init_centroids"]
    counts = torch.bincount(nearest(torch.cat(batches[:2]), mu), minlength=4).float()
    for batch in batches[2:]:
        mu, counts = moved(mu, counts, batch)
    torch.testing.assert_close(mu, A[f"centroids{view}"], rtol=0, atol=1e-6)
    labels = nearest(features, mu)
    assert torch.equal(labels, A[f"labels{view}"].flatten(1))
    torch.testing.assert_close(torch.bincount(labels.flatten(), minlength=4) / labels.numel(), A[f"weight{view}"])


@pytest.mark.parametrize("case", ["balanced", "plain"])
def test_loss_and_gradient(case):
    weight = A["model_w"].clone().requires_grad_()
    features = [unit(F.conv2d(A[f"features{view}"][:2], weight, A["model_b"])) for view in (1, 2)]
    mu, labels = (torch.stack([A[f"{name}{view}"] for view in (1, 2)]) for name in ("centroids", "labels"))
    shares = torch.stack([A["weight1"], A["weight2"]]) if case == "balanced" else None
    within, across = picie_loss(features, mu, labels.flatten(2)[:, :2], shares)
    loss = (within + across) / 2
    loss.backward()
    found = torch.stack([loss, loss, within, across]).detach().double()
    torch.testing.assert_close(found, A[f"train_{case}_total_ce_within_across_mse"][:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(weight.grad, A[f"train_{case}_grad_model_w"], rtol=1e-5, atol=1e-7)


def test_evaluation():
    own = Centroids(4, 8)
    own.centroids.copy_(A["centroids1"])
    maps = F.interpolate(F.normalize(A["features1"], dim=1), A["eval_labels"].shape[1:], mode="bilinear")
    metrics = SegmentationMetrics(4)
    metrics.update(own.log_probabilities(maps.permute(0, 2, 3, 1)).argmax(dim=-1), A["eval_labels"])
    found = metrics.compute()
    assert 100 * found["pacc"] == pytest.approx(float(A["eval_acc"]))
    assert 100 * found["miou"] == pytest.approx(float(A["eval_miou"]))


def test_minibatch_kmeans_finds_far_groups():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3)
    points = F.normalize(centres[torch.randint(0, 3, (600,), generator=generator)]
                         + 0.05 * torch.randn(600, 3, generator=generator), dim=1)
    found = clustered(iter(points.split(50)), 4, 3, generator)
    order = (found @ centres.T).argmax(dim=0)
    torch.testing.assert_close(found[order], centres, rtol=0, atol=0.05)
    means = torch.stack([points[nearest(points, found) == k].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(found, means, rtol=0, atol=0.01)


def test_runs(tmp_path, monkeypatch):
    metrics = runs_and_resumes("picie", tmp_path, {"epochs": 8, "width": 12, "start_views": 4}, monkeypatch)
    assert {line["readout"] for line in metrics["results"]} == {"own", "kmeans"}
