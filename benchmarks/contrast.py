"""Contrast and bank update, from the head's features to the gradients of features and projection, against the released
code's way: lists for a bank, stacked every step, matrices of all anchors by all of it, autograd through them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import naive
from benchmarks.measure import Curve, Row
from cause_lib.contrast import ConceptBank, concept_contrastive_loss

OURS, PROJECTED, NAIVE = "ours", "ours, projected first", "naive"


def case(form: str, device: str, *, b: int, n: int, r: int, p: int, k: int, used: int,
         capacity: int) -> Callable[[], Tensor]:
    """`used` of the k concepts ever win a patch; their part of the bank is full."""
    g = torch.Generator().manual_seed(0)
    book = F.normalize(torch.randn(k, 384, generator=g), dim=-1).to(device)
    similarity = book @ book.T
    features = torch.randn(b, n, r, generator=g).to(device).requires_grad_()
    layer = torch.nn.Linear(r, p).requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(p, r, generator=g))
        layer.bias.copy_(torch.randn(p, generator=g))
    layer = layer.to(device)
    teacher = torch.randn(b, n, p, generator=g).to(device)
    concepts = torch.randint(0, used, (b, n), generator=g).to(device)
    half = torch.randperm(b * n, generator=g)[:b * n // 2].to(device)
    bank = naive.Bank(k, capacity) if form == NAIVE else ConceptBank(k, p, capacity, device=device)
    for _ in range(capacity):
        bank.update(torch.randn(used, p, generator=g).to(device), torch.arange(used, device=device))

    def run() -> Tensor:
        layer.zero_grad()
        features.grad = None
        if form == OURS:
            loss = concept_contrastive_loss(features, teacher, concepts, similarity, bank, projection=layer)
        else:
            function = naive.contrast if form == NAIVE else concept_contrastive_loss
            loss = function(layer(features), teacher, concepts, similarity, bank)
        loss.backward()
        bank.update(teacher.flatten(0, 1)[half], concepts.flatten()[half])
        return loss.detach()

    return run


def largest(*, b: int, n: int, p: int, used: int, capacity: int, **_: int) -> int:
    """The bank as one tensor, or one matrix of anchors by bank."""
    return 4 * used * capacity * max(p, b * n)


ROW = Row("contrast and bank update, bank full", case, (OURS, PROJECTED, NAIVE),
          {"b": 16, "n": 100, "r": 90, "p": 2048, "k": 2048, "used": 2048, "capacity": 100},
          {"b": 2, "n": 4, "r": 5, "p": 16, "k": 6, "used": 6, "capacity": 3}, largest, at_once=7)
ROWS = [ROW]
CURVES = [Curve(ROW, "used", (4, 16, 64, 256), (2, 5), {"b": 4}, (OURS, NAIVE))]
