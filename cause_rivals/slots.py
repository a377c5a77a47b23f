"""The networks of DINOSAUR: slot attention (Locatello et al. 2020), and its two decoders; see dinosaur.py."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlotAttention(nn.Module):
    """Slots compete for tokens, and are updated by what they get."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norm_tokens, self.norm_slots = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gru = nn.GRUCell(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(),
                                 nn.Linear(4 * width, width))

    def forward(self, slots: Tensor, tokens: Tensor, rounds: int) -> Tensor:
        """slots (b, k, o), tokens (b, n, o) -> slots (b, k, o)."""
        tokens = self.norm_tokens(tokens)
        keys, values = self.k(tokens), self.v(tokens)
        for _ in range(rounds):
            scores = self.q(self.norm_slots(slots)) @ keys.mT / math.sqrt(keys.shape[2])  # (b, k, n)
            weights = scores.softmax(dim=1) + 1e-8
            seen = weights / weights.sum(dim=2, keepdim=True) @ values  # (b, k, o)
            slots = self.gru(seen.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        return slots


class MLPDecoder(nn.Module):
    """Each slot paints each patch; patches choose among slots."""

    def __init__(self, dim: int, width: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.positions = nn.Parameter(0.02 * torch.randn(math.prod(grid), width))  # (n, o)
        widths = [width, *3 * [hidden], dim + 1]
        layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in zip(widths, widths[1:])]
        self.layers = nn.Sequential(*[module for pair in layers for module in pair][:-1])

    def forward(self, slots: Tensor, tokens: Tensor, grid: tuple[int, int],
                kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """slots (b, k, o) -> tokens (b, n, d) and masks (b, n, k), of the patches `kept` (n',) alone if given."""
        positions = self.positions if grid == self.grid else F.interpolate(
            self.positions.T.unflatten(1, self.grid)[None], grid, mode="bilinear")[0].flatten(1).T
        positions = positions if kept is None else positions[kept]
        first, *others = self.layers  # of the sum of slot and position, by its two terms
        x = first(slots)[:, None] + F.linear(positions, first.weight)[:, None]  # (b, n, k, hidden)
        for layer in others:
            x = layer(x)
        masks = x[..., -1].softmax(dim=2)  # (b, n, k)
        return torch.einsum("bnkd,bnk->bnd", x[..., :-1], masks), masks


class TransformerDecoder(nn.Module):
    """Each token from those before it, and from the slots."""

    def __init__(self, dim: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, dim) / math.sqrt(dim))
        self.enter = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim))
        self.remember = nn.Sequential(nn.Linear(width, dim, bias=False), nn.LayerNorm(dim))
        layer = nn.TransformerDecoderLayer(dim, heads, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, layers).layers  # copies of one

    def forward(self, slots: Tensor, tokens: Tensor, grid: tuple[int, int], kept: None = None) -> tuple[Tensor, Tensor]:
        """slots (b, k, o), tokens (b, n, d) -> tokens (b, n, d) and masks (b, n, k)."""
        x = self.enter(torch.cat([self.start.expand(len(tokens), -1, -1), tokens[:, :-1]], dim=1))
        memory, n = self.remember(slots), tokens.shape[1]
        later = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:  # as its forward, which keeps the attention to itself
            y = layer.norm1(x)
            x = x + layer.self_attn(y, y, y, attn_mask=later, is_causal=True, need_weights=False)[0]
            y, masks = layer.multihead_attn(layer.norm2(x), memory, memory)  # (b, n, d), (b, n, k) mean over heads
            x = x + y
            x = x + layer.linear2(F.relu(layer.linear1(layer.norm3(x))))
        return x, masks
