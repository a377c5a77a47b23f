"""What methods that cut a picture into segments share: features of patches from segments, and the read-out of these.

    own_i = the segment of patch i, one of k;   v_s = a vector of segment s, of length one;   f_i = v_own_i
    read-out `own`: spherical k-means of the segments of training pictures, each counts once, c clusters

Background (`border`): the segment with most patches at the picture's border is not clustered. Its vector is (0, 1) and
those of the others (v, -1), of length one; k-means finds c - 1 clusters of these, background is the last. A segment
that is not background is nearer to every cluster of segments than to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import take_patches
from cause_lib.errors import RunError
from cause_lib.probes import ClusterProbe, cosine_kmeans
from cause_rivals.rival import setting

if TYPE_CHECKING:
    from cause_rivals.run import Fitting

VIEWS = 2048  # the read-out is of the segments of at most so many training views


def background_setting() -> str:
    """The setting `background` of a method."""
    return setting("none", "`none`; or `border`: the segment with most patches at the border is background, and not "
                   "clustered", "background is found in these ways", choices=("none", "border"))


class SegmentHead(nn.Module):
    """Patches by their segment; a method gives `segments(tokens, grid)` -> vectors (b, k, d) of length one, the
    segments of patches (b, n) int64."""

    def __init__(self, background: str) -> None:
        super().__init__()
        self.border = background == "border"

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """tokens (b, n, d) of a grid of patches -> features (b, n, r), the vectors of the patches' segments."""
        return take_patches(*self.marked(tokens, grid))

    def marked(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`segments`, background marked if that is asked for: (b, k, r), (b, n)."""
        vectors, own = self.segments(tokens, grid)
        if not self.border:
            return vectors, own
        mark = F.one_hot(border_segment(own, vectors.shape[1], grid), vectors.shape[1])[:, :, None]  # (b, k, 1)
        return F.normalize(torch.cat([vectors * (1 - mark), 2 * mark.to(vectors) - 1], dim=-1), dim=-1), own


def readout(dim: int, num_classes: int, background: str) -> ClusterProbe:
    """The read-out `own` of segments, its centroids still to be found by `cluster_segments`."""
    return ClusterProbe(num_classes, dim + (background == "border"))


def segment_vectors(tokens: Tensor, masks: Tensor) -> Tensor:
    """Sums of tokens by masks, of length one: tokens (b, n, d), masks (b, n, k) at least 0 -> (b, k, d)."""
    return F.normalize(masks.to(tokens).mT @ tokens, dim=-1)


def border_segment(own: Tensor, num_segments: int, grid: tuple[int, int]) -> Tensor:
    """The segment with most patches on the four sides of the grid, corners counted twice: own (b, n) -> (b,) int64."""
    own = own.unflatten(1, grid)
    sides = torch.cat([own[:, 0], own[:, -1], own[:, :, 0], own[:, :, -1]], dim=1)  # (b, 2 rows + 2 columns)
    return F.one_hot(sides, num_segments).sum(dim=1).argmax(dim=1)


@torch.no_grad()
def cluster_segments(fitting: Fitting, restarts: int | None = None) -> None:
    """Find the centroids of the read-out `own`, and note how many segments a view has.

    Raises:
        RuntimeError: every segment is background.
    """
    head, features, experiment = fitting.head.eval(), fitting.features, fitting.rival.experiment
    views = torch.randperm(len(features), generator=fitting.generator("segments"))[:VIEWS].sort().values
    found = []
    for tokens in features.stream(views.split(experiment.batch_size)):
        vectors, own = head.marked(tokens, features.grid)
        used = torch.zeros(vectors.shape[:2], dtype=torch.bool, device=own.device).scatter_(1, own, True)  # (b, k)
        found.append(vectors[used])
    points, centroids = torch.cat(found), fitting.readouts["own"].centroids
    fitting.notes["segments_of_a_view"] = round(len(points) / len(views), 2)
    points = points[points[:, -1] < 0] if head.border else points
    if not len(points):
        raise RunError("Every segment of the training pictures is background: set background to none.")
    clusters = cosine_kmeans(points, len(centroids) - head.border, restarts=restarts or experiment.kmeans_restarts,
                             generator=fitting.generator("segment k-means"))
    centroids.zero_()[:len(clusters)] = clusters
    if head.border:
        centroids[-1, -1] = 1
