"""Tiles of what the anchors of Eq. 4 are compared with: how contrast.py goes over a batch or a bank, not what it sums.

A pool holds projections z (k, s, p), s places of each of k concepts, of which the first few may be filled. It is read
in tiles of whole concepts, the fullest first, so that no matrix of anchors by pool is ever stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers computed together: what stays near a CPU's cache, or keeps a GPU busy.
NUMBERS = {"cpu": 2**22, "cuda": 2**26}


@dataclass
class Tile:
    """Projections of t concepts, and what they are to m anchors."""

    z: Tensor  # (t, s, p)
    held: Tensor  # (t,) filled places
    full: bool  # all s are
    positive: Tensor  # (m, t) bool
    used: Tensor  # (m, t) bool, positive or negative

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
class Pool:
    """Projections that m anchors are compared with, one concept a row."""

    z: Tensor  # (k, s, p)
    held: Tensor  # (g,) how many places of each row are filled
    counts: list[int]  # the same on the host
    positive: Tensor  # (m, g) bool
    used: Tensor  # (m, g) bool, positive or negative
    rows: Tensor | None = None  # (g,) the rows of z that hold something, the fullest first; None: all, as they lie

    @classmethod
    def of_rows(cls, z: Tensor, held: Tensor, counts: Tensor, positive: Tensor, negative: Tensor) -> "Pool":
        """The rows of z (k, s, p) that hold something: held (k,) places, counts (k,) the same on the CPU; positive and
        negative are (m, k) bool."""
        found = [count for count in sorted(counts.tolist(), reverse=True) if count]
        used, rows = positive | negative, None
        if sum(found) < z.shape[:2].numel():
            held, rows = (each[:len(found)] for each in held.sort(descending=True, stable=True))
            positive, used = positive[:, rows], used[:, rows]
        return cls(z, held, found, positive, used, rows)

    def tiles(self, dtype: torch.dtype) -> Iterator[Tile]:
        """All of it, in tiles whose projections and logits are no more than NUMBERS each."""
        start, width = 0, max(self.z.shape[2], len(self.positive))
        numbers = NUMBERS["cuda" if self.z.is_cuda else "cpu"]
        while start < len(self.counts):
            places = self.counts[start]
            these = slice(start, min(len(self.counts), start + max(1, numbers // (places * width))))
            z = self.z[these] if self.rows is None else self.z[:, :places].index_select(0, self.rows[these])
            yield Tile(z.to(dtype), self.held[these], self.counts[these.stop - 1] == places, self.positive[:, these],
                       self.used[:, these])
            start = these.stop
