"""The permutohedral lattice: Gaussian filtering in d dimensions in time linear in the points (Adams, Baek, Davis 2010).

    sum_j exp(-|f_i - f_j|^2 / 2) v_j   for all i at once, to a good approximation:
    splat   every point gives its value to the d + 1 corners of the simplex that it lies in, by barycentric weight
    blur    along each of the d + 1 axes of the lattice every corner takes half of its two neighbours
    slice   every point takes the blurred values of its corners back, by the same weights

Each is a sparse matrix with few entries a row, and a product with it is `torch.nn.functional.embedding_bag`, on the CPU
and on CUDA. Only corners that a point touches exist: they are found by sorting keys, not by a hash table.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CSRMatrix:
    """A sparse matrix by rows: row i of a product is sum_e weights[e] table[columns[e]], for e from starts[i] on."""

    columns: Tensor  # (e,) int32
    starts: Tensor  # (rows,) int32
    weights: Tensor  # (e,) floating
    width: int  # rows of the table

    def __call__(self, table: Tensor) -> Tensor:
        """table (width, c) -> (rows, c)."""
        return F.embedding_bag(self.columns, table, self.starts, mode="sum", per_sample_weights=self.weights)


@dataclass(frozen=True)
class Lattice:
    """A lattice filled with n points: the passes that splat, blur and slice a table of their values."""

    passes: tuple[CSRMatrix, ...]

    def filter(self, values: Tensor) -> Tensor:
        """values (n, c) floating -> (n, c), Gaussian sums up to one constant factor."""
        for matrix in self.passes:
            values = matrix(values)
        return values

    def normalised(self, weight: float = 1.0) -> "Lattice":
        """The lattice of weight N K N, N = diag(K 1)^(-1/2), the symmetric one of Kraehenbuehl and Koltun."""
        splat, *blurs, slice_ = self.passes
        scale = self.filter(splat.weights.new_ones(splat.width, 1)).rsqrt()[:, 0]  # (n,)
        slices = slice_.weights.view(len(scale), -1) * (weight * scale)[:, None]  # (n, d + 1)
        return Lattice((replace(splat, weights=splat.weights * scale.index_select(0, splat.columns)), *blurs,
                        replace(slice_, weights=slices.flatten())))

    def collapsed(self) -> "Lattice":
        """The same filter as one matrix, points to points: faster for few points within a Gaussian and much use."""
        from scipy import sparse  # half a second to import

        product = None
        for one in self.passes:
            starts = torch.cat([one.starts, one.starts.new_full((1,), len(one.columns))])
            parts = tuple(part.cpu().numpy() for part in (one.weights, one.columns, starts))
            matrix = sparse.csr_array(parts, shape=(len(one.starts), one.width))
            product = matrix if product is None else matrix @ product
        product.sort_indices()
        columns, starts, weights = (torch.from_numpy(part).to(one.weights.device)
                                    for part in (product.indices, product.indptr[:-1], product.data))
        return Lattice((CSRMatrix(columns.int(), starts.int(), weights, product.shape[1]),))


def permutohedral_lattice(features: Tensor) -> Lattice:
    """The lattice of the b n points of a batch of point sets, one after the other, which do not see each other:
    features (b, d, n) floating, in standard deviations of the Gaussian. Raises ValueError where one is not finite or
    beyond 2^20, or where they span too many cells to be numbered with 62 bits."""
    b, d, n = features.shape
    if not bool(features.abs().amax() < 2**20):
        raise ValueError("A lattice needs finite features below 2^20 standard deviations: look for NaN in pictures.")
    cells, shares, rank = _simplices(features.transpose(0, 1).reshape(d, b * n))
    keys, strides = _keys(cells, rank, b)  # (d + 1, bn)
    found, order = keys.flatten().sort(stable=True)
    new = F.pad(found[1:] != found[:-1], (1, 0), value=True)
    starts = new.nonzero()[:, 0]  # (m,)
    corners = torch.empty_like(found, dtype=torch.int32).scatter_(0, order, new.cumsum(0, dtype=torch.int32) - 1)
    splat = CSRMatrix(order.int() % (b * n), starts.int(), shares.flatten().index_select(0, order), b * n)
    each = torch.arange(0, len(order), d + 1, dtype=torch.int32, device=order.device)
    slice_ = CSRMatrix(corners.view(d + 1, -1).T.flatten(), each, shares.T.flatten(), len(starts))
    return Lattice((splat, *_blurs(found[starts], strides, shares.dtype), slice_))


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each of the points (d, n).

    Returns:
        cells: (d, n), the simplex's zeroth corner is (d + 1) times this.
        shares: (d + 1, n), barycentric weights of corners 0 to d.
        rank: (d + 1, n) int64: the r-th corner takes a step of -(d + 1) along the axes with rank above d - r.
    """
    d, n = features.shape
    # Onto the hyperplane of d + 1 coordinates that add to 0, where the blur's variance is that of the Gaussian. In the
    # order of pydensecrf's operations: rounded otherwise, a point on a simplex's face may leave out another corner.
    elevated, tail = features.new_empty(d + 1, n), features.new_zeros(n)
    scale = float(np.float32((d + 1) * math.sqrt(2 / 3)))
    for j in range(d, 0, -1):
        along = features[j - 1] * (scale / math.sqrt(j * (j + 1)))
        elevated[j] = tail - j * along
        tail = tail + along
    elevated[0] = tail
    cells = (elevated * (1 / (d + 1))).round()
    offset = elevated - cells * (d + 1)
    rank = torch.zeros(d + 1, n, dtype=torch.int32, device=features.device)
    for i in range(d):  # by decreasing offset, the lower axis first where two are equal
        less = offset[i] < offset[i + 1:]
        rank[i] += less.sum(dim=0, dtype=torch.int32)
        rank[i + 1:] += ~less
    rank += cells.sum(dim=0).int()  # the rounded coordinates need not add to 0: the extreme ones go back one cell
    wrap = (rank < 0).int() - (rank > d).int()
    rank = (rank + wrap * (d + 1)).long()
    cells, offset = cells + wrap, (offset - wrap * (d + 1)) * (1 / (d + 1))
    ordered = torch.empty_like(offset).scatter_(0, rank, offset)  # (d + 1, n), decreasing
    return cells[:d], torch.cat([1 + ordered[d:] - ordered[:1], (ordered[:-1] - ordered[1:]).flip(0)]), rank


def _keys(cells: Tensor, rank: Tensor, b: int) -> tuple[Tensor, list[int]]:
    """Every corner as one integer, (d + 1, n): r + sum_k strides_k cell_k, where d + 1 times cell_k, plus r, is
    coordinate k of an r-th corner, less a multiple of d + 1; and the d + 1 strides (the last coordinate follows: 0)."""
    d, n = cells.shape
    low = cells.amin(dim=1) - 2  # room for a corner and its neighbours
    spans = (cells.amax(dim=1) - low + 2).long().tolist()
    *strides, picture = ((d + 1) * math.prod(spans[:k]) for k in range(d + 1))
    if picture * b >= 2**62:
        raise ValueError(f"The lattice of these features spans {float(picture) * b:.0e} cells, over 2^62: make the "
                         "picture smaller or its standard deviations larger.")
    half = 2**31 - 2**31 % (d + 1)  # 32 bits are sorted sooner than 64
    stride = torch.tensor([*strides, 0], device=cells.device)
    keys = rank.new_empty(d + 1, n, dtype=torch.int32 if picture * b < 2 * half else torch.int64)
    zeroth = ((cells - low[:, None]).long() * stride[:d, None]).sum(dim=0)  # (n,)
    keys[0] = zeroth + (torch.arange(b, device=cells.device) * picture - half).repeat_interleave(n // b)
    # Corner r has the cells of corner r - 1, but one less in the coordinate of rank d + 1 - r.
    steps = torch.empty_like(keys).scatter_(0, rank, (1 - stride).to(keys)[:, None].expand(d + 1, n))  # by rank
    for r in range(1, d + 1):
        torch.add(keys[r - 1], steps[d + 1 - r], out=keys[r])
    return keys, [*strides, 0]


def _blurs(keys: Tensor, strides: list[int], dtype: torch.dtype) -> list[CSRMatrix]:
    """Blurring along all axes, two a pass: sorted keys (m,) -> sums over the m corners."""
    m, half = len(keys), torch.tensor([1, 0.5, 0.5], dtype=dtype, device=keys.device)
    here, axes, d = torch.arange(m + 1, dtype=torch.int32, device=keys.device), [], len(strides) - 1
    # One more in each coordinate: of an r-th corner, an (r + 1)-th; of a d-th, a zeroth with one more in each cell.
    after = keys + torch.where(keys % (d + 1) < d, 1, sum(strides) - d).to(keys.dtype)
    for stride in strides:  # each corner and its neighbours on both sides along one axis, m where there is none
        wanted = after - stride
        at = torch.searchsorted(keys, wanted).clamp_(max=m - 1)
        at = torch.where(keys.index_select(0, at) == wanted, at, m)
        back = torch.full_like(here, m).scatter_(0, at, here[:m])
        back[m] = m
        axes.append(torch.stack([here, F.pad(at, (0, 1), value=m).int(), back], dim=1))  # (m + 1, 3)
    tables = [(first.index_select(0, second[:m].flatten()).view(m, 9), torch.outer(half, half).flatten())
              for first, second in zip(axes[::2], axes[1::2])]
    tables += [(axis[:m], half) for axis in axes[2 * len(tables):]]
    passes = []
    for corners, weights in tables:  # (m, 3 or 9)
        there = (corners < m).flatten()
        found = there.nonzero()[:, 0]  # about half of them
        starts = there.cumsum(0, dtype=torch.int32)[::corners.shape[1]] - 1  # a row begins with the corner itself
        columns, weights = (x.flatten().index_select(0, found) for x in (corners, weights.expand_as(corners)))
        passes.append(CSRMatrix(columns, starts, weights, m))
    return passes
