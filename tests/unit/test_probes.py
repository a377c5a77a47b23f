"""Read-outs: cluster probe, spherical k-means."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cause_lib import probes
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


# --- rounds of k-means ---

def naive_rounds(points, centroids, rounds, weights):
    """Point by point, in float64: centroids (c, d), whose each point is, inertia."""
    points, centroids, weights = points.double(), centroids.double(), weights.double() / weights.double().sum()
    for _ in range(rounds):
        own = [max(range(len(centroids)), key=lambda j: float(x @ centroids[j])) for x in points]
        for j in range(len(centroids)):
            total = sum((w * x for w, x, i in zip(weights, points, own) if i == j), torch.zeros_like(points[0]))
            centroids[j] = total / total.norm()
    cosine = points @ centroids.T
    return centroids, cosine.argmax(dim=1), float(weights @ (1 - cosine.amax(dim=1)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("limit", [7, 2**26])  # sums sorted, and as one product
def test_rounds_equal_the_naive_twin(monkeypatch, weighted, limit):
    g = torch.Generator().manual_seed(0)
    places = torch.randn(9, 6, generator=g)
    points = F.normalize(places[torch.arange(300) % 9] + 0.8 * torch.randn(300, 6, generator=g), dim=-1)
    weights = torch.rand(300, generator=g) if weighted else torch.ones(300)
    monkeypatch.setattr(probes, "_PRODUCTS", 100)
    monkeypatch.setattr(probes, "_SORT", limit)
    monkeypatch.setattr(probes, "_PIECE", 16)
    expected, own, inertia = naive_rounds(points, points[:9], 4, weights)
    share = (weights / weights.sum()) if weighted else None
    centroids, _ = probes._rounds(points, points[:9], 4, share)
    torch.testing.assert_close(centroids.double(), expected, rtol=0, atol=1e-6)
    cosine, found = probes._nearest(points, centroids)
    assert torch.equal(found, own)
    assert float((1 - cosine.double()) @ weights.double() / weights.double().sum()) == pytest.approx(inertia, abs=1e-6)
    _, fit = probes._rounds(points, centroids, 1, share)
    assert 1 - float(fit) == pytest.approx(inertia, abs=1e-6)


def test_when_the_host_asks_and_how_much_is_in_memory_changes_no_bit(monkeypatch):
    points, _ = blobs(m=500, c=7, d=9)
    found = []
    for look, products in ((1, 2**22), (8, 2**22), (1000, 50)):
        monkeypatch.setitem(probes._LOOK, "cpu", look)
        monkeypatch.setattr(probes, "_PRODUCTS", products)
        found.append(cosine_kmeans(points, 7, restarts=2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_no_tensor_holds_all_points_times_all_centroids(monkeypatch):
    """Beyond _SORT: the largest tensor of a round has _PRODUCTS elements, or those of the points."""
    monkeypatch.setattr(probes, "_PRODUCTS", 2000)
    monkeypatch.setattr(probes, "_SORT", 2000)
    points = F.normalize(torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)), dim=-1)

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes = [x.numel() for x in torch.utils._pytree.tree_leaves(made) if isinstance(x, torch.Tensor)]
            self.size = max([self.size, *sizes])
            return made

    with Largest() as largest:
        probes._rounds(points, points[:64], 3)
    assert largest.size <= points.numel()


def test_lost_clusters_among_sorted_sums_start_again(monkeypatch):
    monkeypatch.setattr(probes, "_SORT", 1)
    points = torch.eye(3).repeat(4, 1)
    centroids, fit = probes._rounds(points, torch.eye(3)[[0, 0, 0]], 5)  # two of three have no point
    assert torch.equal(centroids.sort(dim=0).values, torch.eye(3).sort(dim=0).values) and float(fit) == 1
