"""How tokens are taken from a vision transformer of timm: of which block, and what of its attention.

    x_0 = [class and register tokens, patches] + positions,  x_i = block_i(x_{i-1})        # (b, prefix + n, d)

The tokens of block i are LayerNorm(x_i), by the network's final norm whatever the block, as timm's
`forward_intermediates(norm=True)` has them; its output is x_i, before that norm; `normed` is x_i under the norm that
the network applies next, the first of block i + 1 or the final one, and i, if not given, is floor(3 L / 4) of L. Its
queries, keys and values are the linear maps of what its attention sees, heads side by side: before a norm of queries or
keys, and before rotary positions turn them (Amir et al. 2021, "Deep ViT features as dense visual descriptors").

Two families of timm have such tokens: `VisionTransformer`, and `Eva`, whose blocks may turn queries and keys by rotary
positions, computed for each grid. Learned positions are resized here, see `resize_positions`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.errors import InputError

POSITIONS = ("dino", "antialiased", "exact")
FACETS = ("token", "output", "normed", "key", "query", "value")


def is_plain(vit: nn.Module) -> bool:
    """Whether it is timm's VisionTransformer, all of whose positions are learned; else it is an Eva."""
    return type(vit).__name__ == "VisionTransformer"


def heads_of(vit: nn.Module) -> int:
    """Attention heads of its first block."""
    return next(module.num_heads for module in vit.blocks[0].modules() if hasattr(module, "num_heads"))


def block_of(name: str, vit: nn.Module, layer: int | None, facet: str) -> int:
    """The index, from 0, of the block that `layer` names: from 1, or from -1 the last; None: the last.

    Raises:
        ValueError: there is no such block or facet, or its attention is of another kind than plain.
    """
    depth = len(vit.blocks)
    if layer is not None and (type(layer) is not int or not 1 <= abs(layer) <= depth):
        raise InputError(f"{name} has {depth} blocks, so layer must be 1 to {depth}, -1 (the last) to -{depth}, or "
                         f"None (the last), not {layer!r}.")
    if facet not in FACETS:
        raise InputError(f"facet must be one of {', '.join(FACETS)}, not {facet!r}.")
    layer = layer or (-1 if facet != "normed" else max(1, 3 * depth // 4))
    index = layer - 1 if layer > 0 else depth + layer
    if facet not in ("token", "output"):
        refuse_unlike(name, vit.blocks[min(index + (facet == "normed"), depth - 1)])
    return index


def refuse_unlike(name: str, block: nn.Module) -> None:
    """ValueError for a block whose attention is not one of queries, keys and values of its first norm's output."""
    attention = type(getattr(block, "attn", None)).__name__
    if type(block).__name__ not in ("Block", "EvaBlock") or attention not in ("Attention", "EvaAttention",
                                                                              "AttentionRope"):
        raise InputError(f"{name} has blocks of timm's {type(block).__name__}, whose attention is not laid open here: "
                         'take facet "token", or another backbone.')


def width_of(vit: nn.Module, index: int, facet: str) -> int:
    """Numbers in one token, or in a query, key or value of all heads of a block."""
    if facet in ("token", "output", "normed"):
        return vit.embed_dim
    attention = vit.blocks[index].attn
    fused = attention.qkv
    return fused.out_features // 3 if fused is not None else getattr(attention, f"{facet[0]}_proj").out_features


def embed(vit: nn.Module, images: Tensor, rule: str) -> tuple[Tensor, Any]:
    """What the first block sees, of normalised images (b, 3, h, w), learned positions resized by a rule.

    Returns:
        (b, prefix + n, d), and what turns queries and keys: None, (n, 2 width of a head), or that of each block.
    """
    x = vit.patch_embed(images)                                                      # (b, rows, columns, d)
    grid, x = x.shape[1:3], x.flatten(1, 2)                                          # (b, n, d)
    prefix = [token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
    positions = None if vit.pos_embed is None else positions_at(
        vit.pos_embed, vit.patch_embed.grid_size, grid, rule=rule,
        prefix=0 if vit.no_embed_class else vit.num_prefix_tokens)
    if positions is not None and vit.no_embed_class:                                 # for patches only
        x, positions = x + positions, None
    x = torch.cat([*prefix, x], dim=1)                                               # (b, prefix + n, d)
    x = x if positions is None else x + positions
    rope = getattr(vit, "rope", None)
    return vit.norm_pre(x), None if rope is None else rope.get_embed(shape=list(grid))


def rotary_of(vit: nn.Module, rotary: Any, index: int) -> Tensor | None:
    """What turns queries and keys of one block."""
    return rotary[index] if getattr(vit, "rope_mixed", False) and rotary is not None else rotary


def after(vit: nn.Module, x: Tensor, rotary: Any, blocks: int) -> Tensor:
    """What so many blocks make of x: (b, prefix + n, d)."""
    for index, block in enumerate(vit.blocks[:blocks]):
        x = block(x) if is_plain(vit) else block(x, rope=rotary_of(vit, rotary, index))
    return x


def take(vit: nn.Module, images: Tensor, rule: str, index: int, facet: str) -> Tensor:
    """The patches' tokens of one block, or their queries, keys or values there: (b, n, d)."""
    x, rotary = embed(vit, images, rule)
    if facet in ("token", "output", "normed"):
        x = after(vit, x, rotary, index + 1)
        following = [block.norm1 for block in vit.blocks[1:]] if facet == "normed" else []
        x = x if facet == "output" else [*following, vit.norm][min(index, len(following))](x)
    else:
        block = vit.blocks[index]
        parts = projections(block.attn, block.norm1(after(vit, x, rotary, index)))
        x = dict(zip(("query", "key", "value"), parts))[facet]
    return x[:, vit.num_prefix_tokens:]


def projections(attention: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of x (b, m, d), heads side by side: (b, m, d) each."""
    if attention.qkv is None:
        return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    fused = attention.qkv(x)
    if getattr(attention, "q_bias", None) is not None:  # an Eva's, where keys have none
        fused = fused + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return fused.chunk(3, dim=-1)


def attention_weights(vit: nn.Module, images: Tensor, rule: str, index: int) -> Tensor:
    """softmax(q k^T / sqrt(width of a head)) of one block, rotary positions included: (b, heads, m, m)."""
    x, rotary = embed(vit, images, rule)
    block = vit.blocks[index]
    q, k, _ = projections(block.attn, block.norm1(after(vit, x, rotary, index)))
    return attention_logits(vit, index, q, k, rotary, vit.num_prefix_tokens).softmax(dim=-1)


def attention_logits(vit: nn.Module, index: int, q: Tensor, k: Tensor, rotary: Any, prefix: int = 0) -> Tensor:
    """q k^T / sqrt(width of a head) of a block's queries and keys (b, m, d), heads side by side: (b, heads, m, m).

    rotary: what turns them, see `embed`, but for the first `prefix` of the m; of patches alone, as facets are, that of
        `vit.rope.get_embed(shape=grid)`, if there is a rope.
    """
    attention = vit.blocks[index].attn
    each = q.shape[-1] // attention.num_heads
    q, k = (part.unflatten(-1, (-1, each)).transpose(1, 2) for part in (q, k))  # (b, heads, m, each)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if (turn := rotary_of(vit, rotary, index)) is not None:
        from timm.layers import apply_rot_embed_cat

        q, k = (torch.cat([part[:, :, :prefix], apply_rot_embed_cat(part[:, :, prefix:], turn,
                                                                    half=attention.rotate_half)], dim=2)
                for part in (q, k))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # of heads that share their keys
    return q * attention.scale @ k.transpose(-2, -1)


def positions_at(positions: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int, *, rule: str) -> Tensor:
    """As `resize_positions`; those of a frozen network are kept beside them, as long as they stay what they are."""
    if positions.requires_grad or positions.is_inference():
        return resize_positions(positions, old, new, prefix, rule=rule)
    kept = positions.__dict__.setdefault("resized", {})
    if len(kept) > 64:  # pictures of many shapes
        kept.clear()
    if (key := (*old, *new, prefix, rule, positions.data_ptr(), positions._version)) not in kept:
        with torch.inference_mode(False):  # with what they are made of, so that its address is not given to another
            kept[key] = resize_positions(positions, old, new, prefix, rule=rule), positions.detach()
    return kept[key][0]


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 1, *,
                     rule: str = "dino") -> Tensor:
    """Position embeddings of one patch grid, resized to another.

    By DINO's rule (Caron et al. 2021, `interpolate_pos_encoding`) the grid is sampled bicubically in steps of the scale
    (new + 0.1) / old; by the exact rule, MSN's, of new / old. The antialiased rule is a picture library's: as the exact
    one, but low-passed where the grid shrinks. At the native size none changes anything at all.

    Args:
        positions: (1, prefix + old[0] old[1], d); the first `prefix` rows (class token) are kept as they are.
        old, new: rows and columns of the two patch grids. rule: one of `POSITIONS`.

    Returns:
        (1, prefix + new[0] new[1], d)
    """
    if tuple(old) == tuple(new):
        return positions
    kept, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, tuple(old)).permute(0, 3, 1, 2)                   # (1, d, rows, columns)
    scale = {"scale_factor": tuple((to + 0.1) / of for to, of in zip(new, old))}
    how = scale if rule == "dino" else {"size": tuple(new), "antialias": rule == "antialiased"}
    resized = F.interpolate(patches.float(), mode="bicubic", **how)
    return torch.cat([kept, resized.to(positions.dtype).flatten(2).transpose(1, 2)], dim=1)
