"""Concept-wise contrastive learning and its bank (Eq. 4, section 3.3).

    D_M[id(a), id(x)] > phi+ : x is a positive of the anchor a (a itself is not);  < phi- : a negative;  else ignored
    l(a, x+) = -s.z+ / tau + log( sum over positives and negatives x of exp(s.z_x / tau) )

s is the student's projection of the anchor, z the teacher's of x, both of length one. The loss is the mean over the
(anchor, positive) pairs of a picture, with x from the whole batch; the same against the bank; then the mean of all
those terms. A picture without positives has no such term.

Summed over an anchor's positives, l is  |P| lse - s.(sum of z+)/tau,  and its gradient is  (|P| zbar - sum of z+)/tau,
with zbar the softmax-weighted mean of the z. Both come out of one pass over tiles of the pool, so no matrix of anchors
by bank is ever stored, and the positives of the bank are summed per concept before any anchor looks at them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers of the pool that are looked at together.
_TILE = 2**22


class ConceptBank:
    """The last `capacity` teacher projections of every concept, as one tensor.

    Args:
        num_concepts: k.
        dim: width p of a projection.
        capacity: projections kept a concept.
        device, dtype: of the stored projections.
    """

    def __init__(self, num_concepts: int, dim: int, capacity: int = 100, *, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:
        if min(num_concepts, dim, capacity) < 1:
            raise ValueError(f"ConceptBank needs num_concepts, dim and capacity of at least 1, "
                             f"not {num_concepts}, {dim} and {capacity}.")
        self.projections = torch.zeros(num_concepts, capacity, dim, device=device, dtype=dtype)  # (k, capacity, p)
        self.written = torch.zeros(num_concepts, device=device, dtype=torch.int64)  # (k,) since the start

    @property
    def counts(self) -> Tensor:
        """How many projections each concept holds: (k,) int64."""
        return self.written.clamp(max=self.projections.shape[1])

    def __len__(self) -> int:
        return int(self.counts.sum())

    @torch.no_grad()
    def update(self, projections: Tensor, concepts: Tensor) -> None:
        """Take projections in; a full concept gives up its oldest ones.

        Args:
            projections: (..., p) floating; stored at length one.
            concepts: (...) int64 in [0, k).
        """
        projections = F.normalize(projections.reshape(-1, projections.shape[-1]).to(self.projections), dim=-1)  # (m, p)
        capacity = self.projections.shape[1]
        concepts, order = concepts.reshape(-1).sort(stable=True)  # (m,)
        total = torch.zeros_like(self.written).scatter_add_(0, concepts, torch.ones_like(concepts))  # (k,)
        first = total.cumsum(0) - total  # (k,) where each concept's run begins
        rank = torch.arange(len(concepts), device=concepts.device) - first[concepts]  # (m,)
        keep = rank >= total[concepts] - capacity  # of a run longer than the capacity, its end
        slot = (self.written[concepts] + rank) % capacity
        self.projections[concepts[keep], slot[keep]] = projections[order[keep]]
        self.written += total

    def state_dict(self) -> dict[str, Tensor]:
        """What is held, without the empty places: concepts (m,), slots (m,), projections (m, p), written (k,)."""
        filled = torch.arange(self.projections.shape[1], device=self.written.device) < self.counts[:, None]
        concepts, slots = filled.nonzero(as_tuple=True)
        return {"concepts": concepts, "slots": slots, "projections": self.projections[concepts, slots],
                "written": self.written.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.projections.zero_()
        self.projections[state["concepts"].to(self.written.device), state["slots"].to(self.written.device)] = \
            state["projections"].to(self.projections)
        self.written.copy_(state["written"])


def concept_contrastive_loss(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor,
                             bank: ConceptBank | None = None, *, temperature: float = 0.07,
                             positive_threshold: float = 0.3, negative_threshold: float = 0.1) -> Tensor:
    """The loss of Eq. 4, in the batch and, if there is one, against the bank.

    Args:
        student: (b, n, p) floating, any length; gets the gradient.
        teacher: (b, n, p), any length; gets none.
        concepts: (b, n) int64, the concept of each patch.
        similarity: (k, k), cosine similarity D_M of the concepts.
        bank: teacher projections of earlier batches.
        temperature: tau > 0. positive_threshold, negative_threshold: phi+ and phi-.

    Returns:
        A scalar; 0, with a zero gradient, where no picture has a positive.

    Raises:
        ValueError: the shapes do not agree.
    """
    b, n, p = student.shape
    if teacher.shape != student.shape or concepts.shape != (b, n):
        raise ValueError(f"concept_contrastive_loss needs student and teacher (b, n, p) and concepts (b, n), "
                         f"not {tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(concepts.shape)}.")
    dtype = torch.promote_types(student.dtype, torch.float32)  # half precision would lose the small terms of the sum
    with torch.autocast(student.device.type, enabled=False):
        anchors = F.normalize(student.reshape(b * n, p).to(dtype), dim=-1)  # (bn, p)
        with torch.no_grad():
            z = F.normalize(teacher.reshape(b * n, p).to(dtype), dim=-1)  # (bn, p)
            flat, similarity = concepts.reshape(-1), similarity.to(dtype)
            rule = (similarity, temperature, positive_threshold, negative_threshold)
            pools = [_against_pool(anchors, flat, z[:, None], flat, None, *rule, itself=True)]
            if bank is not None and len(bank):
                alive = bank.counts.nonzero()[:, 0]  # (g,)
                pools.append(_against_pool(anchors, flat, bank.projections, alive, bank.counts, *rule, itself=False))
            total, terms, direction = 0.0, 0, torch.zeros_like(anchors)
            for loss, slope, positives in pools:  # (bn,), (bn, p), (bn,)
                pairs = positives.view(b, n).sum(dim=1)  # (b,) (anchor, positive) pairs of each picture
                share = torch.where(pairs > 0, 1 / pairs.clamp(min=1), 0)  # (b,)
                total = total + (loss.view(b, n).sum(dim=1) * share).sum()
                direction += slope * share.repeat_interleave(n)[:, None]
                terms = terms + (pairs > 0).sum()
            terms = torch.clamp(torch.as_tensor(terms), min=1)
        # The value is `total`, the gradient is `direction`: the difference is zero and only carries the gradient.
        return total / terms + ((anchors - anchors.detach()) * (direction / terms)).sum()


def _against_pool(anchors: Tensor, concepts: Tensor, pool: Tensor, groups: Tensor, counts: Tensor | None,
                  similarity: Tensor, temperature: float, positive_threshold: float, negative_threshold: float, *,
                  itself: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradient of every anchor against a pool of projections, tile by tile, with an online log-sum-exp.

    Args:
        anchors: (m, p) of length one, with their concepts (m,).
        pool: (g, s, p), s places a group, all of one concept; or the bank (k, s, p), where groups picks the rows.
        groups: (g,) concept of each group. counts: (k,) filled places of each concept; None: all are filled.
        itself: group i is anchor i's own patch, which is neither positive nor negative for it.

    Returns:
        Sum over its positives of l, (m,); the gradient of that by the anchor, (m, p); the number of positives, (m,).
    """
    m, (places, p) = len(anchors), pool.shape[1:]
    top = anchors.new_full((m,), -math.inf)
    weight, mean = anchors.new_zeros(m), torch.zeros_like(anchors)  # running sum of exp, and of exp times z
    positives, toward = anchors.new_zeros(m), torch.zeros_like(anchors)  # count of positives, sum of their z
    tile = max(1, _TILE // (places * max(p, m)))
    rows = torch.arange(m, device=anchors.device)[:, None]
    for start in range(0, len(groups), tile):
        ids = groups[start:start + tile]  # (t,)
        z = pool[start:start + tile] if counts is None else pool[ids].to(anchors)  # (t, s, p)
        alike = similarity[concepts][:, ids]  # (m, t)
        positive, negative = alike > positive_threshold, alike < negative_threshold
        if itself:
            other = rows != torch.arange(start, start + len(ids), device=rows.device)
            positive, negative = positive & other, negative & other
        filled = counts[ids].to(anchors) if counts is not None else anchors.new_full((len(ids),), places)
        positives += positive.to(anchors) @ filled
        toward += positive.to(anchors) @ z.sum(dim=1)  # empty places hold zeros
        logits = (anchors @ z.reshape(-1, p).T).view(m, -1, places) / temperature  # (m, t, s)
        logits = logits.masked_fill(~(positive | negative)[:, :, None], -math.inf)
        if counts is not None:
            logits = logits.masked_fill(torch.arange(places, device=ids.device) >= counts[ids][:, None], -math.inf)
        logits = logits.view(m, -1)
        higher = torch.maximum(top, logits.amax(dim=1))  # (m,)
        floor = torch.where(higher == -math.inf, 0, higher)
        shrink, odds = torch.exp(top - floor), torch.exp(logits - floor[:, None])  # exp(-inf) = 0
        weight = weight * shrink + odds.sum(dim=1)
        mean = mean * shrink[:, None] + odds @ z.reshape(-1, p)
        top = higher
    # An anchor without positives has no pair, hence no loss; its logarithm may be of zero.
    has = positives > 0
    lse = torch.where(has, top + torch.log(weight.clamp(min=torch.finfo(weight.dtype).tiny)), 0)
    loss = positives * lse - (anchors * toward).sum(dim=1) / temperature
    mean = mean / weight.clamp(min=torch.finfo(weight.dtype).tiny)[:, None]
    return loss, (positives[:, None] * mean - toward) / temperature, positives
