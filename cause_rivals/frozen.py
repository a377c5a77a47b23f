"""What methods take of a frozen vision transformer beside its patches' tokens: class tokens, and who they attend to.

x (b, m, d) is what the last block sees, the class token first, then registers, then the n patches. The attention of the
class token a (b, heads, m) is kept as a variable, since some methods ask how the class token depends on it:

    class token = LayerNorm(y + mlp(y)),  y = x_0 + out(sum_j a_j v_j)          # norms and scales left out
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cause_lib.backbones import Backbone
from cause_lib.errors import InputError
from cause_lib.tokens import after, embed, projections, refuse_unlike, rotary_of


def before_last(backbone: Backbone, images: Tensor) -> tuple[Tensor, Any]:
    """Images (b, 3, h, w) in [0, 1] -> what the last block sees, (b, m, d), and what turns its queries and keys.

    Raises ValueError for a backbone without a class token, or with attention of another kind than plain.
    """
    vit = backbone.vit
    if getattr(vit, "cls_token", None) is None:
        raise InputError(f"{backbone.name} has no class token, which this method asks for: take another backbone.")
    refuse_unlike(backbone.name, vit.blocks[-1])
    with torch.no_grad():
        x, rotary = embed(vit, (images - backbone.mean) / backbone.std, backbone.positions)
        return after(vit, x, rotary, len(vit.blocks) - 1), rotary_of(vit, rotary, len(vit.blocks) - 1)


def class_attention(vit: nn.Module, x: Tensor, rotary: Any = None) -> Tensor:
    """Attention of the class token in the last block, of x (b, m, d): (b, heads, m), sums to one."""
    block = vit.blocks[-1]
    attention = block.attn
    q, k, _ = projections(attention, block.norm1(x))
    each = q.shape[-1] // attention.num_heads
    q, k = (part.unflatten(-1, (-1, each)).transpose(1, 2) for part in (q[:, :1], k))  # (b, heads, 1 or m, each)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rotary is not None:  # the class token itself is not turned
        from timm.layers import apply_rot_embed_cat

        prefix = vit.num_prefix_tokens
        k = torch.cat([k[:, :, :prefix], apply_rot_embed_cat(k[:, :, prefix:], rotary, half=attention.rotate_half)], 2)
    return (q * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]


def class_token(vit: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """The class token after the final norm, of x (b, m, d), where it attends by weights (b, heads, m): (b, d)."""
    block = vit.blocks[-1]
    attention = block.attn
    values = projections(attention, block.norm1(x))[2].unflatten(-1, (weights.shape[1], -1))  # (b, m, heads, each)
    mixed = torch.einsum("bhm,bmhe->bhe", weights.to(values), values).flatten(1)  # (b, d)
    y = x[:, 0] + _scaled(block, 1, attention.proj(attention.norm(mixed)))
    return vit.norm(y + _scaled(block, 2, block.mlp(block.norm2(y))))


def _scaled(block: nn.Module, which: int, x: Tensor) -> Tensor:
    """A block's residual, times what timm's `Block` or `EvaBlock` multiplies it by."""
    if hasattr(block, f"ls{which}"):
        return getattr(block, f"ls{which}")(x)
    gamma = getattr(block, f"gamma_{which}")
    return x if gamma is None else gamma * x


@torch.no_grad()
def class_tokens(backbone: Backbone, images: Tensor) -> Tensor:
    """The class tokens of images (b, 3, h, w) in [0, 1], after the final norm: (b, d) float32."""
    x, rotary = before_last(backbone, images)
    return class_token(backbone.vit, x, class_attention(backbone.vit, x, rotary)).float()
