"""Frozen vision transformers: a picture in, one token a patch out.

An image (3, h, w) is cut into n = (h / patch)(w / patch) squares, and a pre-trained ViT f turns them into tokens

    T = LayerNorm(f(image))[prefix:]                                   # (n, d): class and register tokens dropped

which are the treatment T of the method (Eq. 1, 2). Architectures come from timm; weights come from a local file, the
user's cache or timm's hub (two backbones: from their authors' file alone), and always load strictly. Position
embeddings follow DINO's own resizing rule (Caron et al. 2021, `interpolate_pos_encoding`): bicubic, a scale factor with
an offset of 0.1, no antialias. With positions="antialiased" they are resized to the exact size, with antialias.
"""

import difflib
import hashlib
import os
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cause_lib.errors import InputError, NotFound
from cause_lib.weights import file_sha256, read_tensors, refuse_misfits, strip_prefixes

# name -> (timm's name, how its weights were learned). A weights file does not tell the number of attention heads: every
# ViT here has its architecture's own (six for ViT-S), which is what it was trained with.
BACKBONES = {
    "dino_vits16": ("vit_small_patch16_224.dino", "self-supervised by DINO on ImageNet"),
    "dino_vits8": ("vit_small_patch8_224.dino", "self-supervised by DINO on ImageNet"),
    "dino_vitb16": ("vit_base_patch16_224.dino", "self-supervised by DINO on ImageNet"),
    "dino_vitb8": ("vit_base_patch8_224.dino", "self-supervised by DINO on ImageNet"),
    "dinov2_vits14": ("vit_small_patch14_dinov2.lvd142m", "self-supervised by DINOv2 on LVD-142M"),
    "dinov2_vitb14": ("vit_base_patch14_dinov2.lvd142m", "self-supervised by DINOv2 on LVD-142M"),
    "mae_vitb16": ("vit_base_patch16_224.mae", "self-supervised by MAE on ImageNet"),
}


# SHA-256 of model.safetensors, where the hub's page of a repository states it (book/data.md has the same table).
HUB_SHA256 = {
    "timm/vit_small_patch8_224.dino": "e1b79616ce6d1b8dc3cc0d5952b6d0958356a189122882493e665d28f20654a0",
    "timm/vit_base_patch8_224.dino": "01be14b99784a4c0970a5703214513588daf27014e908ac7ea08967b7bd80f5f",
    "timm/vit_base_patch16_224.dino": "93181583427d6de3e18ab0e6ee4df35736cfc51a3c1bf9ae0e9b53b1316598dc",
    "timm/vit_base_patch14_dinov2.lvd142m": "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
}


class AuthorsFile(NamedTuple):
    """A backbone that timm has no weights for: what its authors publish, and where in that file the backbone is.

    `inside` is the entry of the file that holds the tensors, `unused` the keys that no token depends on: the projection
    head that pre-training needs, and the token that stands for a masked patch. `licence` is empty where their pages
    name none.
    """

    architecture: str
    learned: str
    file: str
    source: str
    inside: str
    unused: tuple[str, ...]
    licence: str = ""


AUTHORS = {
    "ibot_vitb16": AuthorsFile("vit_base_patch16_224", "self-supervised by iBOT on ImageNet", "checkpoint_teacher.pth",
                               "https://github.com/bytedance/ibot#pre-trained-models (ViT-B/16, backbone (t))",
                               "state_dict", ("head.", "masked_embed"), "apache-2.0"),
    "msn_vits16": AuthorsFile("vit_small_patch16_224", "self-supervised by MSN on ImageNet", "vits16_800ep.pth.tar",
                              "https://dl.fbaipublicfiles.com/msn/vits16_800ep.pth.tar",
                              "target_encoder", ("fc.", "pred.")),
}

# name -> (whose weights, read with so many attention heads). CAUSE's released code builds DINO's ViT-S with twelve, and
# its released heads were trained on what that gives.
READINGS = {"dino_vits8.released": ("dino_vits8", 12), "dino_vits16.released": ("dino_vits16", 12)}

POSITIONS = ("dino", "antialiased")
BUNDLED = "bundled"
BUNDLED_PATH = Path(__file__).with_name("bundled.safetensors")
RANDOM = "bundled.random"  # the same architecture with seeded random weights, to compare with
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
# Keys that a published file may carry and that no token depends on: classifiers, the norm after pooling, and the token
# that stands for a masked patch in pre-training. Any other key that does not fit is an error.
UNUSED_KEYS = ("head.", "head_dist.", "fc_norm.", "mask_token")


def load_backbone(name: str, image_size: int | None = None, *, num_heads: int | None = None,
                  positions: str = "dino", weights: str | Path | None = None) -> "Backbone":
    """Load a frozen vision transformer by name.

    Args:
        name: a key of `BACKBONES`, `AUTHORS` or `READINGS`, `bundled` (comes with the library), `bundled.random` (the
            same, untrained), or a timm ViT such as `vit_tiny_patch16_224`. After a dot follows timm's tag; a tag that
            timm does not know means a weights file of that name in the folder `CAUSE_WEIGHTS`.
        image_size: side in pixels of the square images to come; checked against the patch. None: not checked.
        num_heads: read the same weights with so many attention heads, each of width d / num_heads. None: its own.
        positions: how position embeddings are resized, see `resize_positions`.
        weights: read this file, whatever it is called. None: the one that belongs to the name, see `_weights_path`.

    Returns:
        A `Backbone` on the CPU, float32, in evaluation mode, its parameters without gradients.

    Raises:
        ValueError: an unknown name (the nearest are named), a size the patch does not divide, a number of heads that
            does not divide the width, a weights file that does not fit or that holds more than tensors.
        FileNotFoundError: no weights here and no network to fetch them.
    """
    if positions not in POSITIONS:
        raise InputError(f"positions must be one of {', '.join(POSITIONS)}, not {positions!r}.")
    weights_name, reading = READINGS.get(name, (name, None))
    if reading is not None and num_heads not in (None, reading):
        raise InputError(f"{name} means {weights_name} read with {reading} attention heads, so num_heads={num_heads} "
                         f"says two things at once: take {weights_name!r} with num_heads, or {name!r} without.")
    heads = reading if num_heads is None else num_heads
    if name in (BUNDLED, RANDOM):
        mean = std = (0.5, 0.5, 0.5)
        vit, own = _with_heads(_unfilled_vit if name == BUNDLED else _seeded_vit, heads, name)
        what = (f"a small vision transformer (patch 8, {len(vit.blocks)} blocks of width {vit.embed_dim}, "
                f"{_in_words(vit, own)})")
        if name == BUNDLED:
            path = Path(weights or BUNDLED_PATH)
            _load_strictly(vit, path, name)
            weights_sha256 = file_sha256(path)
            description = (f"{name}: {what}, taught by self-distillation on generated scenes, without labels; it comes "
                           f"with the library and knows no photographs.")
        else:
            path = None
            weights_sha256 = _sha256_of_tensors(vit.state_dict())
            description = f"{name}: {what} with seeded random weights, untrained."
    else:
        timm_name, published, learned = _architecture(weights_name)
        architecture = timm_name.split(".")[0]
        vit, own = _with_heads(partial(_empty_vit, architecture, name), heads, name)
        path = Path(weights or _weights_path(weights_name))
        _load_strictly(vit, path, name)
        weights_sha256 = file_sha256(path)
        if weights_name in AUTHORS:
            mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        else:
            config = timm.get_pretrained_cfg(timm_name if published else architecture)
            mean, std = config.mean, config.std
        description = (f"{name}: a vision transformer (patch {vit.patch_embed.patch_size[0]}, {len(vit.blocks)} blocks "
                       f"of width {vit.embed_dim}, {_in_words(vit, own)}){learned}; weights from {path.name}.")
    return Backbone(vit, name=name, image_size=image_size, mean=mean, std=std, weights_sha256=weights_sha256,
                    description=description, positions=positions, weights_path=path)


def weights_fingerprint(name: str) -> str:
    """What stands for the weights of `name` in an artefact's identity, without building the model.

    The SHA-256 (hex) of its weights file, or `random-seed0` for `bundled.random`, which has none; behind that of a name
    of `READINGS`, its heads. Fetches the file if it is nowhere yet; raises what `load_backbone` raises for names and
    missing files.
    """
    if name == RANDOM:
        return "random-seed0"
    weights_name, reading = READINGS.get(name, (name, None))
    sha256 = file_sha256(BUNDLED_PATH if name == BUNDLED else _weights_path(weights_name))
    return sha256 if reading is None else f"{sha256}-{reading}heads"


def licence_of(name: str) -> str:
    """The licence of a backbone's weights as those who publish them name it, such as `apache-2.0`; "" if unknown."""
    if name in (BUNDLED, RANDOM):
        return "mit"
    weights_name, _ = READINGS.get(name, (name, None))
    if weights_name in AUTHORS:
        return AUTHORS[weights_name].licence
    timm_name, published, _ = _architecture(weights_name)
    return (timm.get_pretrained_cfg(timm_name).license or "") if published else ""


class Backbone(nn.Module):
    """A frozen ViT that returns patch tokens.

    Attributes: `name`, `dim` (d), `num_heads`, `patch_size` (pixels), `image_size` (pixels, or None), `positions` (how
    they are resized), `weights_sha256` (of the file, however it is read), `weights_path` (that file, or None),
    `description` (one sentence).
    """

    def __init__(self, vit: VisionTransformer, *, name: str, image_size: int | None, mean: tuple, std: tuple,
                 weights_sha256: str, description: str, positions: str = "dino", weights_path: Path | None = None):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.name, self.image_size = name, image_size
        self.dim, self.num_heads, self.patch_size = vit.embed_dim, _heads(vit), vit.patch_embed.patch_size[0]
        self.weights_sha256, self.description, self.positions = weights_sha256, description, positions
        self.weights_path = weights_path
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._positions: dict[tuple, Tensor] = {}
        if image_size is not None:
            self._grid(image_size, image_size)

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
        grid = self._grid(*images.shape[-2:])
        with torch.inference_mode():
            tokens = self._tokens((images - self.mean) / self.std, grid)             # (b, n, d)
        # autograd refuses tensors born in inference mode; a copy made outside it can feed a head that learns
        return tokens.clone()

    def attention(self, images: Tensor, block: int = -1) -> Tensor:
        """Where the tokens of one block look: softmax(q k^T / sqrt(d / heads)), by head.

        Args:
            images: as for `forward`. block: which one, -1 the last.

        Returns:
            (b, heads, prefix + n, prefix + n), rows sum to one; class and register tokens come first.
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

    def _tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        vit = self.vit
        x = vit.patch_embed(images).flatten(1, 2)                                    # (b, n, d)
        prefix = [token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
        positions = self._position_embedding(grid, x)
        if vit.no_embed_class:                                                       # positions for patches only
            x = torch.cat([*prefix, x + positions], dim=1)                           # (b, prefix + n, d)
        else:
            x = torch.cat([*prefix, x], dim=1) + positions                           # (b, prefix + n, d)
        x = vit.norm(vit.blocks(vit.norm_pre(x)))
        return x[:, vit.num_prefix_tokens:]                                          # (b, n, d)

    def _position_embedding(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        key = (grid, like.device, self.vit.pos_embed.dtype)
        if key not in self._positions:
            if len(self._positions) >= 16:                                           # a folder of many sizes
                self._positions.clear()
            prefix = 0 if self.vit.no_embed_class else self.vit.num_prefix_tokens
            self._positions[key] = resize_positions(self.vit.pos_embed, self.vit.patch_embed.grid_size, grid, prefix,
                                                    rule=self.positions)
        return self._positions[key]

    def _grid(self, h: int, w: int) -> tuple[int, int]:
        patch = self.patch_size
        if h < patch or w < patch or h % patch or w % patch:
            good = [max(1, round(side / patch)) * patch for side in (h, w)]
            raise InputError(f"{self.name} cuts images into {patch} x {patch} patches, which do not tile "
                             f"{h} x {w} pixels; the nearest size that they tile is {good[0]} x {good[1]}.")
        return h // patch, w // patch


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 1, *,
                     rule: str = "dino") -> Tensor:
    """Position embeddings of one patch grid, resized to another.

    By DINO's rule the grid is sampled bicubically at scale (new + 0.1) / old, and that scale, not the ratio of the
    sizes, sets the sampling step; the released features were made this way. The antialiased rule is a picture
    library's: bicubic to the exact size, low-passed where the grid shrinks. At the native size neither changes
    anything at all.

    Args:
        positions: (1, prefix + old[0] old[1], d); the first `prefix` rows (class token) are kept as they are.
        old, new: rows and columns of the two patch grids. rule: `dino` or `antialiased`.

    Returns:
        (1, prefix + new[0] new[1], d)
    """
    if tuple(old) == tuple(new):
        return positions
    kept, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, tuple(old)).permute(0, 3, 1, 2)                   # (1, d, rows, columns)
    if rule == "antialiased":
        resized = F.interpolate(patches.float(), size=tuple(new), mode="bicubic", antialias=True)
    else:
        scale = tuple((to + 0.1) / of for to, of in zip(new, old))
        resized = F.interpolate(patches.float(), scale_factor=scale, mode="bicubic")
    return torch.cat([kept, resized.to(positions.dtype).flatten(2).transpose(1, 2)], dim=1)


def _architecture(name: str) -> tuple[str, bool, str]:
    """A name's timm name, whether timm has weights under it, and in words how those were learned (if known)."""
    if name in BACKBONES:
        timm_name, learned = BACKBONES[name]
        return timm_name, True, f", {learned}"
    if name in AUTHORS:
        return AUTHORS[name].architecture, False, f", {AUTHORS[name].learned}"
    if not isinstance(name, str) or not timm.is_model(name.split(".")[0]):
        vits = [*BACKBONES, *AUTHORS, *READINGS, BUNDLED, RANDOM, *timm.list_models("vit_*"),
                *timm.list_models("deit*")]
        near = difflib.get_close_matches(str(name), vits, n=3, cutoff=0.3) or [*BACKBONES][:3]
        raise InputError(f"There is no backbone {name!r}; the nearest names are {', '.join(near)}: take one.")
    return name, timm.models.is_model_pretrained(name), ""


def _with_heads(build: Callable[..., VisionTransformer], num_heads: int | None,
                name: str) -> tuple[VisionTransformer, int]:
    """A ViT from `build(num_heads=...)`, and how many heads it would have had by itself."""
    vit = build()
    own = _heads(vit)
    if num_heads is not None and (num_heads < 1 or vit.embed_dim % num_heads):
        raise InputError(f"{name} has tokens of width {vit.embed_dim}, which {num_heads} attention heads cannot share "
                         f"evenly: num_heads must divide it, as its own {own} do; give one that does, or none.")
    return (vit if num_heads in (None, own) else build(num_heads=num_heads)), own


def _in_words(vit: VisionTransformer, own: int) -> str:
    return f"{_heads(vit)} heads" + ("" if _heads(vit) == own else f" instead of its own {own}")


def _heads(vit: VisionTransformer) -> int:
    return next(module.num_heads for module in vit.modules() if hasattr(module, "num_heads"))


def _empty_vit(architecture: str, name: str, **changes: int) -> VisionTransformer:
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
        image_size: side in pixels that positions are made for. patch_size: a power of 2. dim, depth, num_heads: as in
            timm.
    """
    vit = VisionTransformer(img_size=image_size, patch_size=patch_size, embed_dim=dim, depth=depth, num_heads=num_heads,
                            num_classes=0, global_pool="", dynamic_img_size=True)
    steps = patch_size.bit_length() - 1
    widths = [3, *(dim // 6 * 2 ** i for i in range(steps))]  # 3, 32, 64, 128
    stem = [layer for of, to in zip(widths, widths[1:])
            for layer in (nn.Conv2d(of, to, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, to), nn.GELU())]
    vit.patch_embed.proj = nn.Sequential(*stem, nn.Conv2d(widths[-1], dim, 1))
    vit.pos_embed.data[:, 1:] = 0.3 * _waves(vit.patch_embed.grid_size, dim)
    return vit


def _unfilled_vit(**changes: int) -> VisionTransformer:
    """`small_vit` without numbers, for weights to come; nothing is drawn."""
    with torch.device("meta"):
        return small_vit(**changes)


def _seeded_vit(**changes: int) -> VisionTransformer:
    """`small_vit` by seed 0, whatever the number of heads; the global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return small_vit(**changes)


def _waves(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of row and column at dim // 4 wavelengths: (1, n, dim)."""
    frequencies = 100.0 ** -(torch.arange(dim // 4) / (dim // 4))
    y, x = torch.meshgrid(*(torch.arange(side).float() for side in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (y, x)]  # (n, dim // 4) each
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)[None]


def _sha256_of_tensors(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


# --- where weights are found ---

def _weights_path(name: str) -> Path:
    """The weights file of `name`: from `CAUSE_WEIGHTS` (folder or file), the user's cache of the hub, or the hub."""
    timm_name, published, _ = _architecture(name)
    config = timm.get_pretrained_cfg(timm_name) if published else None
    stems = [name, *([] if name in AUTHORS else [timm_name])]
    if config is not None and config.url:
        stems.append(_stem(config.url))                       # the authors' own file, named as they publish it
    where = os.environ.get("CAUSE_WEIGHTS", "")
    if where and Path(where).is_file():
        # a file is taken at its user's word, unless it bears the name of another backbone
        if _stem(where) in stems or _stem(where) not in _known_stems():
            return Path(where)
    elif where:
        for stem in dict.fromkeys(stems):
            for suffix in WEIGHT_SUFFIXES:
                if (path := Path(where) / (stem + suffix)).is_file():
                    return path
    suffix = ".safetensors"
    if config is not None and config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        try:
            path = _from_hub(config.hf_hub_id, file)
        except Exception as error:                            # the hub's clients raise a dozen kinds for "no network"
            fetch = f"fetch {file} from huggingface.co/{config.hf_hub_id} (here: {type(error).__name__})"
            suffix = Path(file).suffix
        else:
            return _as_published(_undamaged(path), config.hf_hub_id)
    elif name in AUTHORS:
        fetch = f"fetch {AUTHORS[name].file}, which its authors publish at {AUTHORS[name].source}"
        suffix = AUTHORS[name].file.removeprefix(_stem(AUTHORS[name].file))
    else:
        fetch = f"timm publishes none of that name, so take a file of your own ({', '.join(WEIGHT_SUFFIXES)})"
    raise NotFound(f"No weights for {name!r}: {fetch}, put it as {name}{suffix} into the folder that the "
                            f"environment variable CAUSE_WEIGHTS names (now {where or 'not set'}), or go on with "
                            "backbone='bundled'.")


def _stem(path: str | Path) -> str:
    """A file's name without the suffix of a weights file."""
    name = Path(path).name
    return name.removesuffix(next((end for end in (".pth.tar", *WEIGHT_SUFFIXES) if name.endswith(end)), ""))


@cache
def _known_stems() -> frozenset[str]:
    timm_names = [timm_name for timm_name, _ in BACKBONES.values()]
    return frozenset([*BACKBONES, *AUTHORS, *timm_names,
                      *(_stem(timm.get_pretrained_cfg(key).url) for key in timm_names)])


def _from_hub(repository: str, file: str) -> Path:
    """The user's cached copy of a hub file, fetched (with a progress bar) where there is none.

    The hub's client goes on by itself where a connection is cut, in steps of 10 MiB (measured with huggingface_hub 2.4;
    a download that was killed starts anew), and asks of a file that it has the right length, not the right bytes: those
    are the affair of `_undamaged`.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    # ask once, briefly: without a network the hub's own client keeps trying for half a minute
    huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repository, file), timeout=5)
    return Path(huggingface_hub.hf_hub_download(repository, file))


def _undamaged(path: Path) -> Path:
    # the hub's cache names the blob behind a large file by the SHA-256 that the hub has for it
    blob = path.resolve()
    if len(blob.name) == 64 and blob.name != file_sha256(blob):
        raise InputError(f"{blob} is damaged: its SHA-256 is not its name; delete it and try again.")
    return path


def _as_published(path: Path, repository: str) -> Path:
    """Warns of a hub file that is not the one whose SHA-256 is known: its owners may replace it, and numbers move."""
    wanted = HUB_SHA256.get(repository)
    if wanted is not None and (found := file_sha256(path)) != wanted:
        warnings.warn(f"huggingface.co/{repository} has another file than it had (SHA-256 {found[:8]}... instead of "
                      f"{wanted[:8]}...), so numbers may differ from others': to be sure of it, put the file that you "
                      "mean into CAUSE_WEIGHTS.", stacklevel=2)
    return path


def _load_strictly(vit: VisionTransformer, path: Path, name: str) -> None:
    """Fill `vit` from a file, every key and shape accounted for; raises as `refuse_misfits`."""
    if name in AUTHORS:
        found = strip_prefixes(read_tensors(path, (AUTHORS[name].inside,)), ("module.", "backbone."), path)
        unused = UNUSED_KEYS + AUTHORS[name].unused
    else:
        found, unused = read_tensors(path, ("model", "state_dict")), UNUSED_KEYS  # MAE wraps its own in "model"
    found = {key: value for key, value in found.items() if not key.startswith(unused)}
    refuse_misfits(found, {key: tuple(value.shape) for key, value in vit.state_dict().items()}, path, name)
    vit.load_state_dict({key: value.float() for key, value in found.items()}, strict=True, assign=True)
