"""Read-outs: cluster probe, spherical k-means."""

import pytest
import torch
import torch.nn.functional as F

from cause_lib.probes import ClusterProbe, LinearProbe, cosine_kmeans


def blobs(seed=0, m=60, c=4, d=6):
    g = torch.Generator().manual_seed(seed)
    own = torch.arange(m) % c
    return torch.eye(d)[own] * 5 + 0.3 * torch.randn(m, d, generator=g), own


def test_probe_is_a_cosine_and_its_log_probabilities_add_to_one():
    probe, features = ClusterProbe(3, 5), torch.randn(2, 4, 5)
    expected = F.cosine_similarity(features[:, :, None], probe.centroids, dim=-1)
    torch.testing.assert_close(probe(features), expected)
    torch.testing.assert_close(probe.log_probabilities(features).exp().sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(LinearProbe(3, 5).log_probabilities(features).exp().sum(-1), torch.ones(2, 4))
    start = torch.ones(3, 5)
    ClusterProbe(3, 5, start).centroids.data.zero_()  # trained: what it started from is a copy
    assert start.all()
    with pytest.raises(ValueError, match="needs centroids"):
        ClusterProbe(3, 5, torch.zeros(2, 5))


def test_kmeans_finds_blobs_and_repeats_its_bits():
    points, own = blobs()
    centroids = cosine_kmeans(points, 4, restarts=3, generator=torch.Generator().manual_seed(0))
    found = (F.normalize(points, dim=-1) @ centroids.T).argmax(1)
    assert all(len(found[own == c].unique()) == 1 for c in range(4)) and len(found.unique()) == 4
    again = cosine_kmeans(points, 4, restarts=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(centroids, again)


def test_more_restarts_never_fit_worse():
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    fit = [float((F.normalize(points, dim=-1) @ cosine_kmeans(
        points, 7, restarts=r, generator=torch.Generator().manual_seed(0)).T).amax(1).mean()) for r in (1, 3, 8)]
    assert fit[0] <= fit[1] + 1e-6 <= fit[2] + 2e-6


def test_kmeans_with_fewer_points_than_clusters_or_equal_points_is_finite():
    for points in (torch.randn(2, 3), torch.ones(5, 3)):
        centroids = cosine_kmeans(points, 4, restarts=2, generator=torch.Generator().manual_seed(0))
        assert centroids.shape == (4, 3) and torch.isfinite(centroids).all()
    with pytest.raises(ValueError, match="finite points"):
        cosine_kmeans(torch.full((3, 2), torch.nan), 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_whose_points_cancel_starts_again_at_the_point_farthest_away(seed):
    points = torch.tensor([[1.0, 0], [-1, 0]])
    start = points[int(2 * torch.rand(1, generator=torch.Generator().manual_seed(seed)))]
    found = cosine_kmeans(points, 1, restarts=1, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(found, -start[None])
