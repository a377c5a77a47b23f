"""Segmentation heads: tokens (b, n, d) -> features (b, n, r), with a student, an EMA teacher and a projection.

    MLP  f1(t) + f2(t),  f1: d -> r,  f2: d -> d -> ReLU -> r
    TR   the same on  t + decoder(query = nearest prototype + position, memory = t): one transformer decoder layer with
         self-attention, cross-attention to the patch tokens and a feed-forward network, layer norm after each

The projection r -> p is used in training only (section 3.3 and appendix B); `ema_update` is that of MoCo and BYOL.
"""

import math
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook, take_patches

# Of several processes: this one's first picture in the batch, and how many the batch has. None: there is one process.
ROWS: ContextVar[tuple[int, int] | None] = ContextVar("rows", default=None)


class MLPHead(nn.Module):
    """The MLP head: every patch by itself.

    Args:
        dim, reduced_dim: width d of the tokens, and r of the features.
        dropout: share of the tokens' numbers set to zero in training mode, in [0, 1), drawn anew for each branch.

    Examples:
        >>> MLPHead(dim=8, reduced_dim=5)(torch.zeros(2, 12, 8)).shape
        torch.Size([2, 12, 5])
    """

    def __init__(self, dim: int, reduced_dim: int = 90, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.f1 = nn.Linear(dim, reduced_dim)
        self.f2 = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, reduced_dim))

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None, kept: Tensor | None = None) -> Tensor:
        """tokens (b, n, d) -> features (b, n, r), or (b, n', r) of the patches `kept`, (n',) or (b, n') of each picture
        its own. `grid` is TRHead's."""
        tokens = tokens if kept is None else take_patches(tokens, kept)
        first, second = (drop(tokens, self.dropout, self.training) for _ in range(2))
        return self.f1(first) + self.f2(second)


class TRHead(nn.Module):
    """The transformer head: each patch's concept is a query to all patches of its picture.

    Args:
        prototypes: (k, d), the clusterbook's; kept with the head as a frozen buffer.
        grid: rows and columns of patches in training; other grids get the positions resized (bilinear).
        reduced_dim, hidden_dim: width r of the features, and that of the feed-forward network.
        dropout: share of numbers set to zero in training mode, in [0, 1).

    Examples:
        >>> TRHead(torch.eye(8), grid=(3, 4), reduced_dim=5)(torch.zeros(2, 12, 8)).shape
        torch.Size([2, 12, 5])
    """

    def __init__(self, prototypes: Tensor, grid: tuple[int, int], reduced_dim: int = 90, *, hidden_dim: int = 2048,
                 dropout: float = 0.1) -> None:
        super().__init__()
        dim = prototypes.shape[-1]
        self.grid = tuple(grid)
        self.clusterbook = Clusterbook(prototypes)
        self.query_pos = nn.Parameter(torch.randn(math.prod(grid), dim))
        self.self_attn = nn.MultiheadAttention(dim, 1, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, 1, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = dropout
        self.mlp = MLPHead(dim, reduced_dim, dropout)

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None, kept: Tensor | None = None) -> Tensor:
        """tokens (b, n, d) on a grid of rows x columns = n patches (None: the training grid) -> features (b, n, r).

        With `kept`, (n',) or (b, n'), only those patches are queries, all are keys and values, and the features are
        (b, n', r): in one decoder layer no output depends on other queries. ValueError if n is not what the grid holds.
        """
        grid = self.grid if grid is None else tuple(grid)
        if tokens.shape[1] != math.prod(grid):
            raise ValueError(f"TRHead got {tokens.shape[1]} patches for a grid of {grid[0]} x {grid[1]}.")
        position = self._positions(grid)  # (n, d)
        concepts = self.clusterbook.quantize(tokens)  # (b, n, d)
        x, own, residual = (t if kept is None else take_patches(t, kept) for t in (concepts, position, tokens))
        x = self.norm1(x + self._drop(self._attend(self.self_attn, x + own, concepts + position, concepts)))
        x = self.norm2(x + self._drop(self._attend(self.multihead_attn, x + own, tokens, tokens)))
        x = self.norm3(x + self._drop(self.linear2(self._drop(F.relu(self.linear1(x))))))
        return self.mlp(residual + x)

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)

    def _attend(self, attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention with one head: query (b, n', d), key and value (b, n, d) -> (b, n', d).

        nn.MultiheadAttention's own forward when all patches are queries and nothing is dropped. With few queries, the
        weights of keys and values move to the query's side, since (q Wq)(x Wk)^T = (q Wq Wk^T) x^T and a (x Wv) =
        (a x) Wv; the keys' bias adds the same to all scores of a query, which the softmax cancels.
        """
        if query.shape[1] == key.shape[1] and not (self.training and self.dropout):
            return attention(query, key, value, need_weights=False)[0]
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        q = F.linear(query, weights[0], biases[0]) / math.sqrt(query.shape[-1])  # (b, n', d)
        if 2 * query.shape[1] < key.shape[1]:
            shares = self._drop(((q @ weights[1]) @ key.transpose(1, 2)).softmax(dim=-1))  # (b, n', n)
            answer = F.linear(shares @ value, weights[2]) + shares.sum(dim=-1, keepdim=True) * biases[2]
        else:
            k, v = (F.linear(x, w, bias) for x, w, bias in zip((key, value), weights[1:], biases[1:]))
            answer = self._drop((q @ k.transpose(1, 2)).softmax(dim=-1)) @ v
        return attention.out_proj(answer)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.query_pos
        image = self.query_pos.T.reshape(1, -1, *self.grid)  # (1, d, rows, columns)
        return F.interpolate(image, size=grid, mode="bilinear", align_corners=False)[0].flatten(1).T


def drop(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout as nn.Dropout's: in training, a share of the numbers becomes 0, the others grow by 1 / (1 - share).

    A number is dropped by 16 random bits, four from each draw, since drawing was a quarter of step 2 on a CPU; the
    share is right to 1/65536. Of several processes each draws for the whole batch and uses the bits of its `ROWS`.
    """
    if not training or share == 0:
        return x
    first, size = ROWS.get() or (0, len(x))
    each = x.shape[1:].numel()
    draws = torch.empty(-(-size * each // 4), dtype=torch.int64, device=x.device).random_(-2**63, None)
    kept = draws.view(torch.int16)[first * each:][:x.numel()].view(x.shape) >= round(share * 65536) - 32768
    return x * (kept * (1 / (1 - share))).to(x.dtype)


def projection(reduced_dim: int, projection_dim: int) -> nn.Linear:
    """The projection head, features (b, n, r) -> (b, n, p), used in training only."""
    return nn.Linear(reduced_dim, projection_dim)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float = 0.99) -> None:
    """teacher <- decay x teacher + (1 - decay) x student, parameter by parameter, in the teacher's storage."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new.to(old), 1 - decay)
