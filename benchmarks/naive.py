"""The textbook forms that the library is measured against: short, plain, and equal to it in value and gradient.

    modularity   Eq. 3 with all b x k x n x n products stored (cause_lib/reference.py)
    Bank         Python lists of projections, one a concept, filled in a Python loop
    contrast     Eq. 4 with the bank stacked anew every step, and similarity, masks and logits of all anchors by all of
                 it stored (cause_lib/reference.py)
    kmeans       rounds of spherical k-means with all points times all centroids stored
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.reference import concept_contrastive_loss
from cause_lib.reference import modularity_loss as modularity

__all__ = ["Bank", "contrast", "kmeans", "modularity"]


class Bank:
    """As contrast.ConceptBank, in lists."""

    def __init__(self, num_concepts: int, capacity: int) -> None:
        self.lists: list[list[Tensor]] = [[] for _ in range(num_concepts)]
        self.capacity = capacity

    def update(self, projections: Tensor, concepts: Tensor) -> None:
        """projections (m, p), concepts (m,)."""
        for z, concept in zip(F.normalize(projections, dim=-1), concepts.tolist()):
            self.lists[concept] = [*self.lists[concept], z.clone()][-self.capacity:]


def contrast(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor, bank: Bank) -> Tensor:
    """As contrast.concept_contrastive_loss: student, teacher (b, n, p), concepts (b, n), similarity (k, k)."""
    held = torch.tensor([len(each) for each in bank.lists], device=student.device)
    entries = None
    if held.any():
        entries = (torch.stack([each for several in bank.lists for each in several]),
                   torch.arange(len(held), device=student.device).repeat_interleave(held))
    return concept_contrastive_loss(student, teacher, concepts, similarity, entries)


def kmeans(points: Tensor, centroids: Tensor, rounds: int) -> Tensor:
    """Points (m, d) and centroids (c, d) of length one -> centroids (c, d); a cluster without points stays."""
    for _ in range(rounds):
        own = (points @ centroids.T).argmax(dim=1)  # (m,)
        sums = F.one_hot(own, len(centroids)).to(points).T @ points  # (c, d)
        centroids = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=-1), centroids)
    return centroids
