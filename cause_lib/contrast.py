"""Concept-wise contrastive learning and its bank (Eq. 4, section 3.3).

    D_M[id(a), id(x)] > phi+ : x is a positive of the anchor a (a itself is not);  < phi- : a negative;  else ignored
    l(a, x+) = -s.z+ / tau + log( sum over positives and negatives x of exp(s.z_x / tau) )

s is the student's projection of the anchor, z the teacher's of x, both of length one. The loss is the mean over the
(anchor, positive) pairs of a picture, with x from the whole batch; the same against the bank; then the mean of all
those terms. A picture without positives has no such term.

Summed over an anchor's positives, l is  |P| lse - s.(sum of z+)/tau,  and its gradient is  (|P| zbar - sum of z+)/tau,
with zbar the softmax-weighted mean of the z. Both come out of one pass over tiles of the pool, so no matrix of anchors
by bank is ever stored, and the positives of the bank are summed per concept before any anchor looks at them.

The projection is linear, s = (W f + c) / |W f + c|, so an anchor has no more directions than its features f have
numbers, r + 1 of them. With y = [W c]^T z, which every anchor shares,  s.z = [f 1].y / |W f + c|:  with `projection`
the matrices of anchors by pool are products of width r + 1, not p.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cause_lib.runs.parallel import WHOLE, Part

# Numbers looked at together: what stays near a CPU's cache, or keeps a GPU busy.
_NUMBERS = {"cpu": 2**22, "cuda": 2**26}


class ConceptBank:
    """The last `capacity` teacher projections of every concept, as one tensor.

    On a CPU, concepts that were never written to take no memory; of 2048 often no more than 100 ever are.

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
        self.projections = _untouched((num_concepts, capacity, dim), device, dtype)  # (k, capacity, p)
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
        slot = (self.written[concepts] + rank) % capacity
        # Of a run longer than the capacity several would go to one slot: each of them brings the last one there.
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
        self.projections = _untouched(self.projections.shape, self.projections.device, self.projections.dtype)
        self.projections[state["concepts"].to(self.written.device), state["slots"].to(self.written.device)] = \
            state["projections"].to(self.projections)
        self.written.copy_(state["written"])
        self._send_counts()


def _untouched(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU NumPy's, which the system hands out page by page as they are written: torch writes them all."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def concept_contrastive_loss(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor,
                             bank: ConceptBank | None = None, *, temperature: float = 0.07,
                             positive_threshold: float = 0.3, negative_threshold: float = 0.1,
                             projection: nn.Linear | None = None, part: Part = WHOLE) -> Tensor:
    """The loss of Eq. 4, in the batch and, if there is one, against the bank.

    Args:
        student: (b, n, p) floating, any length; gets the gradient. With `projection`: the features (b, n, r).
        teacher: (b, n, p), any length; gets none.
        concepts: (b, n) int64, the concept of each patch.
        similarity: (k, k), cosine similarity D_M of the concepts.
        bank: teacher projections of earlier batches.
        temperature: tau > 0. positive_threshold, negative_threshold: phi+ and phi-.
        projection: the student's linear layer from r to p, if it is yet to be applied: the same loss, sooner. It gets
            its gradient too.
        part: which pictures of the batch the student's are, if it has not all of them: (b', n, p) of teacher's b. The
            losses of all parts add up to that of the batch.

    Returns:
        A scalar; 0, with a zero gradient, where no picture has a positive.

    Raises:
        ValueError: the shapes do not agree.
    """
    b, n, p = teacher.shape
    before = (p,) if projection is None else projection.weight.shape[::-1]
    own = len(range(b)[part.first:part.last])
    if student.shape != (own, n, before[0]) or before[-1] != p or concepts.shape != (b, n):
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
        return _Contrast.apply(anchors, mixing, z, concepts, similarity.to(dtype), bank, temperature,
                               positive_threshold, negative_threshold, part)


def _unprojected(features: Tensor, projection: nn.Linear) -> tuple[Tensor, Tensor]:
    """Anchors u (m, q) and a matrix V (p, q) such that V u is the projection of the features (m, r), at length one."""
    mixing = projection.weight.to(features)  # (p, r)
    if projection.bias is not None:
        mixing = torch.cat([mixing, projection.bias.to(features)[:, None]], dim=1)  # (p, r + 1)
        features = F.pad(features, (0, 1), value=1.0)
    spare = -mixing.shape[1] % 16  # products of whole registers are up to twice as fast
    mixing, features = F.pad(mixing, (0, spare)), F.pad(features, (0, spare))
    return features / (features @ mixing.T).norm(dim=-1, keepdim=True).clamp(min=1e-12), mixing


class _Contrast(torch.autograd.Function):
    """Anchors u (m, q), V (p, q) or None for u as it is, ... -> the loss, with its gradient by u and V."""

    @staticmethod
    def forward(ctx, anchors: Tensor, mixing: Tensor | None, z: Tensor, concepts: Tensor, similarity: Tensor,
                bank: ConceptBank | None, temperature: float, high: float, low: float, part: Part) -> Tensor:
        n = concepts.shape[1]
        alike = similarity[part.cut(concepts).flatten()]  # (m, k)
        pools = [_Pool.of_batch(z, alike[:, concepts.flatten()], high, low, part.first * n)]
        if bank is not None:
            pools.append(_Pool.of_bank(bank, alike, high, low))
        reads = [_read(pool, anchors, mixing, temperature) for pool in pools]
        pairs = [read.positives.view(-1, n).sum(dim=1) for read in reads]  # (b',) pairs, anchor and positive, a picture
        terms = part.total(sum((each > 0).sum() for each in pairs)).clamp(min=1)
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
        return upstream * by_anchors, None if by_mixing is None else upstream * by_mixing, *[None] * 8


@dataclass
class _Tile:
    """Projections z (t, s, p) of t concepts, and what they are to the anchors: positive, used (m, t)."""

    z: Tensor
    held: Tensor  # (t,) filled places
    full: bool  # all s are
    positive: Tensor
    used: Tensor

    def keys(self, mixing: Tensor | None) -> Tensor:
        """The projections in the anchors' coordinates, (ts, q), zeros at empty places."""
        z = self.z.flatten(0, 1)  # (ts, p)
        return z if mixing is None else (z @ mixing).T.contiguous().T  # the order in which products read it fastest

    def logits(self, hot: Tensor, keys: Tensor) -> Tensor:
        """hot (m, q), anchors over tau -> (m, ts); at an empty place, that of the first place of its concept."""
        if not self.full:
            keys = keys.view(*self.z.shape[:2], -1)  # (t, s, q)
            keys = torch.where(self.filled[:, :, None], keys, keys[:, :1]).flatten(0, 1)
        return hot @ keys.T

    @property
    def filled(self) -> Tensor:
        return torch.arange(self.z.shape[1], device=self.z.device) < self.held[:, None]  # (t, s)

    def odds(self, logits: Tensor, top: Tensor, temperature: float) -> Tensor:
        """exp(logits - top), 0 for what is ignored, in place: logits (m, ts), top (m, 1).

        The ignored are first brought to at most 1: an exponential that leaves the range of floats takes ten times as
        long, and what cannot be infinite can be multiplied by 0.
        """
        shift = torch.where(self.used, top, 1 / temperature)  # (m, t)
        odds = logits.view(*shift.shape, -1).sub_(shift[:, :, None]).exp_()
        return odds.mul_(self.used.to(odds)[:, :, None]).view_as(logits)


@dataclass
class _Pool:
    """What anchors are held against: projections z (k, s, p), of one concept each row.

    rows: (g,) the rows that hold something, the fullest first; None: all rows as they are.
    held, counts: (g,) how many places of these rows are filled, on the device and on the host.
    positive, used: (m, g) whether they are positives, and whether positives or negatives, of each anchor.
    """

    z: Tensor
    rows: Tensor | None
    held: Tensor
    counts: list[int]
    positive: Tensor
    used: Tensor

    @classmethod
    def of_batch(cls, z: Tensor, alike: Tensor, high: float, low: float, first: int = 0) -> _Pool:
        """z (bn, p), every one by itself, those of the anchors from `first` on; alike (m, bn)."""
        others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)[first:first + len(alike)]
        positive = (alike > high) & others
        held = torch.ones(len(z), dtype=torch.int64, device=z.device)
        return cls(z[:, None], None, held, [1] * len(z), positive, positive | (alike < low) & others)

    @classmethod
    def of_bank(cls, bank: ConceptBank, alike: Tensor, high: float, low: float) -> _Pool:
        """The bank's rows that hold something; alike (m, k)."""
        counts = [count for count in sorted(bank.counts_on_host().tolist(), reverse=True) if count]
        rows, held = None, bank.counts
        if sum(counts) < bank.projections.shape[:2].numel():
            held, rows = (each[:len(counts)] for each in held.sort(descending=True, stable=True))
            alike = alike[:, rows]
        positive = alike > high
        return cls(bank.projections, rows, held, counts, positive, positive | (alike < low))

    def tiles(self, dtype: torch.dtype) -> Iterator[_Tile]:
        """All of it, in tiles whose projections and logits are no more than _NUMBERS each."""
        start, width = 0, max(self.z.shape[2], len(self.positive))
        numbers = _NUMBERS["cuda" if self.z.is_cuda else "cpu"]
        while start < len(self.counts):
            places = self.counts[start]
            these = slice(start, min(len(self.counts), start + max(1, numbers // (places * width))))
            z = self.z[these] if self.rows is None else self.z[:, :places].index_select(0, self.rows[these])
            yield _Tile(z.to(dtype), self.held[these], self.counts[these.stop - 1] == places, self.positive[:, these],
                        self.used[:, these])
            start = these.stop


@dataclass
class _Read:
    """What one pass over a pool finds for each of m anchors."""

    positives: Tensor  # (m,) how many
    loss: Tensor  # (m,) l, summed over them
    slope: Tensor  # (m, q) its gradient by the anchor
    lse: Tensor  # (m, 1), anything finite without positives
    keys: list[Tensor]  # (ts, q) of each tile, if they are not the projections themselves


def _read(pool: _Pool, anchors: Tensor, mixing: Tensor | None, temperature: float) -> _Read:
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


def _by_mixing(pool: _Pool, anchors: Tensor, read: _Read, share: Tensor, temperature: float) -> Tensor:
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
