"""Read-outs of features: which of c clusters, or classes, a patch belongs to.

    ClusterProbe   cos(f, centroid_j); the published read-out, its centroids trained by Eq. 3 on the head's features
    cosine_kmeans  maximise sum_i max_j cos(x_i, centroid_j): spherical k-means (Dhillon and Modha 2001) with k-means++
                   starts (Arthur and Vassilvitskii 2007); the tables' baseline on tokens, and a second read-out
    concept_kmeans the same among concepts of the features, whatever their size: a third read-out
    LinearProbe    logits from labels; only used where `label_free=False` asks for the released code's step 3
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PRODUCTS = 2**22  # cosines of points with centroids that are in memory together
_SORT = 2**26  # points times centroids beyond which sums are sorted; below, they are products, to the bits as always
_PIECE = 256  # sorted points that are added up one after the other
_LOOK = {"cpu": 1, "cuda": 8}  # rounds of k-means after which the host asks whether it has ended: a GPU waits for that


class ClusterProbe(nn.Module):
    """Cosine to c centroids.

    Args:
        num_classes, dim: c, and the width r of the features.
        centroids: (c, r) to start from, ValueError for another shape; None: the published uniform(-1/c, 1/c), from the
            global generator.

    Examples:
        >>> probe = ClusterProbe(num_classes=2, dim=2, centroids=torch.tensor([[1.0, 0], [0, 3]]))
        >>> probe(torch.tensor([0.0, 5])).tolist()
        [0.0, 1.0]
    """

    sharpness = 3.0  # as published

    def __init__(self, num_classes: int, dim: int, centroids: Tensor | None = None) -> None:
        super().__init__()
        if centroids is None:
            centroids = (torch.rand(num_classes, dim) * 2 - 1) / num_classes
        if centroids.shape != (num_classes, dim):
            raise ValueError(f"ClusterProbe needs centroids ({num_classes}, {dim}), not {tuple(centroids.shape)}.")
        self.centroids = nn.Parameter(centroids.detach().clone())  # (c, r)

    def forward(self, features: Tensor) -> Tensor:
        """features (..., r) -> cosines (..., c) in [-1, 1]."""
        return self.products(F.normalize(features, dim=-1))

    def log_probabilities(self, features: Tensor) -> Tensor:
        """log softmax(3 cos), the published unary term of the CRF: features (..., r) -> (..., c), at most 0."""
        return F.log_softmax(self.sharpness * self(features), dim=-1)

    def products(self, features: Tensor) -> Tensor:
        """What is linear in it: features (..., r) -> products with centroids of length one (..., c)."""
        return features @ F.normalize(self.centroids, dim=-1).T


class LinearProbe(nn.Linear):
    """A linear classifier of features (..., r) -> logits (..., c). It needs labels: never part of a label-free run.

    Args:
        num_classes, dim: c, and the width r of the features.

    Examples:
        >>> LinearProbe(num_classes=3, dim=5)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(dim, num_classes)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """log softmax of the logits: features (..., r) -> (..., c), at most 0."""
        return F.log_softmax(self(features), dim=-1)

    products, sharpness = nn.Linear.forward, None  # all of it is linear, and the features' lengths play a part


@torch.no_grad()
def smooth(features: Tensor, temperature: float) -> Tensor:
    """Each patch's features, averaged with those of the patches of its picture weighted by softmax(cos / temperature):
    features (b, n, r) floating -> (b, n, r).

    One step of mean shift (Cheng 1995) among the patches of a picture. In the terms of Eq. 1, p(Y | t', m) is averaged
    over the patches t' that share what the patch is taken for. The smaller the temperature, which is at least 0, the
    more alike patches must be; 0: none is averaged.
    """
    if temperature == 0:
        return features
    unit = F.normalize(features, dim=-1)
    temperature = max(temperature, torch.finfo(features.dtype).tiny)  # a cosine over less would be infinite
    return (unit @ unit.mT / temperature).softmax(dim=-1) @ features


@torch.no_grad()
def mirror_mean(tokens: Tensor, mirrored: Tensor, grid: tuple[int, int], head: nn.Module | None = None,
                smoothing: float = 0.0) -> Tensor:
    """Features of a picture and of its mirror image, the latter turned back, averaged: (b, r, rows, columns) float32.

    Args:
        tokens, mirrored: (b, n, d) of the picture, and of its mirror image.
        grid: rows and columns of the n patches.
        head: from tokens to features (b, n, r); None: the features are the tokens.
        smoothing: temperature of `smooth`, for the mean; 0: none.
    """
    both = [x if head is None else head(x, grid) for x in (tokens, mirrored)]
    straight, turned = (x.float().transpose(1, 2).unflatten(2, grid) for x in both)  # (b, r, rows, columns)
    mean = (straight + turned.flip(-1)) / 2
    return smooth(mean.flatten(2).mT, smoothing).mT.unflatten(2, grid) if smoothing else mean


@torch.no_grad()
def concept_kmeans(points: Tensor, num_clusters: int, num_concepts: int, *, restarts: int = 5,
                   generator: torch.Generator) -> Tensor:
    """Spherical k-means of concepts in place of points, (c, d) of length one: frequent regions get fewer centroids.

    First `num_concepts` concepts by k-means++ and three rounds; then their clusters, each concept weighted by the
    fourth root of the points it has. Plain k-means gives most centroids to what covers most pixels.

    Args:
        points: (m, d) floating, any length.
        num_clusters, num_concepts: c, and how many concepts; at most m are made.
        restarts, generator: as for `cosine_kmeans`; a restart is cheap, so there are four times as many.
    """
    points = F.normalize(points, dim=-1)
    concepts = cosine_kmeans(points, min(num_concepts, len(points)), restarts=1, iterations=3, generator=generator)
    size = torch.bincount((points @ concepts.T).argmax(dim=1), minlength=len(concepts)).to(points)  # (concepts,)
    return cosine_kmeans(concepts[size > 0], num_clusters, restarts=4 * restarts, weights=size[size > 0] ** 0.25,
                         generator=generator)


@torch.no_grad()
def cosine_kmeans(points: Tensor, num_clusters: int, *, restarts: int = 5, iterations: int = 100,
                  generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
    """Spherical k-means, (c, d) centroids of length one: of several restarts those with the smallest inertia,
    sum_i w_i (1 - cos(x_i, centroid)).

    Args:
        points: (m, d) floating, any length.
        num_clusters: c; with fewer than c points, some centroids coincide.
        restarts: independent k-means++ starts, at least 1.
        iterations: at most so many rounds each.
        generator: CPU generator; the same one gives the same centroids.
        weights: w, (m,) floating, at least 0; how much each point counts. None: all count the same.

    Raises:
        ValueError: there is no point, or a point is not finite.

    Examples:
        >>> points = torch.tensor([[2.0, 0], [3, 0], [0, 1]])
        >>> cosine_kmeans(points, 2, generator=torch.Generator().manual_seed(0)).sort(dim=0).values
        tensor([[0., 0.],
                [1., 1.]])
    """
    if points.ndim != 2 or len(points) == 0 or not bool(torch.isfinite(points).all()):
        raise ValueError(f"cosine_kmeans needs finite points (m, d) with m at least 1, not {tuple(points.shape)}.")
    points = F.normalize(points, dim=-1)  # (m, d)
    share = None if weights is None else (weights / weights.sum()).to(points)  # (m,)
    best, best_fit = None, -float("inf")
    for _ in range(restarts):
        start = _plus_plus(points, num_clusters, generator, share)  # (c, d)
        centroids, fit = _rounds(points, start, iterations, share)
        if float(fit) > best_fit:
            best, best_fit = centroids, float(fit)
    return best


def _rounds(points: Tensor, centroids: Tensor, iterations: int, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """At most so many rounds of spherical k-means, of points and centroids of length one, until the mean cosine gains
    less than 1e-6: centroids (c, d), and the mean cosine that the last round found, a float64 scalar."""
    fit = torch.full((), -torch.inf, dtype=torch.float64, device=points.device)
    done, look = torch.zeros_like(fit, dtype=torch.bool), _LOOK["cuda" if points.is_cuda else "cpu"]
    for turn in range(iterations):
        cosine, own = _nearest(points, centroids)
        previous, fit = fit, cosine.double().mean() if share is None else cosine.double() @ share.double()
        done = done | (fit - previous < 1e-6)
        if turn % look == look - 1 and done:
            break
        sums = _sums(points, own, len(centroids), share)  # (c, d)
        lost = sums.norm(dim=1) == 0
        if points.is_cuda or lost.any():  # a cluster without points starts again at the points with smallest cosines
            worst = cosine.argsort().index_select(0, (lost.cumsum(0) - 1) % len(points))  # (c,)
            sums = torch.where(lost[:, None], points.index_select(0, worst), sums)
        centroids = torch.where(done, centroids, F.normalize(sums, dim=-1))
    return centroids, fit


def _nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's largest cosine, and whose it is, (m,) both: of some points after the other, never (m, c) at once."""
    m, c = len(points), len(centroids)
    columns = F.pad(centroids, (0, 0, 0, -c % 16)).T  # of such a number a CPU's product is a quarter faster
    rows = min(m, max(1, _PRODUCTS // c))
    table, cosine = points.new_empty(rows, columns.shape[1]), points.new_empty(m)  # one place for every product
    own = torch.empty(m, dtype=torch.int64, device=points.device)
    for some, *found in zip(points.split(rows), cosine.split(rows), own.split(rows)):
        torch.max(torch.mm(some, columns, out=table[:len(some)])[:, :c], dim=1, out=found)
    return cosine, own


def _sums(points: Tensor, own: Tensor, num_clusters: int, share: Tensor | None) -> Tensor:
    """The points of each cluster, times their share, added up: (c, d)."""
    m = len(points)
    if m * num_clusters <= _SORT:
        members = points.new_zeros(m, num_clusters)
        return members.scatter_(1, own[:, None], 1 if share is None else share[:, None]).T @ points
    # Sorted by cluster, a cluster's points lie side by side: pieces of at most _PIECE of them, then the pieces' sums.
    own, order = own.sort(stable=True)
    first = torch.searchsorted(own, torch.arange(num_clusters, device=own.device))  # (c,)
    starts = torch.cat([first, torch.arange(0, m, _PIECE, device=own.device)]).sort().values
    share = None if share is None else share.index_select(0, order)
    pieces = F.embedding_bag(order, points, starts, mode="sum", per_sample_weights=share)  # (c + m / _PIECE, d)
    return F.embedding_bag(torch.arange(len(starts), device=own.device), pieces, torch.searchsorted(starts, first),
                           mode="sum")


def _plus_plus(points: Tensor, num_clusters: int, generator: torch.Generator, share: Tensor | None = None) -> Tensor:
    """k-means++: each next centroid a point drawn in proportion to w (1 - cos) to the nearest one so far: (c, d)."""
    draws = torch.rand(num_clusters, 1, generator=generator).to(points.device, torch.float64)
    if share is None:
        first = (draws[0] * len(points)).long()
    else:
        first = torch.searchsorted(share.double().cumsum(0), draws[0], right=True).clamp(max=len(points) - 1)
    chosen = [points[first]]  # (1, d) each
    distance = (1 - points @ chosen[0][0]).clamp(min=0)  # (m,)
    for draw in draws[1:]:
        cumulative = (distance if share is None else distance * share).double().cumsum(0)
        index = torch.searchsorted(cumulative, draw * cumulative[-1], right=True).clamp(max=len(points) - 1)
        chosen.append(points.index_select(0, index))
        distance = torch.minimum(distance, (1 - points @ chosen[-1][0]).clamp(min=0))
    return torch.cat(chosen)
