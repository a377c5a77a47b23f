"""Eq. 3 and Eq. 4 as written; the tests compare the fast forms with them, in value and gradient.

    H = sum_ij W_ij max_k tanh(C_ik C_jk / tau)                               Eq. 3, maximised by the prototypes
    l(a, x+) = -s.z+ / tau + log( sum over positives and negatives x of exp(s.z_x / tau) )       Eq. 4, minimised

Every tensor is stored whole, in the dtype that comes in, and autograd passes through all of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def modularity_loss(tokens: Tensor, prototypes: Tensor, temperature: float = 0.1) -> Tensor:
    """Minus H of Eq. 3, averaged over the pictures: tokens (b, n, d), prototypes (k, d) -> a scalar."""
    t, m = F.normalize(tokens.detach(), dim=-1), F.normalize(prototypes, dim=-1)
    a = (t @ t.mT).clamp(min=0)  # (b, n, n)                       A_ij = max(0, cos(t_i, t_j))
    a = a.masked_fill(torch.eye(a.shape[1], dtype=torch.bool, device=a.device), 0)  # A_ii = 0
    d = a.sum(dim=2, keepdim=True)  # (b, n, 1)                    d_i = sum_j A_ij
    e = d.sum(dim=1, keepdim=True)  # (b, 1, 1)                    e = sum_ij A_ij
    e = e + (e == 0)  # a picture without any edge: W = 0
    w = a / e - (d / e) @ (d / e).mT  # (b, n, n)                  W = A/e - (d/e)(d/e)^T
    c = (m @ t.mT).clamp(min=0)  # (b, k, n)                       C_ik = max(0, cos(t_i, m_k))
    products = c[:, :, :, None] * c[:, :, None, :]  # (b, k, n, n)
    delta = torch.tanh(products / temperature).max(dim=1).values  # (b, n, n)  delta_ij = max_k tanh(C_ik C_jk / tau)
    return -(w * delta).sum(dim=(1, 2)).mean()  #                  H = sum_ij W_ij delta_ij


def concept_contrastive_loss(student: Tensor, teacher: Tensor, concepts: Tensor, similarity: Tensor,
                             bank: tuple[Tensor, Tensor] | None = None, temperature: float = 0.07,
                             positive_threshold: float = 0.3, negative_threshold: float = 0.1) -> Tensor:
    """Eq. 4 in the batch and against the bank: projections of student and teacher (b, n, p), concepts (b, n),
    similarity D_M (k, k), bank projections (x, p) with their concepts (x,) -> a scalar; 0 without any positive."""
    b, n, p = student.shape
    s, z = F.normalize(student, dim=-1).reshape(b * n, p), F.normalize(teacher.detach(), dim=-1).reshape(b * n, p)
    anchors = concepts.flatten()  # (bn,)                           id(t), the concept of each patch
    others = ~torch.eye(b * n, dtype=torch.bool, device=s.device)  # (bn, bn): an anchor is no positive of itself
    pools = [(z, anchors, others)]
    if bank is not None and len(bank[0]):
        pools.append((F.normalize(bank[0], dim=-1), bank[1], torch.ones_like(others[:, :1])))
    terms = []
    for pool, ids, allowed in pools:  # (x, p), (x,), (bn, x) or (bn, 1)
        alike = similarity[anchors][:, ids]  # (bn, x)              D_M[id(a), id(x)]
        positive = (alike > positive_threshold) & allowed
        negative = (alike < negative_threshold) & allowed
        logits = s @ pool.T / temperature  # (bn, x)                s.z / tau
        lse = logits.masked_fill(~(positive | negative), -torch.inf).logsumexp(dim=1, keepdim=True)  # (bn, 1)
        losses = torch.where(positive, lse - logits, 0)  # (bn, x)  l(a, x+) of each pair
        pairs = positive.view(b, -1).sum(dim=1)  # (b,)             of each picture
        terms.append(losses.view(b, -1).sum(dim=1)[pairs > 0] / pairs[pairs > 0])  # mean over the pairs of a picture
    terms = torch.cat(terms)  # a picture without positives has no term
    return terms.mean() if len(terms) else (s * 0).sum()  #         mean over the terms
