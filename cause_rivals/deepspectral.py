"""DeepSpectral: segments of a picture from eigenvectors of the affinity of its keys, and clusters of segments.

Melas-Kyriazi, Rupprecht, Laina, Vedaldi: Deep Spectral Methods, CVPR 2022. Keys q (b, n, d) of the last block:

    W_ij = max(0, cos(q_i, q_j)) / max W;   D = diag(sum_j W_ij)
    (D - W) u = mu D u, the smallest mu;    eigenvectors D-orthonormal, the constant one left out
    segments = k-means of the rows of u;    v_s = mean token of segment s, of length one

Released code, lukemelas/deep-spectral-segmentation b89b6506cd6c:
    followed      W, D (sums below 1e-12 become 1), rows unscaled, border rule, no colour affinity (its public command)
    not followed  a segment is described by its mean token, where the code sees the crop of its box once more and takes
                  the class token: a variant without further passes, and without erosion, dilation and boxes
                  k-means is seeded; signs of eigenvectors are left as they come, which k-means does not see
                  no number of segments by the gap of mu; no self-training of another network
                  background has a cluster of its own; in the code it shares number 0 with a cluster of objects
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.errors import InputError
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.segments import SegmentHead, background_setting, cluster_segments, readout, segment_vectors
from cause_rivals.spectral import affinity, eigenvectors

if TYPE_CHECKING:
    from cause_rivals.run import Fitting

FACETS, SIZE = ("token", "key"), "image_size"
ROUNDS = 50  # of k-means in a picture


@dataclasses.dataclass(frozen=True)
class Settings(MethodSettings):
    """Settings of DeepSpectral."""

    segments: int = setting(15, "segments of a picture (15)", "a picture is cut into so many", 1, 4096)
    eigenvectors: int = setting(4, "eigenvectors whose rows are clustered, the constant one left out (4)",
                                "rows have so many numbers", 1, 4096)
    laplacian: str = setting("normalised", "`normalised`: generalised by D; or `unnormalised`, D - W",
                             "there are these two", choices=("normalised", "unnormalised"))
    restarts: int = setting(10, "starts of k-means in a picture (10)", "k-means starts at least once", 1, 1000)
    background: str = background_setting()


def row_clusters(rows: Tensor, draws: Tensor) -> Tensor:
    """k-means of the rows of each picture, all pictures and starts at once: (b, n, e) -> (b, n) int64 in [0, k).

    draws: (restarts, k) in [0, 1), of k-means++; the same for every picture. The start with the smallest inertia wins.
    """
    b, (restarts, k) = len(rows), draws.shape
    points = rows.repeat_interleave(restarts, dim=0)  # (b restarts, n, e)
    draws = draws.to(rows).repeat(b, 1)  # (b restarts, k)
    nearest = torch.ones_like(points[:, :, 0])  # squared distance to the nearest centroid so far
    chosen = []
    for draw in draws.T:
        sums = nearest.cumsum(dim=1)
        index = torch.searchsorted(sums, draw[:, None] * sums[:, -1:], right=True).clamp(max=points.shape[1] - 1)
        chosen.append(points.take_along_dim(index[:, :, None], dim=1))  # (b restarts, 1, e)
        distance = (points - chosen[-1]).square().sum(dim=2)
        nearest = distance if len(chosen) == 1 else torch.minimum(nearest, distance)
    centroids = torch.cat(chosen, dim=1)  # (b restarts, k, e)
    for _ in range(ROUNDS):
        members = F.one_hot(_distances(points, centroids).argmin(dim=2), k).to(points)  # (b restarts, n, k)
        size = members.sum(dim=1)[:, :, None]  # (b restarts, k, 1)
        centroids = torch.where(size > 0, members.mT @ points / size.clamp(min=1), centroids)
    distance, own = _distances(points, centroids).min(dim=2)  # (b restarts, n)
    best = distance.square().sum(dim=1).view(b, restarts).argmin(dim=1)  # (b,)
    return own.view(b, restarts, -1)[torch.arange(b, device=own.device), best]


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    return torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist")  # (., n, k)


class SpectralHead(SegmentHead):
    """Segments by eigenvectors of keys, vectors by tokens: inputs (b, n, 2d), tokens and keys side by side."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.background)
        self.settings = settings
        self.register_buffer("draws", torch.rand(settings.restarts, settings.segments))

    @torch.no_grad()
    def segments(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See SegmentHead."""
        tokens, keys = tokens.chunk(2, dim=-1)  # (b, n, d) both
        _, vectors = eigenvectors(affinity(keys), self.settings.laplacian == "normalised")
        own = row_clusters(vectors[:, :, 1:self.settings.eigenvectors + 1], self.draws)  # (b, n)
        return segment_vectors(tokens, F.one_hot(own, self.settings.segments)), own


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The head, and the read-out `own`. Raises ValueError where a picture has too few patches."""
    settings: Settings = rival.settings
    most, patches = max(settings.segments, settings.eigenvectors + 1), math.prod(grid)
    if most > patches:
        raise InputError(f"DeepSpectral needs at least {most} patches for its segments and eigenvectors, and a picture "
                         f"of side {rival.experiment.image_size} has {patches}: set image_size higher, or these lower.")
    return SpectralHead(settings), {"own": readout(dim, num_classes, settings.background)}


def fit(fitting: Fitting) -> None:
    """Nothing is trained: segments of the training pictures are clustered."""
    cluster_segments(fitting)
