"""The concept clusterbook: k prototypes that discretise a backbone's tokens, found by maximising modularity.

Modularity of one picture's patch graph (Eq. 3; its tanh form is in the paper's appendix B):

    A_ij = max(0, cos(t_i, t_j)),  A_ii = 0;   d_i = sum_j A_ij;   e = sum_ij A_ij
    W    = A/e - (d/e)(d/e)^T
    C_ik = max(0, cos(t_i, m_k))
    delta_ij = max_k tanh(C_ik C_jk / tau)
    H    = sum_ij W_ij delta_ij

tanh rises everywhere, so max_k tanh(x_k) = tanh(max_k x_k): value and gradient need one concept a pair of patches,
k*(i, j) = argmax_k C_ik C_jk, and no tensor holds both k and n x n. The gradient comes with the value, in one pass:

    dH/dC_ik = 2/tau sum_j [k = k*(i, j)] W_ij (1 - delta_ij^2) C_jk
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Products computed together while the argmax is found: what stays in a core's cache, or keeps a GPU busy.
_PRODUCTS = {"cpu": 2**18, "cuda": 2**26}
_GROUP = 64  # concepts of which first only the largest product is found


def modularity_loss(tokens: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """Minus the modularity H of Eq. 3, averaged over the pictures.

    Args:
        tokens: (b, n, d) floating, one graph a picture; no gradient reaches them.
        prototypes: (k, d) floating; the gradient goes to these.
        temperature: tau > 0.

    Returns:
        A scalar, at least -(1 - 1/n) tanh(1 / tau) and at most (1 - 1/n) tanh(1 / tau); tests/unit/test_properties.py
        has the proof. Pictures without any edge (one patch, or all cosines at most 0) have H = 0.

    Raises:
        ValueError: the widths differ, or a shape is not as above.

    Examples:
        Two pairs of equal patches, and a prototype for each pair: H = tanh(1 / tau) / 2.

        >>> tokens = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [0, 1]]])
        >>> round(modularity_loss(tokens, torch.eye(2)).item(), 4)
        -0.5
    """
    if tokens.ndim != 3 or prototypes.ndim != 2 or tokens.shape[-1] != prototypes.shape[-1]:
        raise ValueError(f"modularity_loss needs tokens (b, n, d) and prototypes (k, d) of one width, "
                         f"not {tuple(tokens.shape)} and {tuple(prototypes.shape)}.")
    with torch.autocast(tokens.device.type, enabled=False):  # small differences of small numbers: no half precision
        dtype = torch.promote_types(prototypes.dtype, torch.float32)
        return _Modularity.apply(tokens.detach().to(dtype), prototypes.to(dtype), temperature)


class _Modularity(torch.autograd.Function):
    """tokens (b, n, d), prototypes (k, d), tau -> -H, with its gradient by the prototypes."""

    @staticmethod
    def forward(ctx, tokens: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        weights = modularity_matrix(tokens)  # (b, n, n)
        tokens = F.normalize(tokens, dim=-1)
        length = prototypes.norm(dim=-1).clamp_(min=1e-12)  # (k,)
        affinity = (tokens @ prototypes.T).div_(length).clamp_(min=0)  # (b, n, k)
        best = argmax_concepts(affinity)  # (b, n, n)
        own = affinity.gather(2, best)  # (b, n, n) C_ik with k = k*(i, j)
        delta = own.mul(own.mT).div_(temperature).tanh_()  # C_jk is at (j, i), as k* is symmetric
        loss = -(weights * delta).sum() / len(tokens)
        if ctx.needs_input_grad[1]:
            pull = (1 - delta * delta).mul_(weights).mul_(own.mT).mul_(-2 / (temperature * len(tokens)))  # (b, n, n)
            pull.masked_fill_(own <= 0, 0)  # a cosine below 0, clamped
            slope = affinity.zero_().scatter_add_(2, best, pull)  # (b, n, k), by affinity
            slope = slope.flatten(0, 1).T @ tokens.flatten(0, 1)  # (k, d), by prototypes of length one
            along = torch.einsum("kd,kd->k", slope, prototypes) / length**2  # (k,) no pull along the prototype
            slope.addcmul_(prototypes, along[:, None], value=-1).div_(length[:, None])  # (k, d), by prototypes
            ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[None, Tensor, None]:
        return None, upstream * ctx.saved_tensors[0], None


@torch.no_grad()
def modularity_matrix(tokens: Tensor) -> Tensor:
    """W of Eq. 3, the weight of each pair of patches beyond what their degrees predict: tokens (b, n, d) floating ->
    (b, n, n), symmetric; rows add to 0; zeros for a picture without any edge."""
    unit = F.normalize(tokens, dim=-1)
    affinity = (unit @ unit.transpose(1, 2)).clamp(min=0)  # (b, n, n)
    affinity = affinity - torch.diag_embed(affinity.diagonal(dim1=1, dim2=2))
    edges = affinity.sum(dim=(1, 2), keepdim=True)  # (b, 1, 1)
    edges = torch.where(edges > 0, edges, torch.ones_like(edges))
    degrees = affinity.sum(dim=2, keepdim=True) / edges  # (b, n, 1)
    return affinity / edges - degrees @ degrees.transpose(1, 2)


@torch.no_grad()
def argmax_concepts(affinity: Tensor) -> Tensor:
    """The concept with the largest product at each pair of patches, argmax_k C_ik C_jk; the first of several:
    affinity C, (b, n, k) floating, at least 0 -> (b, n, n) int64, symmetric."""
    if affinity.is_cuda and (kernel := _cuda_kernel()) is not None:
        return kernel(affinity)
    b, n, k = affinity.shape
    width = min(k, _GROUP)
    if k % width:
        affinity = F.pad(affinity, (0, -k % width))  # zeros at the end are never the first of the largest
    groups = affinity.unflatten(2, (-1, width))  # (b, n, g, width)
    rows = torch.arange(b * n, device=affinity.device).view(b, n) * groups.shape[2]  # where a patch's groups begin
    side = max(1, math.isqrt(_PRODUCTS["cuda" if affinity.is_cuda else "cpu"] // max(1, affinity[:, 0].numel())))
    found = torch.empty((b, n, n), dtype=torch.int64, device=affinity.device)
    for top in range(0, n, side):
        these = slice(top, top + side)
        for left in range(top, n, side):  # what lies below the diagonal mirrors what lies above
            those = slice(left, left + side)
            # An argmax costs a CPU ten times a maximum, so it is taken within one group only: first the group with the
            # largest product, by the groups' maxima, then the place in it.
            best = (groups[:, these, None] * groups[:, None, those]).amax(dim=-1).max(dim=-1).indices  # (b, i, j)
            product = groups.flatten(0, 2).index_select(0, (rows[:, these, None] + best).flatten())  # (bij, width)
            product *= groups.flatten(0, 2).index_select(0, (rows[:, None, those] + best).flatten())
            part = best * width + product.max(dim=-1).indices.view_as(best)
            found[:, these, those], found[:, those, these] = part, part.mT
    return found


@functools.cache
def _cuda_kernel() -> Callable[[Tensor], Tensor] | None:
    """The Triton kernel, if Triton is there and can build and run it on this machine."""
    try:
        from cause_lib.kernels.argmax import argmax_concepts_triton

        argmax_concepts_triton(torch.ones((1, 2, 3), device="cuda"))
    except Exception:  # no Triton, no C compiler for its launcher, a card that is too old: the plain path remains
        return None
    return argmax_concepts_triton


def thin_grid(grid: tuple[int, int], block: int, generator: torch.Generator) -> Tensor:
    """One random patch of every block x block block of a patch grid; blocks at the right and lower edge may be smaller.

    Args:
        grid: rows and columns of patches.
        block: side of a block in patches; 1 keeps every patch.
        generator: CPU generator.

    Returns:
        (n',) int64 indices into the n = rows x columns patches, in the blocks' order; n' = number of blocks.
    """
    rows, columns = grid
    tops, lefts = torch.arange(0, rows, block), torch.arange(0, columns, block)
    heights, widths = (rows - tops).clamp(max=block), (columns - lefts).clamp(max=block)
    random = torch.rand(2, len(tops), len(lefts), generator=generator)
    row = tops[:, None] + (random[0] * heights[:, None]).long()
    column = lefts[None, :] + (random[1] * widths[None, :]).long()
    return (row * columns + column).flatten()  # (n',)


def thin_pictures(grid: tuple[int, int], block: int, generator: torch.Generator, pictures: int) -> Tensor:
    """`thin_grid` as released: complete blocks alone, and of each picture its own patches: (pictures, n') int64."""
    rows, columns = (side // block for side in grid)
    place = torch.randint(block**2, (pictures, rows, columns), generator=generator)  # row by row within a block
    row = torch.arange(rows)[:, None] * block + place // block
    return (row * grid[1] + torch.arange(columns) * block + place % block).flatten(1)


def take_patches(x: Tensor, kept: Tensor) -> Tensor:
    """x (b, n, d), or (n, d) of all pictures, at the patches `kept`, (n',) or (b, n') of each picture its own."""
    if kept.ndim == 1 or x.ndim == 2:
        return x[..., kept, :]  # (b, n', d); (n', d)
    return x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))


class Clusterbook(nn.Module):
    """The trained prototypes M, frozen: which concept a patch belongs to, and how alike concepts are (section 3.2).

    Args:
        prototypes: (k, d) floating; copied.

    Examples:
        >>> book = Clusterbook(torch.tensor([[1.0, 0], [0, 2]]))
        >>> book.assign(torch.tensor([[[3.0, 1], [1, 2]]]))
        tensor([[0, 1]])
        >>> book.similarity
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes.detach().clone())

    @property
    def similarity(self) -> Tensor:
        """D_M, the cosine similarity of all concepts: (k, k) in [-1, 1]."""
        unit = F.normalize(self.prototypes, dim=-1)
        return unit @ unit.T

    def thresholds(self, positive_quantile: float, negative_quantile: float) -> tuple[float, float]:
        """phi+ and phi- as quantiles of D_M off its diagonal: the same share of concept pairs is positive, or negative,
        wherever their cosines lie. With one concept there are no pairs: 1 and -1."""
        k = len(self.prototypes)
        if k < 2:
            return 1.0, -1.0
        pairs = self.similarity[~torch.eye(k, dtype=torch.bool, device=self.prototypes.device)].sort().values
        return tuple(float(pairs[round(q * (len(pairs) - 1))]) for q in (positive_quantile, negative_quantile))

    @torch.no_grad()
    def assign(self, tokens: Tensor) -> Tensor:
        """id(t) = argmax_k cos(t, m_k), the sharpened p(m | t): tokens (b, n, d) -> concepts (b, n) int64."""
        return (tokens @ F.normalize(self.prototypes, dim=-1).T).argmax(dim=-1)

    def quantize(self, tokens: Tensor) -> Tensor:
        """Each patch's nearest prototype: tokens (b, n, d) -> (b, n, d)."""
        return self.prototypes[self.assign(tokens)]

    def used(self, tokens: Tensor) -> int:
        """How many prototypes are the nearest of at least one of the tokens (b, n, d)."""
        return len(self.assign(tokens).unique())


def initial_prototypes(num_concepts: int, dim: int, generator: torch.Generator) -> Tensor:
    """The published start, uniform(-1/k, 1/k): (k, d) float32."""
    return (torch.rand(num_concepts, dim, generator=generator) * 2 - 1) / num_concepts
