"""Weights files: which one belongs to a name, where it is found, and how it is read without running what is in it.

Architectures, addresses on the hub, licences and statistics of pictures are timm's pretrained configs. A file is taken
from `CAUSE_WEIGHTS`, from the user's cache of the hub, or from the hub; two backbones have their authors' file alone.
A file is known by its SHA-256. Where the hub's page states it, another file is warned of: this holds whichever revision
of the repository it comes from, and for a file that somebody put there by hand too.

Unpickling runs code. `torch.load(weights_only=True)` and safetensors build tensors and run nothing; what they refuse is
an error that says what to do. The files that the authors of CAUSE released are read by the same functions.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pickle  # for the error that torch raises, nothing else
import warnings
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from cause_lib.errors import InputError, NotFound

# timm and huggingface_hub are imported where they are used: they take longer than torch.

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
    """A backbone that timm has no weights for: what its authors publish, and where in that file the backbone is."""

    architecture: str
    learned: str
    file: str
    source: str
    inside: str  # the entry of the file that holds the tensors
    unused: tuple[str, ...]  # keys that no token depends on: the head of pre-training, the token of a masked patch
    licence: str = ""  # empty where their pages name none


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

BUNDLED = "bundled"
BUNDLED_PATH = Path(__file__).with_name("bundled.safetensors")
RANDOM = "bundled.random"  # the same architecture with seeded random weights, to compare with
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
# Keys that a published file may carry and that no token depends on: classifiers, the norm after pooling, and the token
# that stands for a masked patch in pre-training. Any other key that does not fit is an error.
UNUSED_KEYS = ("head.", "head_dist.", "fc_norm.", "mask_token")


# --- from a name to its file ---

def weights_fingerprint(name: str) -> str:
    """What stands for the weights of `name` in an artefact's identity, without building the model.

    The SHA-256 (hex) of its weights file, or `random-seed0` for `bundled.random`, which has none; behind that of a name
    of `READINGS`, its heads. Fetches the file if it is nowhere yet; raises what `load_backbone` raises for names and
    missing files.
    """
    if name == RANDOM:
        return "random-seed0"
    weights_name, heads = READINGS.get(name, (name, None))
    sha256 = file_sha256(weights_path(weights_name))
    return sha256 if heads is None else f"{sha256}-{heads}heads"


def licence_of(name: str) -> str:
    """The licence of a backbone's weights as those who publish them name it, such as `apache-2.0`; "" if unknown."""
    if name in (BUNDLED, RANDOM):
        return "mit"
    weights_name, _ = READINGS.get(name, (name, None))
    config = look_up(weights_name)[1]
    return AUTHORS[weights_name].licence if weights_name in AUTHORS else (config and config.license) or ""


def look_up(name: str) -> tuple[str, Any, tuple, str]:
    """What is known of a backbone other than the bundled ones.

    Returns:
        Its architecture in timm; timm's config of its weights, None if timm has none; mean and standard deviation of
        the pictures that it was trained on; and in words how it learned, "" if unknown.
    """
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if name in AUTHORS:
        statistics = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        return AUTHORS[name].architecture, None, statistics, f", {AUTHORS[name].learned}"
    timm_name, learned = BACKBONES.get(name, (name, ""))
    if not isinstance(name, str) or not timm.is_model(timm_name.split(".")[0]):
        vits = [*BACKBONES, *AUTHORS, *READINGS, BUNDLED, RANDOM, *timm.list_models(["vit_*", "deit*"])]
        near = difflib.get_close_matches(str(name), vits, n=3, cutoff=0.3) or [*BACKBONES][:3]
        raise InputError(f"There is no backbone {name!r}; the nearest names are {', '.join(near)}: take one.")
    architecture = timm_name.split(".")[0]
    config = timm.get_pretrained_cfg(timm_name) if timm.models.is_model_pretrained(timm_name) else None
    default = config or timm.get_pretrained_cfg(architecture)
    return architecture, config, (default.mean, default.std), learned and f", {learned}"


def weights_path(name: str) -> Path:
    """The weights file of `name`: from `CAUSE_WEIGHTS` (folder or file), the user's cache of the hub, or the hub."""
    if name == BUNDLED:
        return BUNDLED_PATH
    config = look_up(name)[1]
    stems = [name, BACKBONES.get(name, (name,))[0]]
    if config is not None and config.url:
        stems.append(_stem(config.url))  # the authors' own file, named as they publish it
    where, suffix = os.environ.get("CAUSE_WEIGHTS", ""), ".safetensors"
    if where and Path(where).is_file():
        # a file is taken at its user's word, unless it bears the name of another backbone
        if _stem(where) in stems or _stem(where) not in _known_stems():
            return Path(where)
    elif where:
        paths = (Path(where) / (stem + end) for stem in stems for end in WEIGHT_SUFFIXES)
        if (own := next(filter(Path.is_file, paths), None)) is not None:
            return own
    if config is not None and config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        try:
            path = _from_hub(config.hf_hub_id, file)
        except Exception as error:  # the hub's clients raise a dozen kinds for "no network"
            fetch = f"fetch {file} from huggingface.co/{config.hf_hub_id} (here: {type(error).__name__})"
            suffix = Path(file).suffix
        else:
            return _checked(path, config.hf_hub_id)
    elif name in AUTHORS:
        fetch = f"fetch {AUTHORS[name].file}, which its authors publish at {AUTHORS[name].source}"
        suffix = AUTHORS[name].file.removeprefix(_stem(AUTHORS[name].file))
    else:
        fetch = f"timm publishes none of that name, so take a file of your own ({', '.join(WEIGHT_SUFFIXES)})"
    raise NotFound(f"No weights for {name!r}: {fetch}, put it as {name}{suffix} into the folder that the environment "
                   f"variable CAUSE_WEIGHTS names (now {where or 'not set'}), or go on with backbone='bundled'.")


def _stem(path: str | Path) -> str:
    """A file's name without the suffix of a weights file."""
    name = Path(path).name
    return name.removesuffix(next((end for end in (".pth.tar", *WEIGHT_SUFFIXES) if name.endswith(end)), ""))


@cache
def _known_stems() -> frozenset[str]:
    import timm

    timm_names = [timm_name for timm_name, _ in BACKBONES.values()]
    urls = [timm.get_pretrained_cfg(timm_name).url for timm_name in timm_names]
    return frozenset([*BACKBONES, *AUTHORS, *timm_names, *map(_stem, urls)])


def _from_hub(repository: str, file: str) -> Path:
    """The user's cached copy of a hub file, fetched (with a progress bar) where there is none.

    The hub's client goes on by itself where a connection is cut, in steps of 10 MiB (measured with huggingface_hub 2.4;
    a download that was killed starts anew), and checks the length of a file, not its bytes: see `_checked`.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    # ask once, briefly: without a network the hub's own client keeps trying for half a minute
    huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repository, file), timeout=5)
    return Path(huggingface_hub.hf_hub_download(repository, file))


def _checked(path: Path, repository: str) -> Path:
    """A hub file: ValueError if it is damaged, a warning if it is not the one whose SHA-256 is known."""
    blob = path.resolve()  # which the hub's cache names by the SHA-256 that the hub has for a large file
    if len(blob.name) == 64 and blob.name != file_sha256(blob):
        raise InputError(f"{blob} is damaged: its SHA-256 is not its name; delete it and try again.")
    wanted = HUB_SHA256.get(repository)
    if wanted is not None and (found := file_sha256(path)) != wanted:
        warnings.warn(f"huggingface.co/{repository} has another file than it had (SHA-256 {found[:8]}... instead of "
                      f"{wanted[:8]}...), so numbers may differ from others': to be sure of it, put the file that you "
                      "mean into CAUSE_WEIGHTS.", stacklevel=3)
    return path


# --- from a file to tensors ---

def load_strictly(vit: nn.Module, path: Path, name: str) -> None:
    """Fill a backbone from a file, every key and shape accounted for; raises as `refuse_misfits`."""
    if name in AUTHORS:
        found = strip_prefixes(read_tensors(path, (AUTHORS[name].inside,)), ("module.", "backbone."), path)
        unused = UNUSED_KEYS + AUTHORS[name].unused
    else:
        found, unused = read_tensors(path, ("model", "state_dict")), UNUSED_KEYS  # MAE wraps its own in "model"
    found = {key: value for key, value in found.items() if not key.startswith(unused)}
    refuse_misfits(found, {key: tuple(value.shape) for key, value in vit.state_dict().items()}, path, name)
    vit.load_state_dict({key: value.float() for key, value in found.items()}, strict=True, assign=True)


def refuse_misfits(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path, what: str) -> None:
    """None if all fit; ValueError naming the file and the first keys that do not.

    What does not fit is missing, unknown, of another shape, of another kind than floating point, or not finite.
    """
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    misshaped = [f"{key} {tuple(found[key].shape)} instead of {shape}"
                 for key, shape in expected.items() if key in found and tuple(found[key].shape) != shape]
    numbers = {key: found[key] for key in expected if key in found}
    other = [f"{key} of {value.dtype}" for key, value in numbers.items() if not value.is_floating_point()]
    nonfinite = [key for key, value in numbers.items() if not all_finite(value)]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", misshaped), ("not floating point", other),
             ("with numbers that are not finite", nonfinite))
    faults = [f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
              for kind, keys in kinds if keys]
    if faults:
        raise InputError(f"{path} does not fit {what}: of its tensors, {'; '.join(faults)}; put one there that does.")


def all_finite(value: Tensor) -> bool:
    """Whether a tensor, of whatever kind, has no NaN and no infinity."""
    # A sum, several times as fast, is finite only if all are; one that overflows is looked at in full.
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def strip_prefixes(state: Mapping[str, Tensor], prefixes: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """Keys without what wrapping put before them, such as `module.` for several GPUs; ValueError if two become one."""
    for prefix in prefixes:
        plain = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(plain) < len(state):
            twice = next(key for key in state if key.startswith(prefix) and key.removeprefix(prefix) in state)
            raise InputError(f"{path} holds both {twice} and {twice.removeprefix(prefix)}: keep the one that you mean.")
        state = plain
    return dict(state)


def read_tensors(path: Path, wrappers: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a weights file, or those of its entry `wrappers`; whatever is beside that entry is left alone.

    Never runs code: ValueError for a file that holds more than tensors, numbers, texts and containers of them.
    FileNotFoundError if there is no such file.
    """
    if not path.is_file():  # a pipe would be waited for, without end
        raise NotFound(f"{path} is no file: put a weights file there.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors (or is damaged) and is not opened, since unpickling runs "
                         f"code; save its state dict alone, best as safetensors.") from error
    except Exception as error:  # of a damaged file, unpickling and unpacking raise whatever they stumble over
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is no readable weights file ({reason}): fetch or save it again.") from error
    for wrapper in wrappers:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
            for key, value in state.items()):
        raise InputError(f"{path} holds no state dict (names to tensors)"
                         + (f", neither itself nor as {' or '.join(wrappers)}" if wrappers else "")
                         + ": save the model's state_dict() alone, best as safetensors.")
    return state


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, computed once as long as it stays as it is."""
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache
def _sha256_of(path: Path, mtime_ns: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
