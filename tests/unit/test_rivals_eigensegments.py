"""Eigensegments: features, segments and projection against a naive twin in float64; what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from cause_lib.errors import InputError
from cause_rivals import rival
from cause_rivals.eigensegments import EigensegmentHead, Settings, build, fit, grid_clusters


def naive_features(tokens, keys, basis, grid, settings):
    """One picture, patch by patch: features, segments."""
    unit = [q / q.norm() for q in keys]
    w = torch.tensor([[max(0.0, float(a @ b)) for b in unit] for a in unit], dtype=torch.float64)
    degree = w.sum(dim=1)
    _, vectors = torch.linalg.eigh(w / (degree[:, None] * degree).sqrt())
    rows = (vectors / degree.sqrt()[:, None]).flip(1)[:, 1:settings.eigenvectors + 1]
    side, (h, width) = settings.side, grid
    centroids = []
    for i in range(side):
        for j in range(side):
            inside = [y * width + x for y in range(h * i // side, math.ceil(h * (i + 1) / side))
                      for x in range(width * j // side, math.ceil(width * (j + 1) / side))]
            centroids.append(rows[inside].mean(dim=0))
    for _ in range(21):
        own = [min(range(side**2), key=lambda s: float((row - centroids[s]).norm())) for row in rows]
        centroids = [rows[[o == s for o in own]].mean(dim=0) if s in own else centroids[s] for s in range(side**2)]
    x = [(basis.T @ t) / (basis.T @ t).norm() for t in tokens]
    found = []
    for i, segment in enumerate(own):
        mean = sum(x[j] for j in range(len(x)) if own[j] == segment)
        found.append((1 - settings.share) * x[i] + settings.share * mean / mean.norm())
    return torch.stack(found), own


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_features_are_those_of_the_naive_twin(share):
    generator = torch.Generator().manual_seed(0)
    settings, grid = Settings(side=2, eigenvectors=3, rank=5, share=share), (5, 6)
    head = EigensegmentHead(settings, 9, 5).double()
    head.basis.copy_(torch.linalg.qr(torch.randn(9, 5, generator=generator).double())[0])
    both = torch.randn(2, 30, 18, generator=generator).double()
    features, own = head(both, grid), head.segments(both, grid)[1]
    for picture, found, segments in zip(both, features, own):
        expected, by_hand = naive_features(*picture.chunk(2, dim=1), head.basis, grid, settings)
        assert segments.tolist() == by_hand
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_segments_do_not_depend_on_the_batch_nor_on_signs_of_eigenvectors():
    rows = torch.randn(3, 36, 4, generator=torch.Generator().manual_seed(0)).double()
    own = grid_clusters(rows, (6, 6), 3)
    assert own.shape == (3, 36) and int(own.min()) >= 0 and int(own.max()) <= 8
    assert torch.equal(own[1:2], grid_clusters(rows[1:2], (6, 6), 3))
    assert torch.equal(own, grid_clusters(rows * torch.tensor([1, -1, -1, 1]), (6, 6), 3))


def test_the_projection_keeps_most_of_the_second_moments():
    class Features:
        def sample(self):
            return torch.cat([F.normalize(tokens, dim=1), torch.randn(500, 12)], dim=1)

    class Fitting:
        features = Features()
        head = EigensegmentHead(Settings(), 12, 4)

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(500, 12, generator=generator) * torch.linspace(3, 0.1, 12) + 1
    with pytest.raises(AttributeError):  # clusters need a run; the basis is there before
        fit(Fitting)
    basis, unit = Fitting.head.basis.double(), F.normalize(tokens.double(), dim=1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4).double(), rtol=0, atol=1e-6)
    kept = (unit @ basis).square().sum() / unit.square().sum()
    singular = torch.linalg.svdvals(unit).square()
    assert float(kept) == pytest.approx(float(singular[:4].sum() / singular.sum()), abs=1e-6)


def test_too_few_patches_are_refused():
    made = rival("eigensegments", image_size=48)
    with pytest.raises(InputError, match="has 3 x 3 patches, too few for 4 x 4 segments of 12 eigenvectors: set image"):
        build(made, 8, 3, (3, 3))
    head, readouts = build(made, 8, 3, (6, 6))
    assert head.basis.shape == (8, 8) and readouts["own"].centroids.shape == (3, 8)  # a rank is at most the width
