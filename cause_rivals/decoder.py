"""TransFGU's decoder: class embeddings that attend to the patches of a picture, and the patches to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cause_lib.errors import InputError


class Decoder(nn.Module):
    """Tokens (b, n, d) -> logits of classes (b, n, k).

    Args:
        dim: d. num_classes: k. heads: of its attention; ValueError where they do not divide d.
    """

    def __init__(self, dim: int, num_classes: int, heads: int = 6, dropout: float = 0.1) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(f"Tokens of width {dim} cannot be shared evenly by {heads} attention heads: set heads to "
                             "a number that divides it.")
        self.embed = nn.Linear(dim, dim)
        self.classes = nn.Parameter(nn.init.orthogonal_(torch.empty(num_classes, dim)))
        self.blocks = nn.Sequential(*(Block(dim, heads, proj_drop=dropout, attn_drop=dropout, norm_layer=nn.LayerNorm)
                                      for _ in range(2)))
        self.norm, self.last = nn.LayerNorm(dim), nn.LayerNorm(num_classes)
        self.of_patches, self.of_classes = (nn.Parameter(torch.randn(dim, dim) * dim**-0.5) for _ in range(2))

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b, n, k), and class embeddings (b, k, d) of length one."""
        x = torch.cat([self.embed(tokens), self.classes.expand(len(tokens), -1, -1)], dim=1)
        x = self.norm(self.blocks(x))
        patches, classes = x.split([tokens.shape[1], len(self.classes)], dim=1)
        classes = F.normalize(classes @ self.of_classes, dim=-1)
        return self.last(F.normalize(patches @ self.of_patches, dim=-1) @ classes.mT), classes

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """tokens (b, n, d) -> logits (b, n, k)."""
        return self.both(tokens)[0]

    @staticmethod
    def apart(classes: Tensor) -> Tensor:
        """Mean over pairs of classes, and pictures, of 1 + their cosine; classes (b, k, d) of length one."""
        k = classes.shape[1]
        cosines = (classes @ classes.mT).triu(diagonal=1).sum(dim=(1, 2)) / max(1, k * (k - 1) // 2)  # (b,)
        return 1 + cosines.mean()


class Given(nn.Module):
    """A read-out of features that are logits already."""

    sharpness = None  # see `cause_lib.masks.log_scores`

    def log_probabilities(self, features: Tensor) -> Tensor:
        """features (..., c) -> (..., c)."""
        return F.log_softmax(features, dim=-1)

    def products(self, features: Tensor) -> Tensor:
        """The same features."""
        return features
