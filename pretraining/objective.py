"""What is learned: a student who sees a narrow view agrees with a teacher who sees a wide one, about every patch.

The teacher is the student's own slow average. It looks at a wide cut of a picture as it is; the student looks at narrow
cuts of the same picture, recoloured, mirrored, with patches hidden. Both give a token K cosines, with prototypes that
are learned too. For every patch i of the narrow views

    L = - mean_i sum_k q_k(i) log p_k(i)     p(i) = softmax(student's cosines at i / student_temperature)
                                             q(i) = balance(teacher's cosines where i lies / teacher_temperature)

where `balance` is Sinkhorn and Knopp's, which keeps all prototypes in use, so that nothing collapses. Self-distillation
is DINO's (Caron et al. 2021), a target for every patch and hidden patches are iBOT's (Zhou et al. 2022), balanced
prototypes are SwAV's (Caron et al. 2020, Sec. 3.1). Unlike iBOT's, the target comes from another view of the same
place, for a hidden patch as for one that is seen: one loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Distilled(nn.Module):
    """A ViT with its prototypes: what is student once and teacher once.

    Args:
        vit: with a class token, and positions for it and for a square of patches.
        prototypes: K. hidden_dim, bottleneck_dim: of an MLP between tokens and prototypes; 0: prototypes among tokens.
    """

    def __init__(self, vit: VisionTransformer, prototypes: int, hidden_dim: int = 0, bottleneck_dim: int = 0) -> None:
        super().__init__()
        self.vit = vit
        self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim))
        dim = bottleneck_dim or vit.embed_dim
        self.head = nn.Sequential(nn.Linear(vit.embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim)) \
            if hidden_dim else nn.Identity()
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, dim), dim=-1))  # (K, dim)

    def forward(self, images: Tensor, place: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Tokens of views.

        Args:
            images: (b, 3, h, w) in [0, 1]. place: (b, 2) int64, the row and column of the ViT's square of positions at
                which the view's first patch is put; drawn at random, so that position says nothing about content.
            hidden: (b, n) bool, patches that are replaced by a learned token. None: all are seen.

        Returns:
            (b, n, d)
        """
        vit = self.vit
        x = vit.patch_embed((images - 0.5) / 0.5)  # (b, rows, columns, d)
        rows, columns = x.shape[1:3]
        x = x.flatten(1, 2)  # (b, n, d)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        positions = vit.pos_embed[0, 1:].unflatten(0, vit.patch_embed.grid_size)
        row = place[:, 0, None] + torch.arange(rows, device=place.device)  # (b, rows)
        column = place[:, 1, None] + torch.arange(columns, device=place.device)  # (b, columns)
        x = x + positions[row[:, :, None], column[:, None]].flatten(1, 2)
        first = vit.cls_token + vit.pos_embed[:, :1]
        x = torch.cat([first.expand(len(x), -1, -1).to(x.dtype), x], dim=1)  # (b, 1 + n, d)
        return vit.norm(vit.blocks(x))[:, 1:]

    def cosines(self, tokens: Tensor) -> Tensor:
        """Tokens (b, n, d) -> cosines (b, n, K) with the prototypes, float32.

        Before, each dimension gets mean zero and variance one over the batch: the tokens of an untrained ViT are so
        alike that balancing alone would call them all the same for ever.
        """
        x = self.head(tokens).float()
        x = F.batch_norm(x.flatten(0, -2), None, None, training=True).view_as(x)
        return F.normalize(x, dim=-1) @ F.normalize(self.prototypes, dim=-1).T


def at_places(cosines: Tensor, places: Tensor) -> Tensor:
    """What a wide view says at given places: bilinear between the centres of its patches.

    Args:
        cosines: (b, n, K) of square views. places: (b, m, 2), y and x in the view, 0 to 1 from edge to edge.

    Returns:
        (b, m, K); beyond the outermost centres it is the outermost patch's.
    """
    side = round(cosines.shape[1] ** 0.5)
    maps = cosines.transpose(1, 2).unflatten(2, (side, side))  # (b, K, rows, columns)
    grid = places.flip(-1)[:, None] * 2 - 1  # (b, 1, m, 2), x first
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[:, :, 0].transpose(1, 2)


@torch.no_grad()
def balance(cosines: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Sinkhorn and Knopp's balancing: exp(cosines / temperature), scaled so that all prototypes get equal shares.

    Args:
        cosines: (m, K). temperature: the smaller, the harder the assignment. iterations: rounds of scaling.

    Returns:
        (m, K) float32; each row sums to one, each column to nearly m / K.
    """
    q = ((cosines.float() - cosines.max()) / temperature).exp()  # (m, K)
    for _ in range(iterations):
        q = q / (q.sum(dim=0, keepdim=True) * q.shape[1] / len(q)).clamp(min=1e-12)
        q = q / q.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return q


def distillation(q: Tensor, cosines: Tensor, temperature: float) -> Tensor:
    """Mean over rows of - sum_k q_k log softmax(cosines / temperature)_k: a scalar.

    Args:
        q: (m, K), the teacher's. cosines: (m, K), the student's.
    """
    return F.cross_entropy(cosines.float() / temperature, q)
