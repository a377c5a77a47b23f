"""Frozen vision transformers: a picture in, one token a patch out.

An image (3, h, w) is cut into n = (h / patch)(w / patch) squares, and a pre-trained ViT f turns them into tokens

    T = LayerNorm(f(image))[prefix:]                                   # (n, d): class and register tokens dropped

which are the treatment T of the method (Eq. 1, 2). Architectures come from timm, weights from the files of weights.py,
which always load strictly. Position embeddings follow DINO's own resizing rule, see `resize_positions`.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.errors import InputError
from cause_lib.weights import (  # noqa: F401
    BACKBONES,
    BUNDLED,
    BUNDLED_PATH,
    RANDOM,
    READINGS,
    file_sha256,
    load_strictly,
    look_up,
    weights_fingerprint,
    weights_path,
)

if TYPE_CHECKING:  # timm, which takes longer to import than torch, is imported where a backbone is built
    from timm.models.vision_transformer import VisionTransformer

POSITIONS = ("dino", "antialiased", "exact")


def load_backbone(name: str, image_size: int | None = None, *, num_heads: int | None = None,
                  positions: str = "dino", weights: str | Path | None = None) -> Backbone:
    """Load a frozen vision transformer by name.

    Args:
        name: a key of `BACKBONES`, `AUTHORS` or `READINGS`, `bundled` (comes with the library), `bundled.random` (the
            same, untrained), or a timm ViT such as `vit_tiny_patch16_224`. After a dot follows timm's tag; a tag that
            timm does not know means a weights file of that name in the folder `CAUSE_WEIGHTS`.
        image_size: side in pixels of the square images to come; checked against the patch. None: not checked.
        num_heads: read the same weights with so many attention heads, each of width d / num_heads. None: its own.
        positions: how position embeddings are resized, see `resize_positions`.
        weights: read this file, whatever it is called. None: the one that belongs to the name, see `weights_path`.

    Returns:
        A `Backbone` on the CPU, float32, in evaluation mode, its parameters without gradients.

    Raises:
        ValueError: no such name (the nearest are named), a size that the patch, or a width that the number of heads
            does not divide, a weights file that does not fit or that holds more than tensors.
        FileNotFoundError: no weights here and no network to fetch them.
    """
    if positions not in POSITIONS:
        raise InputError(f"positions must be one of {', '.join(POSITIONS)}, not {positions!r}.")
    vit, own = _built(name, num_heads)
    heads, weights_name = vit.blocks[0].attn.num_heads, READINGS.get(name, (name,))[0]
    architecture, _, (mean, std), learned = look_up(weights_name)
    if name == RANDOM:
        path, source = None, ""
        numbers = (key.encode() + value.numpy().tobytes() for key, value in vit.state_dict().items())
        sha256 = hashlib.sha256(b"".join(numbers)).hexdigest()
    else:
        path = Path(weights or weights_path(weights_name)).expanduser()
        taken = load_strictly(vit, path, name)
        source = (f"; weights from {path.name}{taken and f' ({taken})'}; pictures normalised by mean {(*mean,)}, std "
                  f"{(*std,)}.")
        sha256 = file_sha256(path)
    description = (f"{name}: a {'' if architecture else 'small '}vision transformer (patch "
                   f"{vit.patch_embed.patch_size[0]}, {len(vit.blocks)} blocks of width {vit.embed_dim}, {heads} heads"
                   f"{'' if heads == own else f' instead of its own {own}'}){learned}"
                   f"{source if architecture else ''}")
    return Backbone(vit, name=name, image_size=image_size, mean=mean, std=std, positions=positions, weights_path=path,
                    weights_sha256=sha256, description=description)


def check_backbone(name: str, *sizes: int, num_heads: int | None = None) -> None:
    """Whether a backbone can be read with so many heads, and pictures of these sides be cut into its patches.

    Raises ValueError in the words of `load_backbone`; asks for no weights.
    """
    vit, _ = _built(name, num_heads)
    for side in sizes:
        _grid_of(name, vit.patch_embed.patch_size[0], side, side)


def _built(name: str, num_heads: int | None) -> tuple[VisionTransformer, int]:
    """An architecture, read with so many heads, without weights (but for `bundled.random`); and its own heads."""
    weights_name, reading = READINGS.get(name, (name, None))
    if reading is not None and num_heads not in (None, reading):
        raise InputError(f"{name} means {weights_name} read with {reading} attention heads, so num_heads={num_heads} "
                         f"says two things at once: take {weights_name!r} with num_heads, or {name!r} without.")
    architecture = look_up(weights_name)[0]
    build = partial(_empty_vit, architecture, name) if architecture else partial(_own_vit, name)
    vit = build()
    own = vit.blocks[0].attn.num_heads
    heads = next(count for count in (num_heads, reading, own) if count is not None)
    if heads < 1 or vit.embed_dim % heads:
        raise InputError(f"{name} has tokens of width {vit.embed_dim}, which {heads} attention heads cannot share "
                         f"evenly: num_heads must divide it, as its own {own} do; give one that does, or none.")
    return vit if heads == own else build(num_heads=heads), own


def _grid_of(name: str, patch: int, h: int, w: int) -> tuple[int, int]:
    if h < patch or w < patch or h % patch or w % patch:
        good = [max(1, round(side / patch)) * patch for side in (h, w)]
        raise InputError(f"{name} cuts images into {patch} x {patch} patches, which do not tile "
                         f"{h} x {w} pixels; the nearest size that they tile is {good[0]} x {good[1]}.")
    return h // patch, w // patch


class Backbone(nn.Module):
    """A frozen ViT that returns patch tokens.

    Attributes: `name`, `dim` (d), `num_heads`, `patch_size` and `image_size` (pixels; the latter may be None),
    `positions`, `weights_path` (None: drawn), `weights_sha256` (of that file, or of the tensors), `description`.
    """

    def __init__(self, vit: VisionTransformer, *, name: str, image_size: int | None, mean: tuple, std: tuple,
                 weights_sha256: str, description: str, positions: str = "dino", weights_path: Path | None = None):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.name, self.image_size = name, image_size
        self.dim, self.patch_size = vit.embed_dim, vit.patch_embed.patch_size[0]
        self.num_heads = vit.blocks[0].attn.num_heads
        self.weights_sha256, self.description, self.positions = weights_sha256, description, positions
        self.weights_path = weights_path
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        if image_size is not None:
            _grid_of(name, self.patch_size, image_size, image_size)

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen means frozen: stays in evaluation mode whatever is asked."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """images (b, 3, h, w), floating point in [0, 1] -> tokens (b, n, d), row by row over the patch grid.

        Height and width may differ and may be any multiple of the patch; normalisation happens inside. Raises
        ValueError for another shape, for integer images, and for a size the patch does not divide.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(f"images must be floating point in [0, 1] of shape (b, 3, h, w), "
                             f"not {images.dtype} of shape {tuple(images.shape)}.")
        grid, vit = _grid_of(self.name, self.patch_size, *images.shape[-2:]), self.vit
        with torch.inference_mode():
            x = vit.patch_embed((images - self.mean) / self.std).flatten(1, 2)       # (b, n, d)
            prefix = [token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
            positions = resize_positions(vit.pos_embed, vit.patch_embed.grid_size, grid, rule=self.positions,
                                         prefix=0 if vit.no_embed_class else vit.num_prefix_tokens)
            if vit.no_embed_class:                                                   # positions for patches only
                x = torch.cat([*prefix, x + positions], dim=1)                       # (b, prefix + n, d)
            else:
                x = torch.cat([*prefix, x], dim=1) + positions                       # (b, prefix + n, d)
            tokens = vit.norm(vit.blocks(vit.norm_pre(x)))[:, vit.num_prefix_tokens:]  # (b, n, d)
        # autograd refuses tensors born in inference mode; a copy made outside it can feed a head that learns
        return tokens.clone()

    def attention(self, images: Tensor, block: int = -1) -> Tensor:
        """Where the tokens of one block look, -1 the last: softmax(q k^T / sqrt(d / heads)), by head.

        images as for `forward` -> (b, heads, prefix + n, prefix + n), rows sum to one; class and register tokens first.
        """
        module, seen = self.vit.blocks[block].attn, []
        hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.forward(images)
        finally:
            hook.remove()
        with torch.inference_mode():
            heads = module.qkv(seen[0]).unflatten(-1, (3, module.num_heads, -1))  # (b, prefix + n, 3, heads, .)
            q, k, _ = heads.permute(2, 0, 3, 1, 4)  # (b, heads, prefix + n, .) each
            weights = (module.q_norm(q) * module.scale @ module.k_norm(k).transpose(-2, -1)).softmax(dim=-1)
        return weights.clone()


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


def _empty_vit(architecture: str, name: str, **changes: int) -> VisionTransformer:
    import timm
    from timm.models.vision_transformer import PatchEmbed, VisionTransformer

    # an empty global_pool keeps the final norm on the tokens, where pooling models move it behind the mean; on "meta"
    # nothing is allocated or drawn, so that loading leaves the global random numbers alone
    try:
        with torch.device("meta"):
            vit = timm.create_model(architecture, num_classes=0, global_pool="", dynamic_img_size=True,
                                    weight_init="skip", **changes)
    except (TypeError, AssertionError):                       # other families do not take these arguments
        vit = None
    if type(vit) is not VisionTransformer or type(vit.patch_embed) is not PatchEmbed or vit.pos_embed is None:
        raise InputError(f"{name!r} is no plain vision transformer with learned positions, which is what gives tokens "
                         f"here; try one of {', '.join(BACKBONES)}.")
    return vit


def small_vit(image_size: int = 160, patch_size: int = 8, dim: int = 192, depth: int = 6,
              num_heads: int = 3) -> VisionTransformer:
    """The architecture of `bundled`, untrained: a small ViT whose patches come from a few small convolutions.

    Convolutions of stride 2 instead of one large step learn several times faster (Xiao et al. 2021, "Early convolutions
    help transformers see better"). Positions start as sines and cosines. Uses the global random numbers.

    Args:
        image_size: side in pixels that positions are made for. patch_size: a power of 2. The rest as in timm.
    """
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(img_size=image_size, patch_size=patch_size, embed_dim=dim, depth=depth, num_heads=num_heads,
                            num_classes=0, global_pool="", dynamic_img_size=True)
    widths = [3, *(dim // 6 * 2 ** i for i in range(patch_size.bit_length() - 1))]  # 3, 32, 64, 128
    stem = [layer for of, to in zip(widths, widths[1:])
            for layer in (nn.Conv2d(of, to, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, to), nn.GELU())]
    vit.patch_embed.proj = nn.Sequential(*stem, nn.Conv2d(widths[-1], dim, 1))
    frequencies = 100.0 ** -(torch.arange(dim // 4) / (dim // 4))
    y, x = torch.meshgrid(*(torch.arange(side).float() for side in vit.patch_embed.grid_size), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (y, x)]  # (n, dim // 4) each
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)  # (n, dim)
    vit.pos_embed.data[:, 1:] = 0.3 * waves
    return vit


def _own_vit(name: str, **changes: int) -> VisionTransformer:
    """`small_vit` without numbers, for weights to come, or by seed 0; the global random numbers stay as they are."""
    with torch.device("meta") if name == BUNDLED else torch.random.fork_rng(devices=[]):
        if name == RANDOM:
            torch.manual_seed(0)
        return small_vit(**changes)
