"""ACSeg: concepts of each picture, by a generator that modularity trains, and clusters of the picture's regions.

Li, Wang, Shu, Zhang, Song: ACSeg, Adaptive Conceptualization for Unsupervised Semantic Segmentation, CVPR 2023. Tokens
t (b, n, d); learned prototypes (k, d) become k concepts of the picture, m (b, k, d), by blocks of cross-attention to
the tokens, self-attention among the prototypes, and a feed-forward network:

    A_ij = max(0, cos(t_i, t_j)), A_ii = 0;   a_i = sum_j A_ij;   e = sum_ij A_ij;   W = A/e - (a/e)(a/e)^T
    S_ik = max(0, cos(t_i, m_k));             delta_ij = max_k S_ik S_jk
    loss = - sum_ij W_ij delta_ij, mean over pictures; its gradient goes through S alone
    region of patch i = argmax_k cos(t_i, m_k); a concept that no patch prefers vanishes

W is CAUSE's (Eq. 3), and so is the loss but for tanh(. / tau) and a book of the data set in place of m. No code of the
authors was found: this follows the equations. From the unofficial Sooo66/ACSeg 01df8ba06f9e, presets take settings, but
    not followed  A_ii = 1; attention over sqrt(d) of all heads; residuals of projected queries; the loss summed over
                  pictures; names of regions by labels
    left out      foreground by the class token's attention, which no facet has; `background=border` stands in for it
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import argmax_concepts, modularity_matrix
from cause_lib.errors import InputError
from cause_lib.runs.loop import Run, descend
from cause_lib.runs.parallel import Part
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.segments import SegmentHead, background_setting, cluster_segments, readout, segment_vectors

if TYPE_CHECKING:
    from cause_rivals.run import Fitting

FACETS, SIZE = ("token",), "train_size"


@dataclasses.dataclass(frozen=True)
class Settings(MethodSettings):
    """Settings of ACSeg."""

    concepts: int = setting(5, "concepts of a picture, k (5)", "a picture has at most so many regions", 1, 4096)
    blocks: int = setting(6, "blocks of the generator (6)", "prototypes become concepts in these", 1, 100)
    heads: int = setting(6, "attention heads (6)", "they share the width of the tokens", 1, 1024)
    hidden: int = setting(1024, "width of the feed-forward networks (1024)", "it is a width", 1, 65_536)
    steps: int = setting(600, "updates", "it is a number of updates", 0)
    rate: float = setting(1e-4, "AdamW's rate (1e-4)", "it is the length of a step down the loss", 0.0)
    decay_steps: int = setting(10**9, "updates after which the rate is a tenth, and so on", "it is a number of updates",
                               1)
    weight_decay: float = setting(0.01, "AdamW's weight decay (0.01)", "it shrinks the weights", 0.0)
    background: str = background_setting()


def modularity(weights: Tensor, affinity: Tensor) -> Tensor:
    """Minus the modularity of each picture: W (b, n, n), S (b, n, k) at least 0 -> (b,); the gradient goes to S."""
    best = argmax_concepts(affinity.detach())  # (b, n, n)
    own = affinity.gather(2, best)  # (b, n, n) S_ik with k = argmax_k S_ik S_jk
    return -(weights * own * own.mT).sum(dim=(1, 2))  # S_jk is at (j, i), as the argmax is symmetric


class Block(nn.Module):
    """Prototypes look at tokens, at each other, and pass a feed-forward network: residual and norm after each."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross, self.among = (nn.MultiheadAttention(dim, heads, batch_first=True) for _ in range(2))
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (b, k, d), tokens (b, n, d) -> (b, k, d)."""
        x = self.norms[0](x + self.cross(x, tokens, tokens, need_weights=False)[0])
        x = self.norms[1](x + self.among(x, x, x, need_weights=False)[0])
        return self.norms[2](x + self.feed(x))


class ConceptHead(SegmentHead):
    """The adaptive concept generator, and regions by its concepts."""

    def __init__(self, dim: int, settings: Settings) -> None:
        super().__init__(settings.background)
        self.prototypes = nn.Parameter(torch.randn(settings.concepts, dim))  # (k, d)
        self.blocks = nn.ModuleList(Block(dim, settings.heads, settings.hidden) for _ in range(settings.blocks))

    def cosines(self, tokens: Tensor) -> Tensor:
        """Cosines of tokens (b, n, d) with the concepts of their picture: (b, n, k)."""
        concepts = self.prototypes.expand(len(tokens), -1, -1)  # (b, k, d)
        for block in self.blocks:
            concepts = block(concepts, tokens)
        return F.normalize(tokens, dim=-1) @ F.normalize(concepts, dim=-1).mT

    @torch.no_grad()
    def segments(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See SegmentHead; the vector of a region is its mean token."""
        own = self.cosines(tokens).argmax(dim=2)  # (b, n)
        return segment_vectors(tokens, F.one_hot(own, len(self.prototypes))), own


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The generator, and the read-out `own`. Raises ValueError where the heads do not divide the width."""
    settings: Settings = rival.settings
    if dim % settings.heads:
        raise InputError(f"Setting heads must divide the width of the tokens, {dim}, and {settings.heads} does not.")
    return ConceptHead(dim, settings), {"own": readout(dim, num_classes, settings.background)}


def fit(fitting: Fitting) -> Run:
    """Train the generator, then cluster the regions of training pictures."""
    rival, head = fitting.rival, fitting.head.train()
    settings: Settings = rival.settings
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)

    def update(tokens: Tensor, step: int, part: Part) -> Tensor:
        optimizer.param_groups[0]["lr"] = settings.rate * 0.1 ** (step // settings.decay_steps)
        loss = modularity(modularity_matrix(tokens), head.cosines(tokens).clamp(min=0)).mean()
        descend(optimizer, loss)
        return loss.detach()

    run = fitting.train(Run(rival.experiment, fitting.folder, settings.steps, {"head": head}, optimizer, update))
    cluster_segments(fitting)
    return run
