"""DeepSpectral: eigenvectors and segments are those of the authors' code; batched k-means is k-means."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cause_lib.errors import InputError
from cause_rivals import rival
from cause_rivals.deepspectral import build, row_clusters
from cause_rivals.segments import border_segment
from cause_rivals.spectral import affinity, eigenvectors

with np.load(Path(__file__).parents[1] / "data/rivals/deepspectral.npz") as file:
    A = {name: torch.from_numpy(file[name]) for name in file}
KEYS = A["keys"].double()[None]  # (1, 80, 16)


def twice_as_fine():
    """The authors enlarge keys of length one, and do not bring them to this length again."""
    keys = F.normalize(KEYS, dim=-1)[0].T.unflatten(1, (8, 10))[None]
    x = F.interpolate(keys, scale_factor=2, mode="bilinear", align_corners=False)[0].flatten(1)  # (16, 320)
    weights = (x.T @ x).clamp(min=0)[None]
    return weights / weights.max()


@pytest.mark.parametrize(("case", "weights", "normalised"), [
    ("laplacian", lambda: affinity(KEYS), True), ("laplacian_unnormalised", lambda: affinity(KEYS), False),
    ("laplacian_color10", lambda: affinity(KEYS) + 10 * A["knn_color_affinity"], True),
    ("laplacian_x2", twice_as_fine, True)])
def test_eigenvectors_are_those_of_the_vectors_up_to_their_sign(case, weights, normalised):
    w = weights()
    values, vectors = eigenvectors(w, normalised)
    expected, rows = A[f"{case}_eigenvalues"].double(), A[f"{case}_eigenvectors"].double()
    torch.testing.assert_close(values[0, :6], expected, rtol=1e-4, atol=2e-6)
    gaps = (expected[:, None] - expected).abs() + torch.eye(6)
    compared = 0
    for i in range(6):
        if gaps[i].min() > 1e-3:  # those of one eigenvalue are any basis of theirs
            compared += 1
            mine = vectors[0, :, i]
            torch.testing.assert_close(mine * torch.sign(mine @ rows[i]), rows[i], rtol=1e-3, atol=2e-5)
    assert compared >= 3
    weight = w.sum(dim=2)[0] if normalised else torch.ones(len(w[0]), dtype=torch.float64)
    torch.testing.assert_close(vectors[0].T * weight @ vectors[0], torch.eye(len(w[0])).double(), rtol=0, atol=1e-9)


def test_segments_and_background_are_those_of_the_vectors():
    draws = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    own = row_clusters(eigenvectors(affinity(KEYS.float()))[1][:, :, 1:6], draws)
    expected = A["segmap_fixed3"].flatten().long()
    pairs = torch.stack([own[0], expected]).unique(dim=1)
    assert pairs.shape == (2, 3)  # the same cut, by other numbers
    background = border_segment(own, 3, (8, 10))
    assert (expected[own[0] == background[0]] == 0).all()
    assert border_segment(expected[None], 3, (8, 10)).tolist() == [0]  # border_fraction: 1, 0, 0


def test_batched_kmeans_is_kmeans_and_does_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    rows, draws = torch.randn(3, 60, 4, generator=generator), torch.rand(4, 5, generator=generator)
    own = row_clusters(rows, draws)
    for x, found in zip(rows, own):
        assert torch.equal(found, row_clusters(x[None], draws)[0])
        best = None
        for draw in draws.double():  # one start after the other, in float64
            points, chosen = x.double(), []
            nearest = torch.ones(60).double()
            for number in draw:
                sums = nearest.cumsum(0)
                chosen.append(points[int((sums <= number * sums[-1]).sum())])
                nearest = torch.stack([(points - c).square().sum(1) for c in chosen]).amin(0)
            centroids = torch.stack(chosen)
            for _ in range(50):
                label = torch.cdist(points, centroids).argmin(1)
                centroids = torch.stack([points[label == k].mean(0) if (label == k).any() else centroids[k]
                                         for k in range(5)])
            inertia = torch.cdist(points, centroids).amin(1).square().sum()
            best = (inertia, label) if best is None or inertia < best[0] else best
        assert torch.equal(found, best[1])


def test_pictures_without_an_edge_or_with_one_colour_are_cut_without_a_word():
    keys = torch.stack([torch.zeros(9, 4), torch.ones(9, 4)])
    own = row_clusters(eigenvectors(affinity(keys))[1][:, :, 1:3], torch.rand(2, 3))
    assert own.shape == (2, 9) and int(own.min()) >= 0 and int(own.max()) <= 2


def test_too_few_patches_are_refused():
    with pytest.raises(InputError, match="needs at least 15 patches for its segments and eigenvectors, and a picture"):
        build(rival("deepspectral", image_size=48), 8, 3, (3, 3))
