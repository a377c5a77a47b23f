"""Rounds of spherical k-means from one start: ours, with all points times all centroids in memory, and, where they are
installed, faiss and scikit-learn, on the same unit points. scikit-learn's centroids are means that stay as short as they
are: not quite the same problem, so the mean cosines that forms end with, their values, need only be near."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import naive
from benchmarks.measure import Curve, Row
from cause_lib.probes import _nearest, _rounds

OURS, NAIVE = "ours", "naive"
LIBRARIES = {"faiss": "faiss", "scikit-learn": "sklearn"}  # on the CPU, whatever the device
FORMS = (OURS, NAIVE, *(form for form, package in LIBRARIES.items() if find_spec(package)))


def case(form: str, device: str, *, m: int, d: int, c: int, rounds: int) -> Callable[[], Tensor]:
    """m points around c places; the start are c of the points."""
    g = torch.Generator().manual_seed(0)
    places = torch.randn(c, d, generator=g)
    own = torch.randint(c, (m,), generator=g)
    points = torch.randn(m, d, generator=g)
    for some, there in zip(points.split(4096), own.split(4096)):  # in place: else what a form needs is not seen
        some.copy_(F.normalize(places[there] + 2 * some, dim=-1))
    start = points[torch.randperm(m, generator=g)[:c]]
    points, start = (x.to("cpu" if form in LIBRARIES else device) for x in (points, start))

    def run() -> Tensor:
        centroids = FOUND[form](points, start, rounds)
        return _nearest(points, F.normalize(centroids, dim=-1))[0].double().mean()

    return run


def scikit_learn(points: Tensor, start: Tensor, rounds: int) -> Tensor:
    import warnings

    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few rounds do not converge
        found = KMeans(len(start), init=start.numpy(), n_init=1, max_iter=rounds, tol=0).fit(points.numpy())
    return torch.from_numpy(found.cluster_centers_)


def faiss(points: Tensor, start: Tensor, rounds: int) -> Tensor:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    found = faiss.Kmeans(points.shape[1], len(start), niter=rounds, spherical=True,
                         min_points_per_centroid=1, max_points_per_centroid=len(points))
    found.train(points.numpy(), init_centroids=start.numpy())
    return torch.from_numpy(found.centroids)


FOUND = {OURS: lambda *given: _rounds(*given)[0], NAIVE: naive.kmeans, "faiss": faiss, "scikit-learn": scikit_learn}


def largest(*, m: int, c: int, **_: int) -> int:
    """Points times centroids."""
    return 4 * m * c


QUICK = {"m": 200, "d": 8, "c": 5, "rounds": 1}  # after one all forms agree, however few the points
FEW = Row("k-means, few clusters", case, FORMS, {"m": 100_000, "d": 384, "c": 27, "rounds": 10}, QUICK, largest,
          agree=0.03)
MANY = Row("k-means, many clusters", case, FORMS, {"m": 100_000, "d": 384, "c": 2048, "rounds": 2}, QUICK, largest,
           agree=0.03)
ROWS = [FEW, MANY]
CURVES = [Curve(FEW, "m", (12_500, 25_000, 50_000, 100_000), (100, 200)),
          Curve(MANY, "c", (8, 32, 128, 512, 2048), (3, 5), {"m": 25_000})]
