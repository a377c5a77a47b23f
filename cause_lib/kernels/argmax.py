"""The argmax kernel: argmax_k C_ik C_jk of every pair of patches on CUDA, in Triton.

A program holds a rectangle of pairs in registers and goes over the concepts a group at a time: first only the maximum
of the group's products, which takes half the instructions of an argmax; at the end it looks up which product of the
group with the largest maximum it was. Only rectangles that reach above the diagonal are computed; their mirror image is
written with them. Triton comes with PyTorch for CUDA; `clusterbook.argmax_concepts` chooses between this kernel and the
same in plain PyTorch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# (rows, columns, group) of a program. Large rectangles read little; small ones make work for every processor.
_LARGE, _SMALL = (16, 64, 8), (4, 32, 16)
_MANY = 2**20  # pairs from which on the large ones are enough


def argmax_concepts_triton(affinity: Tensor) -> Tensor:
    """C, (b, n, k) floating, at least 0 -> argmax_k C_ik C_jk, (b, n, n) int64; the first of several."""
    b, n, k = affinity.shape
    rows, columns, group = _LARGE if b * n * n > _MANY else _SMALL
    # Concepts first, so that neighbouring patches are neighbours in memory; zeros up to whole rectangles and groups, so
    # that no load needs a mask. They come last, so they are never the first of the largest.
    padded = affinity.new_zeros((b, triton.cdiv(k, group) * group, triton.cdiv(n, 64) * 64))  # (b, k', n')
    padded[:, :k, :n] = affinity.mT
    found = torch.empty((b, n, n), dtype=torch.int64, device=affinity.device)
    with torch.cuda.device_of(affinity):
        _argmax_kernel[(triton.cdiv(n, rows), triton.cdiv(n, columns), b)](
            padded, found, n, *padded.shape[1:], ROWS=rows, COLUMNS=columns, GROUP=group, num_warps=1,
            enable_fp_fusion=False)  # the look-up must find the same products, bit by bit
    return found


@triton.jit
def _argmax_kernel(affinity, found, n, concepts, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """One rectangle of pairs: affinity (b, concepts, width), found (b, n, n)."""
    top, left, picture = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS, tl.program_id(2).to(tl.int64)
    if left + COLUMNS <= top:
        return
    i, j = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    affinity += picture * concepts * width
    best = tl.full((ROWS, COLUMNS), -1.0, affinity.dtype.element_ty)
    group = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, concepts, GROUP):
        most = tl.full((ROWS, COLUMNS), -1.0, affinity.dtype.element_ty)
        for step in tl.static_range(GROUP):
            row = affinity + (start + step) * width
            most = tl.maximum(most, tl.load(row + i)[:, None] * tl.load(row + j)[None, :])
        better = most > best
        best = tl.where(better, most, best)
        group = tl.where(better, start, group)
    place = group
    for back in range(GROUP):
        at = group + (GROUP - 1 - back)
        product = tl.load(affinity + at * width + i[:, None]) * tl.load(affinity + at * width + j[None, :])
        place = tl.where(product == best, at, place)
    found += picture * n * n
    inside = (i < n)[:, None] & (j < n)[None, :]
    tl.store(found + i[:, None] * n + j[None, :], place.to(tl.int64), mask=inside)
    tl.store(found + j[None, :] * n + i[:, None], place.to(tl.int64), mask=inside)
