"""Usage of prototypes and centroids, the reach of modularity's gradient, and the pairs of the contrastive loss.

An anchor's positives and negatives in its batch (Eq. 4) are counted without a matrix of patches by patches:
P_a = sum_l [D_M[id(a), l] > phi+] N_l - 1,  with N_l the patches of concept l, the anchor itself left out.
The effective number of prototypes is `cause_lib.metrics.effective_number` of these counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook, modularity_loss, thin_grid
from cause_lib.config import Experiment
from cause_lib.metrics import count
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import batches_for, descend, generator_for


@torch.no_grad()
def wins(points: Tensor, prototypes: Tensor) -> Tensor:
    """How many of the points (..., d) each prototype (k, d) is the nearest of, by the cosine: (k,) int64."""
    return count(Clusterbook(prototypes).assign(points), len(prototypes))


def reached(tokens: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """Which prototypes (k, d) have a gradient of Eq. 3 in this batch (b, n, d): (k,) bool."""
    prototypes = prototypes.detach().clone().requires_grad_(True)
    modularity_loss(tokens, prototypes, temperature).backward()
    return (prototypes.grad != 0).any(dim=1)


def seen_by(run: Experiment, stage: str, features: FrozenFeatures, steps: int,
            network: nn.Module | None = None) -> Iterator[Tensor]:
    """The input of the first `steps` updates of a stage, (b, n', d or r) each: its batches on the subsampled grid.

    run: the experiment
    stage: `clusterbook`, `head` or `probe`
    features: what the stage is trained on
    network: a head, whose features are given; None: the tokens themselves
    """
    batches = batches_for(run, stage, len(features), steps)
    patches = [thin_grid(features.grid, run.thin, generator_for(run, stage, step)) for step in range(steps)]
    if network is None:
        yield from features.stream(batches, patches)
    else:
        for tokens, kept in zip(features.stream(batches), patches):
            yield network(tokens, features.grid, kept.to(tokens.device))


def watch(start: Tensor, batches: Iterable[Tensor], *, temperature: float = 0.1, lr: float = 1e-3,
          every: int = 1) -> tuple[list[int], Tensor]:
    """Train prototypes, or centroids, by modularity: updates done (s,), and the prototypes then, (s, k, d).

    With the batches and the start of `fit_clusterbook`, or of `fit_probe` where its rate is never halved, the last ones
    are equal to theirs bit for bit.

    start: (k, d)
    batches: of each update the points, (b, n, d)
    temperature: tau of Eq. 3
    lr: Adam's
    every: keep each so many updates; the start and the end are always kept
    """
    learned = nn.Parameter(start.detach().clone())
    optimizer = torch.optim.Adam([learned], lr=lr)
    kept, step = {0: start.detach().clone()}, 0
    for step, points in enumerate(batches, start=1):
        descend(optimizer, modularity_loss(points, learned, temperature))
        if step % every == 0:
            kept[step] = learned.detach().clone()
    kept[step] = learned.detach().clone()
    return list(kept), torch.stack(list(kept.values()))


@torch.no_grad()
def neighbours(concepts: Tensor, similarity: Tensor, positive_threshold: float,
               negative_threshold: float) -> tuple[Tensor, Tensor]:
    """Positives and negatives of each anchor in its batch: (b, n) int64 each; the other pairs are ignored.

    concepts: (b, n) int64 of one batch
    similarity: D_M, (k, k)
    positive_threshold: phi+
    negative_threshold: phi-
    """
    sizes = count(concepts, len(similarity)).double()  # (k,)
    itself = similarity.diagonal()
    positives = (similarity > positive_threshold).double() @ sizes - (itself > positive_threshold).double()
    negatives = (similarity < negative_threshold).double() @ sizes - (itself < negative_threshold).double()
    return positives.long()[concepts], negatives.long()[concepts]


@torch.no_grad()
def modularity(points: Tensor, prototypes: Tensor, temperature: float = 0.1, *, batch: int = 16) -> float:
    """H of Eq. 3, the mean over pictures: points (b, n, d), prototypes (k, d), `batch` pictures at a time."""
    parts = (-modularity_loss(part, prototypes, temperature).double() * len(part) for part in points.split(batch))
    return float(sum(parts) / len(points))


@torch.no_grad()
def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean direction of each true class, (c, r) of length one: a start that takes labels. 0 for an empty class.

    features: (..., r), none of length 0
    labels: (...) int64, their classes, -1 void
    """
    labelled = labels >= 0
    unit = F.normalize(features[labelled], dim=-1)
    return F.normalize(unit.new_zeros(num_classes, unit.shape[-1]).index_add_(0, labels[labelled], unit), dim=-1)
