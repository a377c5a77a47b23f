"""Concept-wise contrastive learning and its bank (Eq. 4, section 3.3).

    D_M[id(a), id(x)] > phi+ : x is a positive of the anchor a (a itself is not);  < phi- : a negative;  else ignored
    l(a, x+) = -s.z+ / tau + log( sum over positives and negatives x of exp(s.z_x / tau) )

s is the student's projection of the anchor, z the teacher's of x, both of length one. The loss is the mean over the
(anchor, positive) pairs of a picture, with x from the whole batch; the same against the bank; then the mean of all
those terms. A picture without positives has no such term.

Summed over an anchor's positives, l is  |P| lse - s.(sum of z+)/tau,  and its gradient is  (|P| zbar - sum of z+)/tau,
with zbar the softmax-weighted mean of the z. Both come out of one pass over tiles of the pool (kernels/tiles.py), so no
matrix of anchors by bank is ever stored; positives of the bank are summed per concept first, once for all anchors.

The projection is linear, s = (W f + c) / |W f + c|, so an anchor has no more directions than its features f have
numbers, r + 1 of them. With y = [W c]^T z, which every anchor shares,  s.z = [f 1].y / |W f + c|:  with `projection`
the matrices of anchors by pool are products of width r + 1, not p.
"""

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cause_lib.kernels.tiles import Pool


class ConceptBank:
    """The last `capacity` teacher projections of every concept, as one tensor.

    On a CPU, concepts that were never written to take no memory; of 2048 often no more than 100 ever are.

    Args:
        num_concepts, dim, capacity: k, the width p of a projection, and projections kept a concept; each at least 1,
            else ValueError.
        device, dtype: where they are stored, and how, floating.

    Examples:
        >>> bank = ConceptBank(num_concepts=2, dim=3, capacity=2)
        >>> bank.update(torch.eye(3), torch.tensor([1, 1, 1]))
        >>> bank.counts
        tensor([0, 2])
    """

    def __init__(self, num_concepts: int, dim: int, capacity: int = 100, *, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:
        if min(num_concepts, dim, capacity) < 1:
            raise ValueError(f"ConceptBank needs num_concepts, dim and capacity of at least 1, "
                             f"not {num_concepts}, {dim} and {capacity}.")
        self.projections = _zeros((num_concepts, capacity, dim), device, dtype)  # (k, capacity, p)
        self.written = torch.zeros(num_concepts, device=device, dtype=torch.int64)  # (k,) since the start
        on_gpu = self.written.is_cuda
        self._counts = torch.zeros(num_concepts, dtype=torch.int64, pin_memory=on_gpu)  # the counts, on the host
        self._arrived = torch.cuda.Event() if on_gpu else None

    @property
    def counts(self) -> Tensor:
        """How many projections each concept holds: (k,) int64."""
        return self.written.clamp(max=self.projections.shape[1])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def counts_on_host(self) -> Tensor:
        """The counts on the CPU. On a GPU this waits for the end of the last update, not for anything after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._counts

    def _send_counts(self) -> None:
        self._counts.copy_(self.counts, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self.written.device))

    @torch.no_grad()
    def update(self, projections: Tensor, concepts: Tensor) -> None:
        """Store projections (..., p) floating, at length one, of concepts (...) int64 in [0, k); a full concept loses
        its oldest ones."""
        projections = F.normalize(projections.reshape(-1, projections.shape[-1]).to(self.projections), dim=-1)  # (m, p)
        capacity = self.projections.shape[1]
        concepts, order = concepts.reshape(-1).sort(stable=True)  # (m,)
        total, first, rank = _runs(concepts, len(self.written))
        slot = (self.written[concepts] + rank) % capacity
        # Of a run longer than the capacity several have one slot: each of them writes the last one there.
        last = rank + (total[concepts] - 1 - rank) // capacity * capacity
        self.projections.flatten(0, 1).index_copy_(0, concepts * capacity + slot,
                                                   projections[order[first[concepts] + last]])
        self.written += total
        self._send_counts()

    def state_dict(self) -> dict[str, Tensor]:
        """What is held, without the empty places: concepts (m,), slots (m,), projections (m, p), written (k,)."""
        filled = torch.arange(self.projections.shape[1], device=self.written.device) < self.counts[:, None]
        concepts, slots = filled.nonzero(as_tuple=True)
        return {"concepts": concepts, "slots": slots, "projections": self.projections[concepts, slots],
                "written": self.written.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self.projections = _zeros(self.projections.shape, self.projections.device, self.projections.dtype)
        self.projections[state["concepts"].to(self.written.device), state["slots"].to(self.written.device)] = \
            state["projections"].to(self.projections)
        self.written.copy_(state["written"])
        self._send_counts()


def _runs(concepts: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of sorted concepts (m,): how many of each (k,), where each one's run begins (k,), place in its run (m,)."""
    total = concepts.new_zeros(k).scatter_add_(0, concepts, torch.ones_like(concepts))
    first = total.cumsum(0) - total
    return total, first, torch.arange(len(concepts), device=concepts.device) - first[concepts]


def share_of_each(concepts: Tensor, share: float, order: Tensor, k: int) -> Tensor:
    """Of each of k concepts' m patches the floor(share m) that come first in `order`, a permutation of all patches.

    The released code's draw for the bank, at share 1/2. concepts, order (m,) int64 -> indices (m',) int64.
    """
    concepts, places = concepts[order].sort(stable=True)
    total, _, rank = _runs(concepts, k)
    return order[places[rank < (share * total.double()).floor()[concepts]]]


def _zeros(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU, where torch.zeros writes all of them, in memory that the system provides as it is written."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, access=mmap.ACCESS_COPY)  # of no file, of this process
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def concept_contrastive_loss(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor,
                             bank: ConceptBank | None = None, *, temperature: float = 0.07,
                             positive_threshold: float = 0.3, negative_threshold: float = 0.1,
                             projection: nn.Linear | None = None, first: int = 0,
                             total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The loss of Eq. 4, in the batch and, if there is one, against the bank.

    Args:
        student: (b, n, p) floating, any length; gets the gradient. With `projection`: the features (b, n, r).
        teacher: (b, n, p), any length; gets none.
        concepts: (b, n) int64, the concept of each patch.
        similarity: (k, k), cosine similarity D_M of the concepts.
        bank: teacher projections of earlier batches.
        temperature, positive_threshold, negative_threshold: tau > 0, phi+, phi-.
        projection: the student's linear layer from r to p, yet to be applied: the same loss, sooner; gets a gradient.
        first: where a part of the batch begins, if student has only the pictures `first` to `first + b'`, (b', n, p) of
            teacher's b. The losses of all parts add up to that of the batch.
        total: sums a count over all parts; None: there is one.

    Returns:
        A scalar, at least 0; 0, with a zero gradient, where no picture has a positive.

    Raises:
        ValueError: the shapes do not agree.

    Examples:
        Two patches of one concept, each with one positive and no negative: l = 0.

        >>> z, concepts = torch.ones(1, 2, 3), torch.tensor([[0, 0]])
        >>> concept_contrastive_loss(z, z, concepts, torch.eye(1)).item()
        0.0
    """
    b, n, p = teacher.shape
    before = (p,) if projection is None else projection.weight.shape[::-1]
    if student.shape[1:] != (n, before[0]) or before[-1] != p or concepts.shape != (b, n) \
            or not 0 <= first <= b - len(student):
        raise ValueError("concept_contrastive_loss needs student and teacher (b, n, p), or with a projection from r to "
                         f"p student (b, n, r), and concepts (b, n), not {tuple(student.shape)}, {tuple(teacher.shape)}"
                         f" and {tuple(concepts.shape)}" + ("." if projection is None else f" with {projection}."))
    dtype = torch.promote_types(student.dtype, torch.float32)  # half precision would lose the small terms of the sum
    with torch.autocast(student.device.type, enabled=False):
        z = F.normalize(teacher.detach().reshape(b * n, p).to(dtype), dim=-1)  # (bn, p)
        anchors, mixing = student.flatten(0, 1).to(dtype), None  # (b'n, p) or (b'n, r)
        if projection is None:
            anchors = F.normalize(anchors, dim=-1)
        else:
            anchors, mixing = _unprojected(anchors, projection)
        pools = _pools(z, concepts.flatten(), similarity.to(dtype), bank, positive_threshold, negative_threshold,
                       slice(first * n, first * n + len(anchors)))
        return _Contrast.apply(anchors, mixing, n, pools, temperature, total)


def _unprojected(features: Tensor, projection: nn.Linear) -> tuple[Tensor, Tensor]:
    """Anchors u (m, q) and a matrix V (p, q) such that V u is the projection of the features (m, r), at length one."""
    mixing = projection.weight.to(features)  # (p, r)
    if projection.bias is not None:
        mixing = torch.cat([mixing, projection.bias.to(features)[:, None]], dim=1)  # (p, r + 1)
        features = F.pad(features, (0, 1), value=1.0)
    spare = -mixing.shape[1] % 16  # products of whole registers are up to twice as fast
    mixing, features = F.pad(mixing, (0, spare)), F.pad(features, (0, spare))
    return features / (features @ mixing.T).norm(dim=-1, keepdim=True).clamp(min=1e-12), mixing


@torch.no_grad()
def _pools(z: Tensor, concepts: Tensor, similarity: Tensor, bank: ConceptBank | None, high: float, low: float,
           mine: slice) -> list[Pool]:
    """What the anchors, `mine` of the bn patches, are compared with: z (bn, p) of concepts (bn,), and the bank."""
    alike = similarity[concepts[mine]]  # (m, k) D_M[id(a), .]
    pairs = alike[:, concepts]  # (m, bn)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)[mine]  # (m, bn)
    pools = [Pool.of_rows(z[:, None], torch.ones_like(concepts), torch.ones(len(z), dtype=torch.int64),
                          (pairs > high) & others, (pairs < low) & others)]
    if bank is not None:
        pools.append(Pool.of_rows(bank.projections, bank.counts, bank.counts_on_host(), alike > high, alike < low))
    return pools


class _Contrast(torch.autograd.Function):
    """Anchors u (m, q), n a picture, and V (p, q) or None for u as it is -> the loss, with its gradient by u and V."""

    @staticmethod
    def forward(ctx, anchors: Tensor, mixing: Tensor | None, n: int, pools: list[Pool], temperature: float,
                total: Callable[[Tensor], Tensor] | None) -> Tensor:
        reads = [_read(pool, anchors, mixing, temperature) for pool in pools]
        pairs = [read.positives.view(-1, n).sum(dim=1) for read in reads]  # (b',) pairs, anchor and positive, a picture
        terms = sum((each > 0).sum() for each in pairs)
        terms = (terms if total is None else total(terms)).clamp(min=1)
        shares = [(torch.where(each > 0, 1 / each.clamp(min=1), 0) / terms).repeat_interleave(n) for each in pairs]
        by_mixing = None
        if mixing is not None and ctx.needs_input_grad[1]:
            by_mixing = sum(_by_mixing(pool, anchors, read, share, temperature)
                            for pool, read, share in zip(pools, reads, shares))
        ctx.save_for_backward(sum(read.slope * share[:, None] for read, share in zip(reads, shares)), by_mixing)
        return sum((read.loss * share).sum() for read, share in zip(reads, shares))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_anchors, by_mixing = ctx.saved_tensors
        return upstream * by_anchors, None if by_mixing is None else upstream * by_mixing, *[None] * 4


@dataclass
class _Read:
    """What one pass over a pool finds for each of m anchors."""

    positives: Tensor  # (m,) how many
    loss: Tensor  # (m,) l, summed over them
    slope: Tensor  # (m, q) its gradient by the anchor
    lse: Tensor  # (m, 1), anything finite without positives
    keys: list[Tensor]  # (ts, q) of each tile, if they are not the projections themselves


def _read(pool: Pool, anchors: Tensor, mixing: Tensor | None, temperature: float) -> _Read:
    """One pass over tiles of the pool, with an online log-sum-exp."""
    m = len(anchors)
    hot, tiny = anchors / temperature, torch.finfo(anchors.dtype).tiny
    top = anchors.new_full((m, 1), -math.inf)
    weight, mean = anchors.new_zeros(m, 1), torch.zeros_like(anchors)  # running sum of exp, and of exp times key
    positives, toward = anchors.new_zeros(m), torch.zeros_like(anchors)  # count of positives, sum of their keys
    kept = []
    for tile in pool.tiles(anchors.dtype):
        t, places = tile.z.shape[:2]
        keys = tile.keys(mixing)  # (ts, q)
        if mixing is not None:
            kept.append(keys)
        hits = tile.positive.to(anchors)  # (m, t)
        positives += hits @ tile.held.to(anchors)
        toward.addmm_(hits, keys.view(t, places, -1).sum(dim=1))
        logits = tile.logits(hot, keys)  # (m, ts)
        peaks = logits.view(m, t, places).amax(dim=2).masked_fill_(~tile.used, -math.inf)  # (m, t)
        higher = torch.maximum(top, peaks.amax(dim=1, keepdim=True))  # (m, 1)
        floor = torch.where(higher == -math.inf, 0, higher)
        shrink, odds = torch.exp(top - floor), tile.odds(logits, floor, temperature)  # exp(-inf) = 0
        sums = odds.sum(dim=1) if tile.full else odds @ tile.filled.flatten().to(odds)  # (m,)
        weight = weight * shrink + sums[:, None]
        mean.mul_(shrink).addmm_(odds, keys)
        top = higher
    # An anchor without positives has no pair, hence no loss; its logarithm may be of zero.
    weight = weight.clamp(min=tiny)
    lse = torch.where(positives[:, None] > 0, top + torch.log(weight), 1 / temperature)
    loss = positives * lse[:, 0] - (hot * toward).sum(dim=1)
    slope = mean.div_(weight).mul_(positives[:, None]).sub_(toward).div_(temperature)
    return _Read(positives, loss, slope, lse, kept)


def _by_mixing(pool: Pool, anchors: Tensor, read: _Read, share: Tensor, temperature: float) -> Tensor:
    """The gradient of sum_a share_a l_a by V, (p, q), in a second pass, once every log-sum-exp is known."""
    hot = anchors / temperature
    toward, away = hot * share[:, None], hot * (share * read.positives)[:, None]  # (m, q)
    total = anchors.new_zeros(pool.z.shape[2], anchors.shape[1])  # (p, q)
    for tile, keys in zip(pool.tiles(anchors.dtype), read.keys, strict=True):
        odds = tile.odds(tile.logits(hot, keys), read.lse, temperature)  # (m, ts)
        by_keys = (away.T @ odds).view(-1, *tile.z.shape[:2])  # (q, t, s)
        by_keys -= (toward.T @ tile.positive.to(hot))[:, :, None]
        total.addmm_(tile.z.flatten(0, 1).T, by_keys.flatten(1).T.contiguous())  # at empty places z is zero
    return total
