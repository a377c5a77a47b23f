"""Test vectors of the authors' functions (tests/data/vectors): reading them, and their weights as our modules.

Weights are packed: the tensors of `names`, flattened row by row, one after the other. Names are the keys of the
released files: `head` is the student, `head_ema` the teacher, each with a projection; 1 x 1 convolutions end in 1, 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cause_lib.heads import MLPHead, TRHead

FOLDER = Path(__file__).parent / "data/vectors"
CENTROIDS = "cluster_probe"


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of one file, `step2_mlp` for instance."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """A writable copy; floating arrays become `dtype`, the others stay what they are."""
    copy = torch.from_numpy(np.array(array))
    return copy.to(dtype) if copy.is_floating_point() else copy


def unpack(vector: np.ndarray, names: Sequence[str], shapes: np.ndarray, *, only: Iterable[str] | None = None,
           dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Name -> tensor of a packed vector, with the released names and shapes.

    names, shapes: of the file, as it holds them. only: the names that the vector holds, in its order, where it does
    not hold all (`gradient_names`; `[CENTROIDS]` for the cases of centroids alone).
    """
    sizes = {str(name): tuple(int(side) for side in row if side) for name, row in zip(names, shapes, strict=True)}
    held = list(sizes) if only is None else [str(name) for name in only]
    parts = tensor(vector, dtype).split([math.prod(sizes[name]) for name in held])
    return {name: part.view(sizes[name]) for name, part in zip(held, parts, strict=True)}


def to_ours(named: Mapping[str, Tensor], head_prefix: str = "head_ema") -> dict[str, Tensor]:
    """What is below one prefix, under our names and in our shapes (a 1 x 1 convolution is a linear layer).

    head_prefix: `head` or `head_ema` (an MLPHead's, or a TRHead's without its clusterbook); `projection_head`,
    `projection_head_ema` or `linear` (weight and bias); `cluster_probe` (centroids).
    """
    if head_prefix == CENTROIDS:
        return {"centroids": named[CENTROIDS]}
    found = {key.removeprefix(f"{head_prefix}."): value[..., 0, 0] if value.shape[2:] == (1, 1) else value
             for key, value in named.items() if key.startswith(f"{head_prefix}.")}
    ours = {}
    for key, value in found.items():
        inner = key.removeprefix("tr.")
        in_mlp = inner != key and inner.split(".")[0] in ("f1", "f2")  # of TR, the MLP is a part
        ours[f"mlp.{inner}" if in_mlp else inner.removeprefix("f.")] = value
    return ours


def make_head(named: Mapping[str, Tensor], codebook: Tensor, *, prefix: str = "head_ema", dropout: float = 0.0,
              grid: tuple[int, int] | None = None) -> MLPHead | TRHead:
    """Our head with these weights, in evaluation mode. grid: None: square, of as many patches as it has positions."""
    tensors = to_ours(named, prefix)
    dtype = next(iter(tensors.values())).dtype
    if "query_pos" in tensors:
        grid = grid or (math.isqrt(len(tensors["query_pos"])),) * 2
        tensors["clusterbook.prototypes"] = codebook.to(dtype)
        head: MLPHead | TRHead = TRHead(codebook, grid, len(tensors["mlp.f1.weight"]),
                                        hidden_dim=len(tensors["linear1.weight"]), dropout=dropout)
    else:
        head = MLPHead(codebook.shape[1], len(tensors["f1.weight"]), dropout)
    return fill(head.to(dtype), tensors).eval()


def make_linear(named: Mapping[str, Tensor], prefix: str) -> nn.Linear:
    """The linear layer below a prefix, a projection or the linear probe."""
    tensors = to_ours(named, prefix)
    out, into = tensors["weight"].shape
    return fill(nn.Linear(into, out, dtype=tensors["weight"].dtype), tensors)


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module, its parameters and buffers set to copies of all these tensors, strictly."""
    module.load_state_dict(dict(tensors), strict=True)
    return module


def gap(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference between tensors of the same names."""
    assert set(ours) == set(theirs), f"only ours {set(ours) - set(theirs)}, only theirs {set(theirs) - set(ours)}"
    return max(float((ours[key].detach().double() - theirs[key].double()).abs().max()) for key in theirs)
