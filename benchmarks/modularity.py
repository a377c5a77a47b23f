"""Modularity, forward and backward, against the textbook form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.measure import Curve, Row
from cause_lib.clusterbook import modularity_loss


def case(form: str, device: str, *, b: int, n: int, d: int, k: int) -> Callable[[], Tensor]:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(b, n, d, generator=g).to(device)
    prototypes = torch.randn(k, d, generator=g).to(device).requires_grad_()
    loss = modularity_loss if form == "ours" else naive.modularity

    def run() -> Tensor:
        prototypes.grad = None
        value = loss(tokens, prototypes)
        value.backward()
        return value.detach()

    return run


def largest(*, b: int, n: int, d: int, k: int) -> int:
    """The products of all concepts at all pairs of patches."""
    return 4 * b * k * n * n


QUICK = {"b": 2, "n": 9, "d": 8, "k": 40}
THINNED = Row("modularity, forward and backward", case, ("ours", "naive"), {"b": 4, "n": 100, "d": 384, "k": 2048},
              QUICK, largest)
FULL_GRID = Row("modularity on the full 40 x 40 grid", case, ("ours", "naive"),
                {"b": 16, "n": 1600, "d": 384, "k": 2048}, QUICK, largest)
ROWS = [THINNED, FULL_GRID]
CURVES = [Curve(THINNED, "n", (25, 50, 100, 200, 400, 800), (5, 10), {"b": 1}),
          Curve(THINNED, "k", (32, 128, 512, 2048, 8192), (10, 70), {"b": 1})]
