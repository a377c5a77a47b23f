"""The graph of a picture's patches and its eigenvectors (Melas-Kyriazi et al., CVPR 2022; Shi and Malik 2000).

    W_ij = max(0, cos(q_i, q_j)) / max W;   D = diag(sum_j W_ij);   (D - W) u = mu D u
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affinity(keys: Tensor) -> Tensor:
    """W: keys (b, n, d) -> (b, n, n), at least 0, largest value of a picture 1."""
    unit = F.normalize(keys, dim=-1)
    weights = (unit @ unit.mT).clamp(min=0)  # (b, n, n)
    return weights / weights.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def eigenvectors(weights: Tensor, normalised: bool = True) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the graphs' Laplacians: W (b, n, n) -> mu (b, n), which rise, and u (b, n, n), column by column.

    normalised: (D - W) u = mu D u with u^T D u = 1, by the symmetric D^-1/2 (D - W) D^-1/2; else (D - W) u = mu u.
    """
    degree = weights.sum(dim=2)  # (b, n)
    degree = torch.where(degree < 1e-12, 1.0, degree)
    laplacian = torch.diag_embed(degree) - weights
    if not normalised:
        return torch.linalg.eigh(laplacian)
    root = degree.rsqrt()
    values, vectors = torch.linalg.eigh(root[:, :, None] * laplacian * root[:, None])
    return values, root[:, :, None] * vectors
