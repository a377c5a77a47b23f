"""Scores of pixels made of those of patches, against every read-out asked at every pixel."""

import pytest
import torch
from torch import nn

from cause_lib import masks
from cause_lib.masks import lengths, log_scores, read_out, scores_by_pixel, winners
from cause_lib.probes import ClusterProbe, LinearProbe

SIZES = [((20, 20), (320, 320)), ((5, 7), (31, 64)), ((1, 3), (16, 48)), ((4, 4), (4, 4)), ((9, 9), (5, 4)), ((1, 1), (3, 2))]


def features(grid, dtype=torch.float64, r=12):
    return torch.randn(2, r, *grid, generator=torch.Generator().manual_seed(0)).to(dtype)


def probes(dtype=torch.float64, r=12, c=5):
    torch.manual_seed(1)
    return [ClusterProbe(c, r, torch.randn(c, r)).to(dtype), LinearProbe(c, r).to(dtype),
            ClusterProbe(c, r, torch.randn(c, r)).to(dtype)]


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_scores_are_those_of_every_pixel(grid, size):
    f, readouts = features(grid), probes()
    with torch.no_grad():
        fast, slow = log_scores(f, size, readouts), scores_by_pixel(f, size, readouts)
    assert fast.shape == slow.shape == (2, 3, 5, *size)
    assert (fast - slow).abs().max() < 1e-12
    with torch.no_grad():
        single = log_scores(f.float(), size, [probe.float() for probe in readouts])
    assert (single - slow).abs().max() < 1e-5 and (single.argmax(2) == slow.argmax(2)).double().mean() > 0.999


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_lengths_are_those_of_upsampled_features(grid, size):
    f = features(grid)
    upsampled = nn.functional.interpolate(f, size, mode="bilinear", align_corners=False)
    assert torch.allclose(lengths(f, size), upsampled.norm(dim=1), atol=1e-12)


@pytest.mark.parametrize(("grid", "size"), SIZES)
@pytest.mark.parametrize("band", [1, 2**19])
def test_winners_are_the_largest_scores(grid, size, band, monkeypatch):
    monkeypatch.setattr(masks, "_BAND", band)
    f, readouts = features(grid), probes()
    with torch.no_grad():
        assert torch.equal(winners(f, size, readouts), scores_by_pixel(f, size, readouts).argmax(2))
        found = read_out(torch.zeros(2, 3, *size), [(f, readouts)])
    assert set(found) == {False} and torch.equal(found[False], winners(f, size, readouts))


def test_features_that_cancel_have_finite_scores():
    f = torch.ones(1, 3, 1, 2)
    f[..., 1] = -1  # the middle pixel is a mean of opposite vectors
    assert torch.isfinite(log_scores(f, (1, 3), [ClusterProbe(2, 3)])).all()
    assert torch.isfinite(log_scores(torch.zeros(1, 3, 2, 2), (4, 4), [ClusterProbe(2, 3)])).all()


def test_read_outs_of_others_are_asked_at_every_pixel():
    class Nearest(nn.Module):
        def log_probabilities(self, x):
            return -(x[..., None] - torch.arange(3.0)).square().sum(dim=-2)

    f = features((4, 4), torch.float32, r=1)
    readouts = [Nearest(), Nearest()]
    assert torch.equal(log_scores(f, (8, 8), readouts), scores_by_pixel(f, (8, 8), readouts))
    assert read_out(torch.zeros(2, 3, 8, 8), [(f, readouts)])[False].shape == (2, 2, 8, 8)
