"""Frozen vision transformers: a picture in, one token a patch out.

An image (3, h, w) is cut into n = (h / patch)(w / patch) squares, and a pre-trained ViT f turns them into tokens

    T = LayerNorm(f(image))[prefix:]                                   # (n, d): class and register tokens dropped

which are the treatment T of the method (Eq. 1, 2). Architectures come from timm, weights from the files of weights.py,
which always load strictly. How tokens are taken, of the last block or of another, is in tokens.py; what backbones are
called, in names.py.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cause_lib.errors import InputError
from cause_lib.kernels.memory import keep_memory
from cause_lib.names import canonical, three_numbers
from cause_lib.tokens import (FACETS, POSITIONS, attention_weights, block_of, heads_of, is_plain,  # noqa: F401
                              refuse_unlike, resize_positions, take, width_of)
from cause_lib.weights import (BACKBONES, BUNDLED, BUNDLED_PATH, RANDOM, READINGS, RESTRICTED, asked_for,  # noqa: F401
                               file_sha256, licence_of, load_strictly, look_up, read_state, weights_fingerprint,
                               weights_path)

if TYPE_CHECKING:  # timm, which takes longer to import than torch, is imported where a backbone is built
    from timm.models.vision_transformer import VisionTransformer


def load_backbone(name: str, image_size: int | None = None, *, num_heads: int | None = None,
                  positions: str = "dino", weights: str | Path | None = None, layer: int | None = None,
                  facet: str = "token", mean: Sequence[float] | str | None = None,
                  std: Sequence[float] | str | None = None) -> Backbone:
    """Load a frozen vision transformer by name. Memory that is freed from now on is kept (kernels/memory.py).

    Args:
        name: a key of `BACKBONES`, `AUTHORS` or `READINGS`, `bundled` (comes with the library), `bundled.random` (the
            same, untrained), a timm ViT such as `vit_small_patch16_dinov3`, or a name on another hub, see names.py.
            After timm's name and a dot follows its tag; a tag that timm does not know means a weights file of that name
            in the folder `CAUSE_WEIGHTS`.
        image_size: side in pixels of the square images to come; checked against the patch. None: not checked.
        num_heads: read the same weights with so many attention heads, each of width d / num_heads. None: its own.
        positions: how learned positions are resized, see `resize_positions`. Those of timm's `Eva` (PE, EVA-02), which
            DINO's rule was never meant for, are `antialiased` where this says `dino`, as timm resizes them.
        weights: read this file, whatever it is called. None: the one that belongs to the name, see `weights_path`.
        layer: tokens of this block, from 1, or from -1, the last. None: the last; with `normed` that at three quarters.
        facet: `token`, under the final norm, whatever the block; `output`, before it; `normed`, under the norm that the
            network applies next; or `key`, `query` or `value` of that block's attention, heads side by side: no norm
            follows, and rotary positions have not turned them yet.
        mean, std: pictures are normalised by these, three numbers in [0, 1] each, such as (0.485, 0.456, 0.406) or
            "0.485 0.456 0.406". None: by those of timm's pretrained config, which `description` says.

    Returns:
        A `Backbone` on the CPU, float32, in evaluation mode, its parameters without gradients.

    Raises:
        ValueError: no such name (the nearest are named), a size that the patch, or a width that the number of heads
            does not divide, no such block or facet, a weights file that does not fit or that holds more than tensors.
        FileNotFoundError: no weights here and no network to fetch them, or a licence to be accepted before.
    """
    keep_memory()
    if positions not in POSITIONS:
        raise InputError(f"positions must be one of {', '.join(POSITIONS)}, not {positions!r}.")
    name, given = canonical(name), (three_numbers("mean", mean), three_numbers("std", std))
    vit, own = _built(name, num_heads)
    block_of(name, vit, layer, facet)
    weights_name = READINGS.get(name, (name,))[0]
    architecture, _, statistics, learned = look_up(weights_name)
    mean, std = (one or tuple(other) for one, other in zip(given, statistics))
    said = f"; pictures normalised by mean {mean}, std {std}." if architecture or any(given) else ""
    if name == RANDOM:
        path, source = None, ""
        numbers = (key.encode() + value.numpy().tobytes() for key, value in vit.state_dict().items())
        sha256 = hashlib.sha256(b"".join(numbers)).hexdigest()
    else:
        path = Path(weights or weights_path(weights_name)).expanduser()
        state, taken = read_state(path, name)
        if (asked := asked_for(architecture, state)) != architecture:  # biases that the name's has not, or the reverse
            vit, own = _built(name, num_heads, asked)
        load_strictly(vit, state, path, name)
        source = f"{_licence(name, weights is None)}; weights from {path.name}{taken and f' ({taken})'}"
        sha256 = file_sha256(path)
    heads = heads_of(vit)
    description = (f"{name}: a {'' if architecture else 'small '}vision transformer (patch "
                   f"{vit.patch_embed.patch_size[0]}, {len(vit.blocks)} blocks of width {vit.embed_dim}, {heads} heads"
                   f"{'' if heads == own else f' instead of its own {own}'}){learned.removesuffix('.')}"
                   f"{_taken(vit, layer, facet)}{source if architecture else ''}{said or '.'}")
    return Backbone(vit, name=name, image_size=image_size, mean=mean, std=std, positions=positions, layer=layer,
                    facet=facet, weights_path=path, weights_sha256=sha256, description=description)


def _taken(vit: nn.Module, layer: int | None, facet: str) -> str:
    """What a description says of positions and tokens, where they are not learned, and not the last block's."""
    rotary = "" if getattr(vit, "rope", None) is None else "; rotary positions, computed for each size"
    learned = "" if is_plain(vit) or vit.pos_embed is None else "; learned positions resized as timm does, low-passed"
    block = f"block {block_of('', vit, layer, facet) + 1}"
    norm = "; no final norm" * isinstance(vit.norm, nn.Identity)
    what = {"query": "queries", "normed": "outputs under the next norm"}.get(facet, f"{facet}s")
    return rotary + learned + norm + f"; {what} of {block}" * (layer is not None or facet != "token")


def _licence(name: str, published: bool) -> str:
    """What a description says of the licence; a warning if it is not for everything and these are those weights."""
    licence = licence_of(name)
    if published and licence in RESTRICTED:
        warnings.warn(f"The weights of {name} come under {RESTRICTED[licence]}; what is made from them falls under it "
                      "as far as it says so.", stacklevel=3)
    return licence and f"; licence of the weights published by that name: {licence}"


def check_backbone(name: str, *sizes: int, num_heads: int | None = None, layer: int | None = None,
                   facet: str = "token") -> None:
    """Whether a backbone can be read with so many heads, such tokens be taken, and pictures of these sides be cut.

    Raises ValueError in the words of `load_backbone`; asks for no weights.
    """
    name = canonical(name)
    vit, _ = _built(name, num_heads)
    block_of(name, vit, layer, facet)
    for side in sizes:
        _grid_of(name, vit.patch_embed.patch_size[0], side, side)


def _built(name: str, num_heads: int | None, architecture: str | None = None) -> tuple[nn.Module, int]:
    """An architecture, None: that of the name, read with so many heads, without weights (but for `bundled.random`); and
    its own heads."""
    weights_name, reading = READINGS.get(name, (name, None))
    if reading is not None and num_heads not in (None, reading):
        raise InputError(f"{name} means {weights_name} read with {reading} attention heads, so num_heads={num_heads} "
                         f"says two things at once: take {weights_name!r} with num_heads, or {name!r} without.")
    architecture = architecture or look_up(weights_name)[0]
    build = partial(_empty_vit, architecture, name) if architecture else partial(_own_vit, name)
    vit = build()
    own = heads_of(vit)
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
    `positions`, `layer`, `facet`, `statistics` (mean and std that pictures are normalised by), `weights_path` (None:
    drawn), `weights_sha256` (of that file, or of the tensors), `description`.
    """

    def __init__(self, vit: nn.Module, *, name: str, image_size: int | None, mean: Sequence[float],
                 std: Sequence[float], weights_sha256: str, description: str, positions: str = "dino",
                 weights_path: Path | None = None, layer: int | None = None, facet: str = "token"):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.name, self.image_size = name, image_size
        self.layer, self.facet, self._block = layer, facet, block_of(name, vit, layer, facet)
        self.statistics = (tuple(mean), tuple(std))
        self.dim, self.patch_size = width_of(vit, self._block, facet), vit.patch_embed.patch_size[0]
        self.num_heads = heads_of(vit)
        self.weights_sha256, self.description = weights_sha256, description
        self.positions = "antialiased" if positions == "dino" and not is_plain(vit) else positions
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
        self._refuse(images)
        with torch.inference_mode():
            tokens = take(self.vit, (images - self.mean) / self.std, self.positions, self._block, self.facet)
        # autograd refuses tensors born in inference mode; a copy made outside it can feed a head that learns
        return tokens.clone()

    def attention(self, images: Tensor, block: int = -1) -> Tensor:
        """Where the tokens of one block look, -1 the last: softmax(q k^T / sqrt(d / heads)), by head.

        images as for `forward` -> (b, heads, prefix + n, prefix + n), rows sum to one; class and register tokens first.
        """
        self._refuse(images)
        block %= len(self.vit.blocks)
        refuse_unlike(self.name, self.vit.blocks[block])
        with torch.inference_mode():
            weights = attention_weights(self.vit, (images - self.mean) / self.std, self.positions, block)
        return weights.clone()

    def _refuse(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(f"images must be floating point in [0, 1] of shape (b, 3, h, w), "
                             f"not {images.dtype} of shape {tuple(images.shape)}.")
        _grid_of(self.name, self.patch_size, *images.shape[-2:])


def _empty_vit(architecture: str, name: str, **changes: int) -> nn.Module:
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import PatchEmbed, VisionTransformer

    # an empty global_pool keeps the final norm on the tokens, where pooling models move it behind the mean; on "meta"
    # nothing is allocated or drawn, so that loading leaves the global random numbers alone
    vit = None
    for more in ({"weight_init": "skip"}, {}):                    # which an Eva does not take
        try:
            with torch.device("meta"):
                vit = timm.create_model(architecture, num_classes=0, global_pool="", dynamic_img_size=True, **more,
                                        **changes)
            break
        except (TypeError, AssertionError):                       # other families do not take these arguments
            continue
    if type(vit) not in (VisionTransformer, Eva) or type(vit.patch_embed) is not PatchEmbed:
        raise InputError(f"{name!r} is no plain vision transformer, with learned or rotary positions (timm's "
                         f"VisionTransformer or Eva), which is what gives tokens here; try one of "
                         f"{', '.join(BACKBONES)}.")
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
