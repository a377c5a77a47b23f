"""Eigensegments: tokens of an earlier block, averaged with those of their segment; clusters of segments. Of this book.

Nothing is trained. Tokens t (b, n, d) of block floor(3 L / 4) of L under the norm of the next block, keys of the last:

    x = P^T t / |t|                         P (d, r): leading eigenvectors of the second moments, no mean taken off
    u_2 ... u_e+1 of spectral.py            of the last block's keys, which know where things end
    segments = k-means of the rows of u     k = g^2, from the means of a g x g grid: no random numbers
    m_s = mean of x / |x| in segment s, of length one;   f_i = (x_i / |x_i| + m_own_i) / 2
    read-out `own`: spherical k-means of the m_s of training pictures, each counts once; it reads f_i

Segments from eigenvectors of keys, each counted once, are DeepSpectral's (cause_rivals/deepspectral.py). An earlier
block under its successor's norm, the projection, and features that are half a patch's own are added here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import take_patches
from cause_lib.errors import InputError
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.segments import SegmentHead, cluster_segments, readout, segment_vectors
from cause_rivals.spectral import affinity, eigenvectors

if TYPE_CHECKING:
    from cause_rivals.run import Fitting

FACETS, SIZE = ("normed", "key"), "image_size"
ROUNDS = 20  # of k-means in a picture


@dataclasses.dataclass(frozen=True)
class Settings(MethodSettings):
    """Settings of eigensegments."""

    side: int = setting(4, "k-means in a picture starts from a grid of this side: side x side segments (4)",
                        "a picture is cut into so many", 1, 64)
    eigenvectors: int = setting(12, "eigenvectors whose rows are clustered, the constant one left out (12)",
                                "rows have so many numbers", 1, 4096)
    rank: int = setting(64, "tokens are projected to so many numbers (64)", "tokens keep this width at most", 1, 65_536)
    share: float = setting(0.5, "of a patch's features, this much is its segment's (0.5)", "it is a share", 0, 1)


def grid_clusters(rows: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """k-means of the rows of each picture from the means of a grid of cells: (b, n, e) -> (b, n) int64 in [0, side^2).

    A segment that loses its patches keeps its centroid."""
    cells = F.adaptive_avg_pool2d(rows.mT.unflatten(2, grid), side)  # (b, e, side, side)
    centroids, own = cells.flatten(2).mT, None
    for i in range(ROUNDS + 1):
        own = (centroids.square().sum(dim=2)[:, None] - 2 * rows @ centroids.mT).argmin(dim=2)  # (b, n)
        members = F.one_hot(own, side**2).to(rows)  # (b, n, k)
        size = members.sum(dim=1)[:, :, None]  # (b, k, 1)
        centroids = torch.where(size > 0, members.mT @ rows / size.clamp(min=1), centroids)
    return own


class EigensegmentHead(SegmentHead):
    """Tokens and keys side by side (b, n, 2d) -> features (b, n, r), see the file's head."""

    def __init__(self, settings: Settings, dim: int, rank: int) -> None:
        super().__init__("none")
        self.settings = settings
        self.register_buffer("basis", torch.zeros(dim, rank))

    def segments(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See SegmentHead."""
        return self._cut(tokens, grid)[1:]

    @torch.no_grad()
    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """tokens (b, n, 2d) of a grid of patches -> features f (b, n, r)."""
        x, vectors, own = self._cut(tokens, grid)
        return torch.lerp(x, take_patches(vectors, own), self.settings.share)

    @torch.no_grad()
    def _cut(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """x of length one (b, n, r), vectors of segments (b, k, r), segments of patches (b, n)."""
        tokens, keys = tokens.chunk(2, dim=-1)  # (b, n, d) both
        x = F.normalize(F.normalize(tokens, dim=-1) @ self.basis, dim=-1)
        rows = eigenvectors(affinity(keys))[1][:, :, 1:self.settings.eigenvectors + 1]
        own = grid_clusters(rows, grid, self.settings.side)
        return x, segment_vectors(x, F.one_hot(own, self.settings.side**2)), own


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The head, and the read-out `own`. Raises ValueError where a picture has too few patches."""
    settings: Settings = rival.settings
    if settings.side > min(grid) or settings.eigenvectors >= math.prod(grid):
        raise InputError(f"A picture of side {rival.experiment.image_size} has {grid[0]} x {grid[1]} patches, too few "
                         f"for {settings.side} x {settings.side} segments of {settings.eigenvectors} eigenvectors: set "
                         "image_size higher, or these lower.")
    rank = min(settings.rank, dim)
    return EigensegmentHead(settings, dim, rank), {"own": readout(rank, num_classes, "none")}


def fit(fitting: Fitting) -> None:
    """Nothing is trained: tokens are projected to their leading directions, segments of training pictures clustered."""
    points = F.normalize(fitting.features.sample().chunk(2, dim=-1)[0].double(), dim=-1)  # (m, d)
    basis = fitting.head.basis
    leading = torch.linalg.eigh(points.T @ points)[1].flip(1)[:, :basis.shape[1]]  # (d, r)
    basis.copy_(leading * torch.where(leading.sum(dim=0) < 0, -1, 1))
    cluster_segments(fitting)
