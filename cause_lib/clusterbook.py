"""The concept clusterbook: k prototypes that discretise a backbone's tokens, found by maximising modularity.

Modularity of one picture's patch graph (Eq. 3; its tanh form is in the paper's appendix B):

    A_ij = max(0, cos(t_i, t_j)),  A_ii = 0;   d_i = sum_j A_ij;   e = sum_ij A_ij
    W    = A/e - (d/e)(d/e)^T
    C_ik = max(0, cos(t_i, m_k))
    delta_ij = max_k tanh(C_ik C_jk / tau)
    H    = sum_ij W_ij delta_ij

tanh rises everywhere, so max_k tanh(x_k) = tanh(max_k x_k): one winning concept a pair of patches is all that value and
gradient need, and no tensor holds both k and n x n.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Products looked at together while the winners are found: what stays in a core's cache is fastest.
_TILE = 2**21


def modularity_loss(tokens: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """Minus the modularity H of Eq. 3, averaged over the pictures.

    Args:
        tokens: (b, n, d) floating, one graph a picture; no gradient reaches them.
        prototypes: (k, d) floating; the gradient goes to these.
        temperature: tau > 0.

    Returns:
        A scalar in [-1, 1]. Pictures without any edge (one patch, or all cosines at most 0) have H = 0.

    Raises:
        ValueError: the widths differ, or a shape is not as above.
    """
    if tokens.ndim != 3 or prototypes.ndim != 2 or tokens.shape[-1] != prototypes.shape[-1]:
        raise ValueError(f"modularity_loss needs tokens (b, n, d) and prototypes (k, d) of one width, "
                         f"not {tuple(tokens.shape)} and {tuple(prototypes.shape)}.")
    with torch.autocast(tokens.device.type, enabled=False):  # small differences of small numbers: no half precision
        dtype = torch.promote_types(prototypes.dtype, torch.float32)
        tokens, prototypes = F.normalize(tokens.detach().to(dtype), dim=-1), F.normalize(prototypes.to(dtype), dim=-1)
        weights = modularity_matrix(tokens)  # (b, n, n)
        affinity = (tokens @ prototypes.T).clamp(min=0)  # (b, n, k)
        b, n, k = affinity.shape
        first, second = torch.triu_indices(n, n, device=tokens.device)  # (pairs,) each
        winner = _winning_concept(affinity.detach(), first, second)  # (b, pairs)
        # gather, not indexing: its backward adds in a fixed order, so the same seed gives the same bits.
        start = torch.arange(b, device=tokens.device)[:, None] * n  # (b, 1)
        at_first = affinity.flatten().gather(0, ((start + first) * k + winner).flatten())  # (b pairs,)
        at_second = affinity.flatten().gather(0, ((start + second) * k + winner).flatten())  # (b pairs,)
        delta = torch.tanh(at_first * at_second / temperature).view(b, -1)  # (b, pairs)
        times = torch.where(first == second, 1.0, 2.0).to(dtype)  # each pair off the diagonal stands for two
        return -(weights[:, first, second] * times * delta).sum(dim=1).mean()


@torch.no_grad()
def modularity_matrix(tokens: Tensor) -> Tensor:
    """W of Eq. 3: how much more each pair of patches is tied than its degrees let expect.

    Args:
        tokens: (b, n, d) floating.

    Returns:
        (b, n, n), symmetric; rows add to 0; zeros for a picture without any edge.
    """
    unit = F.normalize(tokens, dim=-1)
    affinity = (unit @ unit.transpose(1, 2)).clamp(min=0)  # (b, n, n)
    affinity = affinity - torch.diag_embed(affinity.diagonal(dim1=1, dim2=2))
    edges = affinity.sum(dim=(1, 2), keepdim=True)  # (b, 1, 1)
    edges = torch.where(edges > 0, edges, torch.ones_like(edges))
    degrees = affinity.sum(dim=2, keepdim=True) / edges  # (b, n, 1)
    return affinity / edges - degrees @ degrees.transpose(1, 2)


@torch.no_grad()
def _winning_concept(affinity: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The concept with the largest product at each pair of patches, found tile by tile over the concepts.

    Args:
        affinity: (b, n, k). first, second: (pairs,) patches of each pair.

    Returns:
        (b, pairs) int64.
    """
    b, pairs, k = affinity.shape[0], len(first), affinity.shape[-1]
    tile = max(1, min(k, _TILE // max(1, b * pairs)))
    best = affinity.new_full((b, pairs), -1.0)
    winner = torch.zeros((b, pairs), dtype=torch.int64, device=affinity.device)
    for start in range(0, k, tile):
        part = affinity[..., start:start + tile]  # (b, n, tile)
        value, index = (part[:, first] * part[:, second]).max(dim=-1)  # (b, pairs)
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index + start, winner)
    return winner


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


class Clusterbook(nn.Module):
    """The trained prototypes M, frozen: which concept a patch belongs to, and how alike concepts are (section 3.2).

    Args:
        prototypes: (k, d) floating.
    """

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes.detach().clone())

    @property
    def similarity(self) -> Tensor:
        """D_M, the cosine similarity of all concepts: (k, k) in [-1, 1]."""
        unit = F.normalize(self.prototypes, dim=-1)
        return unit @ unit.T

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
