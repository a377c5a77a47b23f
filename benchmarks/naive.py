"""The textbook forms that the library is measured against: short, plain, and equal to it in value and gradient.

    modularity   Eq. 3 with all b x k x n x n products stored, the maximum taken over k, autograd through it
    Bank         Python lists of projections, one a concept, filled in a Python loop
    contrast     Eq. 4 with the bank stacked anew every step, and similarity, masks and logits of all anchors by all of
                 it stored, autograd through them
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def modularity(tokens: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """As clusterbook.modularity_loss: tokens (b, n, d), prototypes (k, d) -> minus the modularity."""
    unit = F.normalize(tokens, dim=-1)
    a = (unit @ unit.mT).clamp(min=0)  # (b, n, n)
    a = a * (1 - torch.eye(a.shape[1], device=a.device))
    e = a.sum(dim=(1, 2), keepdim=True)
    degrees = a.sum(dim=2, keepdim=True) / e  # (b, n, 1)
    w = a / e - degrees @ degrees.mT
    c = (F.normalize(prototypes, dim=-1) @ unit.mT).clamp(min=0)  # (b, k, n)
    delta = torch.tanh(c[:, :, :, None] * c[:, :, None, :] / temperature).max(dim=1).values  # from (b, k, n, n)
    return -(w * delta).sum(dim=(1, 2)).mean()


class Bank:
    """As contrast.ConceptBank, in lists."""

    def __init__(self, num_concepts: int, capacity: int) -> None:
        self.lists: list[list[Tensor]] = [[] for _ in range(num_concepts)]
        self.capacity = capacity

    def update(self, projections: Tensor, concepts: Tensor) -> None:
        """projections (m, p), concepts (m,)."""
        for z, concept in zip(F.normalize(projections, dim=-1), concepts.tolist()):
            self.lists[concept] = [*self.lists[concept], z.clone()][-self.capacity:]


def contrast(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor, bank: Bank | None = None,
             temperature: float = 0.07, positive_threshold: float = 0.3, negative_threshold: float = 0.1) -> Tensor:
    """As contrast.concept_contrastive_loss: student, teacher (b, n, p), concepts (b, n), similarity (k, k)."""
    b, n, p = student.shape
    s, z, ids = F.normalize(student, dim=-1).view(-1, p), F.normalize(teacher, dim=-1).view(-1, p), concepts.flatten()
    pools = [(z, ids, ~torch.eye(b * n, dtype=torch.bool, device=s.device))]
    if bank is not None and any(bank.lists):
        held = torch.tensor([len(each) for each in bank.lists], device=s.device)
        pools.append((torch.stack([each for several in bank.lists for each in several]),
                      torch.arange(len(held), device=s.device).repeat_interleave(held), None))
    terms = []
    for pool, theirs, other in pools:  # (x, p), (x,), (bn, x)
        alike = similarity[ids][:, theirs]  # (bn, x)
        positive, negative = alike > positive_threshold, alike < negative_threshold
        if other is not None:
            positive, negative = positive & other, negative & other
        logits = s @ pool.T / temperature  # (bn, x)
        lse = logits.masked_fill(~(positive | negative), -torch.inf).logsumexp(dim=1, keepdim=True)  # (bn, 1)
        sums = torch.where(positive, lse - logits, 0).view(b, -1).sum(dim=1)  # (b,)
        pairs = positive.view(b, -1).sum(dim=1)
        terms.append(sums[pairs > 0] / pairs[pairs > 0])
    terms = torch.cat(terms)
    return terms.mean() if len(terms) else (s * 0).sum()
