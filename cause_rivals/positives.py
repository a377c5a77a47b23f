"""The loss of HP (hp.py), and its weights of neighbours: functions of tensors alone."""

from __future__ import annotations

import torch
from torch import Tensor


class _HiddenPositives(torch.autograd.Function):
    """The loss with its gradient, picture by picture: no more than 2 n N numbers of either are there at once."""

    @staticmethod
    def forward(ctx, z, spaces, keep, temperature, reweight):
        kinds, count, n = len(z), z.shape[1], len(keep)
        bounds = [(x @ pool.T).amax(dim=1) for x, pool, _ in spaces]  # R, (N,) each
        loss, gradient, scale = z.new_zeros(()), torch.zeros_like(z), temperature / 0.07 / (kinds * count // n)
        turned = z.mT / temperature
        for first in range(0, count, n):
            mine = slice(first, first + n)
            found = [x[mine] @ x.T > torch.minimum(bound[mine, None], bound) for (x, *_), bound in zip(spaces, bounds)]
            for positive in found:  # (n, N) each
                positive.diagonal(first).fill_(False)
            rows = found[0].any(dim=1, keepdim=True)  # (n, 1)
            weights = sum(share * positive.to(z.dtype) for (*_, share), positive in zip(spaces, found)) * rows
            size = weights.sum() if reweight else weights.sum(dim=1, keepdim=True) * rows.sum()
            weights = weights / size.clamp(min=torch.finfo(z.dtype).tiny) * scale
            apart = ~(found[0] | keep | ~rows)  # not in D; of a row without loss none, so that it is finite
            apart.diagonal(first).fill_(True)
            logits = z[:, mine] @ turned  # (kinds, n, N)
            loss -= torch.einsum("ij,kij->", weights, logits)
            logits = logits.masked_fill_(apart, -torch.inf)
            each = weights.sum(dim=1)  # (n,)
            loss += (each * logits.logsumexp(dim=2)).sum()
            slope = logits.softmax(dim=2).mul_(each[:, None]).sub_(weights)
            gradient[:, mine] += slope @ z
            gradient += slope.mT @ z[:, mine]
        gradient /= temperature
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, above):
        return above * ctx.saved_tensors[0], None, None, None, None


def hidden_positives_loss(z: Tensor, tokens: Tensor, codes: Tensor, pool: Tensor, pool_codes: Tensor, keep: Tensor,
                          share: float, temperature: float = 0.8, reweight: bool = True) -> Tensor:
    """The mean of l_i over pictures and kinds of projections; all vectors have length one.

    Args:
        z: (kinds, N, r), picture by picture. tokens, codes: t (N, d) and s* (N, r); pool, pool_codes: (p, d), (p, r).
        keep: bool (n, N), the patches in every denominator, the same for each picture. share: lambda.
        reweight: False: divide by sum_j w_ij of each patch in place of their mean.
    """
    spaces = [(tokens, pool, 1.0)] + ([(codes, pool_codes, share)] if share else [])
    return _HiddenPositives.apply(z, spaces, keep, temperature, reweight)


def neighbour_weights(logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """a_ij / neighbours of i, of attention logits (b, n, n): (b, n, n), 0 but for the 3 x 3 patches around i."""
    weights = logits.clamp(*(logits.quantile(q, dim=-1, keepdim=True) for q in (0.1, 0.9))).softmax(dim=-1) * 28
    weights = weights * (weights >= weights.mean(dim=-1, keepdim=True))
    place = torch.arange(logits.shape[-1], device=logits.device)
    near = [(x[:, None] - x).abs() <= 1 for x in (place // grid[1], place % grid[1])]
    near = (near[0] & near[1]).to(logits)  # (n, n)
    return weights * near / near.sum(dim=1, keepdim=True)
