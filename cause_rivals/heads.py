"""What STEGO and HP share: a head that drops whole channels, and centroids that learn beside it.

    s = A1 drop(t) + A2 relu(A3 drop'(t)),  d -> r,  d -> d -> r; each branch draws its own channels of each picture
    loss of the centroids m_k, on detached codes:  - mean over patches of max_k cos(s, m_k)
    log-probabilities:  log softmax_k(2 cos(s, m_k))

STEGO: Hamilton et al. 2022, "Unsupervised semantic segmentation by distilling feature correspondences".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe


def drop_channels(x: Tensor, share: float, training: bool = True) -> Tensor:
    """Dropout of whole channels of a picture, by the global random numbers: x (b, n, d) -> (b, n, d)."""
    return F.dropout1d(x.mT, share, training).mT if share else x


class ChannelHead(MLPHead):
    """The layers of `cause_lib.heads.MLPHead`, with dropout of whole channels.

    Examples:
        >>> ChannelHead(dim=8, reduced_dim=5)(torch.zeros(2, 12, 8)).shape
        torch.Size([2, 12, 5])
    """

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """tokens (b, n, d) -> codes (b, n, r); every patch by itself, so that no grid is needed."""
        first, second = (drop_channels(tokens, self.dropout, self.training) for _ in range(2))
        return self.f1(first) + self.f2(second)


class Centroids(ClusterProbe):
    """c centroids of width r, drawn from N(0, 1) by the global random numbers; log softmax(2 cos).

    Examples:
        >>> Centroids(num_classes=3, dim=5).log_probabilities(torch.ones(2, 5)).shape
        torch.Size([2, 3])
    """

    sharpness = 2.0  # as published

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__(num_classes, dim, torch.randn(num_classes, dim))

    def loss(self, codes: Tensor) -> Tensor:
        """Minus the mean cosine to the nearest centroid, which moves that one alone; codes (..., r) get no gradient."""
        return -self(codes.detach()).amax(dim=-1).mean()


def build(rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A new head, and its centroids: of a run whose settings have `rank` and `dropout`."""
    settings = rival.settings
    return ChannelHead(dim, settings.rank, settings.dropout), {"own": Centroids(num_classes, settings.rank)}
