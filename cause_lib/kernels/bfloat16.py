"""Blocks in bfloat16 on a CPU, where PyTorch attends as slowly as in float32, and packs weights anew at every call."""

from contextlib import ContextDecorator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TABLE = 2**18  # attention weights computed together, about: they and their scores stay in a core's cache


def tiled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v by tables of a few heads, or of some rows of one: (b, h, n, d) each, and returned."""
    n, out = q.shape[2], torch.empty_like(q, memory_format=torch.contiguous_format)
    parts = (part.contiguous().flatten(0, 1).split(max(1, TABLE // n**2))  # (bh, n, d)
             for part in (q * q.shape[-1] ** -0.5, k, v, out))
    for q, k, v, place in zip(*parts):
        for rows, some in zip(*(part.chunk(max(1, round(n**2 / TABLE)), dim=1) for part in (q, place))):
            some.copy_((rows @ k.transpose(1, 2)).softmax(dim=-1) @ v)
    return out


class Tiled(TorchFunctionMode, ContextDecorator):
    """What is computed within, or by a function that it decorates, attends by `tiled_attention`, if without a mask."""
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = function is nn.functional.scaled_dot_product_attention
        plain = plain and {*args[3:], *(kwargs or {}).values()} <= {None, False}  # no mask, dropout of 0.0, not causal
        return tiled_attention(*args[:3]) if plain else function(*args, **kwargs or {})


def quicken(blocks: nn.Module) -> None:
    """These blocks of timm attend by `tiled_attention`, unless the CPU has AMX, which PyTorch's own attention uses;
    linear maps, to the same bits, by weights reordered once."""
    ops, amx = torch.ops.mkldnn, getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    packs = hasattr(ops, "_linear_pointwise") and getattr(ops, "_is_mkldnn_bf16_supported", bool)()
    for module in blocks.modules():
        if hasattr(module, "fused_attn") and not amx:
            module.forward = Tiled()(module.forward)
        elif type(module) is nn.Linear and packs:
            packed = ops._reorder_linear_weight(module.weight.detach()), module.bias, "none", [], ""
            module.forward = lambda x, packed=packed: ops._linear_pointwise(x, *packed)
