"""Weights files: which one belongs to a name, where it is found, and how it is read without running what is in it.

A file is taken from `CAUSE_WEIGHTS`, from the user's cache of the hub, or from the hub. Architectures, addresses on the
hub, licences and statistics of pictures are timm's pretrained configs. What timm does not know is in backbones.json:

    BACKBONES   name -> timm's name, and how its weights were learned; each has its architecture's own number of heads
    HUB_SHA256  repository -> SHA-256 of model.safetensors, where the hub's page states it; as in book/data.md
    AUTHORS     name -> the file that its authors alone publish: the entry that holds the tensors is `inside`; on keys
                that are `unused` no token depends (the head of pre-training, the token of a masked patch)
    READINGS    name -> whose weights, read with so many heads: CAUSE's released code builds DINO's ViT-S with twelve
    SMALL       name of a ViT of ours -> how its description ends
    LICENCES    name -> the licence, where timm has none; empty where the authors' pages name none
"""

import difflib
import json
import os
import pickle  # for the error that torch raises, nothing else
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
import safetensors.torch
import torch
from torch import Tensor, nn

from cause_lib.errors import InputError, NotFound

# timm and huggingface_hub are imported where they are used: they take longer than torch.
_FACTS = json.loads(Path(__file__).with_name("backbones.json").read_text(encoding="utf8"))
BACKBONES, HUB_SHA256, READINGS = _FACTS["BACKBONES"], _FACTS["HUB_SHA256"], _FACTS["READINGS"]
AUTHORS = {name: SimpleNamespace(**published) for name, published in _FACTS["AUTHORS"].items()}
SMALL, LICENCES = _FACTS["SMALL"], _FACTS["LICENCES"]
BUNDLED, RANDOM = SMALL  # of one architecture; the second has seeded random weights, to compare with
BUNDLED_PATH = Path(__file__).with_name("bundled.safetensors")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
# Keys that no token depends on: classifiers, the norm after pooling, the token of a masked patch. Others are an error.
UNUSED_KEYS = ("head.", "head_dist.", "fc_norm.", "mask_token")


# --- from a name to its file ---

def weights_fingerprint(name: str) -> str:
    """What stands for the weights of `name` in an artefact's identity, without building the model.

    The SHA-256 (hex) of its weights file, or `random-seed0` for `bundled.random`, which has none; behind that of a name
    of `READINGS`, its heads. Fetches the file if it is nowhere yet; raises as `load_backbone`.
    """
    if name == RANDOM:
        return "random-seed0"
    weights_name, heads = READINGS.get(name, (name, None))
    sha256 = file_sha256(weights_path(weights_name))
    return sha256 if heads is None else f"{sha256}-{heads}heads"


def licence_of(name: str) -> str:
    """The licence of a backbone's weights as those who publish them name it, such as `apache-2.0`; "" if unknown."""
    name, _ = READINGS.get(name, (name, None))
    return LICENCES[name] if name in LICENCES else getattr(look_up(name)[1], "license", None) or ""


def look_up(name: str) -> tuple[str, Any, tuple, str]:
    """What is known of a backbone: its architecture in timm, "" for those of `SMALL`; timm's config of its weights, or
    None; mean and standard deviation of the pictures that it was trained on; and in words how it learned, or ""."""
    if name in SMALL:
        return "", None, ((0.5,) * 3, (0.5,) * 3), SMALL[name]
    if name in AUTHORS:
        return AUTHORS[name].architecture, None, AUTHORS[name].statistics, f", {AUTHORS[name].learned}"
    import timm

    timm_name, learned = BACKBONES.get(name, (name, ""))
    architecture = str(timm_name).split(".")[0]
    if not isinstance(name, str) or not timm.is_model(architecture):
        vits = [*BACKBONES, *AUTHORS, *READINGS, *SMALL, *timm.list_models(["vit_*", "deit*"])]
        near = difflib.get_close_matches(str(name), vits, n=3, cutoff=0.3) or [*BACKBONES][:3]
        raise InputError(f"There is no backbone {name!r}; the nearest names are {', '.join(near)}: take one.")
    config = timm.get_pretrained_cfg(timm_name) if timm.models.is_model_pretrained(timm_name) else None
    default = config or timm.get_pretrained_cfg(architecture)
    return architecture, config, (default.mean, default.std), learned and f", {learned}"


def weights_path(name: str) -> Path:
    """The weights file of `name`: from `CAUSE_WEIGHTS` (folder or file), the user's cache of the hub, or the hub."""
    if name == BUNDLED:
        return BUNDLED_PATH
    config, where, suffix = look_up(name)[1], os.path.expanduser(os.environ.get("CAUSE_WEIGHTS", "")), ".safetensors"
    if where:
        stems = _stems(name)
        paths = [Path(where) / (stem + end) for stem in stems for end in WEIGHT_SUFFIXES]
        if _stem(where) in stems or all(_stem(where) not in _stems(other) for other in (*BACKBONES, *AUTHORS)):
            paths.append(Path(where))  # a file is taken at its user's word, but not under another backbone's name
        if (own := next(filter(Path.is_file, paths), None)) is not None:
            return own
    if config is not None and config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        try:
            return _from_hub(config.hf_hub_id, file)
        except InputError:
            raise
        except Exception as error:  # the hub's clients raise a dozen kinds for "no network"
            fetch = f"fetch {file} from huggingface.co/{config.hf_hub_id} (here: {type(error).__name__})"
            suffix = Path(file).suffix
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
    return name.removesuffix(next(filter(name.endswith, WEIGHT_SUFFIXES), ""))


def _stems(name: str) -> list[str]:
    """How a weights file of `name` may be called: by our name, by timm's, and as its authors publish it."""
    config = look_up(name)[1]
    return [name, BACKBONES.get(name, (name,))[0], *([_stem(config.url)] if config is not None and config.url else [])]


def _from_hub(repository: str, file: str) -> Path:
    """The user's cached copy of a hub file, or fetched; ValueError if damaged, a warning if not that of HUB_SHA256."""
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        # ask once, briefly: without a network the hub's own client keeps trying for half a minute
        huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repository, file), timeout=5)
        path = huggingface_hub.hf_hub_download(repository, file)
    blob = Path(path).resolve()  # which the hub's cache names by the SHA-256 that the hub has for a large file
    if len(blob.name) == 64 and blob.name != file_sha256(blob):
        raise InputError(f"{blob} is damaged: its SHA-256 is not its name; delete it and try again.")
    if (wanted := HUB_SHA256.get(repository)) and (found := file_sha256(blob)) != wanted:
        warnings.warn(f"huggingface.co/{repository} has another file than it had (SHA-256 {found[:8]}... instead of "
                      f"{wanted[:8]}...), so numbers may differ from others': to be sure of it, put the file that you "
                      "mean into CAUSE_WEIGHTS.", stacklevel=4)
    return Path(path)


# --- from a file to tensors ---

def load_strictly(vit: nn.Module, path: Path, name: str) -> None:
    """Fill a backbone from a file, every key and shape accounted for; raises as `refuse_misfits`."""
    if name in AUTHORS:
        found = strip_prefixes(read_tensors(path, (AUTHORS[name].inside,)), ("module.", "backbone."), path)
        unused = (*UNUSED_KEYS, *AUTHORS[name].unused)
    else:
        found, unused = read_tensors(path, ("model", "state_dict")), UNUSED_KEYS  # MAE wraps its own in "model"
    found = {key: value for key, value in found.items() if not key.startswith(unused)}
    refuse_misfits(found, {key: tuple(value.shape) for key, value in vit.state_dict().items()}, path, name)
    vit.load_state_dict({key: value.float() for key, value in found.items()}, strict=True, assign=True)


def refuse_misfits(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path, what: str) -> None:
    """ValueError naming the file and the first keys that do not fit, by what is wrong with them."""
    known = {key: found[key] for key in expected if key in found}
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "of another shape": [f"{key} {tuple(value.shape)} instead of {expected[key]}" for key, value in known.items()
                             if tuple(value.shape) != expected[key]],
        "not floating point": [f"{key} of {value.dtype}" for key, value in known.items()
                               if not value.is_floating_point()],
        "with numbers that are not finite": [key for key, value in known.items() if not all_finite(value)],
    }
    if faults := [f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
                  for kind, keys in kinds.items() if keys]:
        raise InputError(f"{path} does not fit {what}: of its tensors, {'; '.join(faults)}; put one there that does.")


def all_finite(value: Tensor) -> bool:
    """Whether a tensor, of whatever kind, has no NaN and no infinity."""
    # A sum, several times as fast, is finite only if all are; one that overflows is looked at in full.
    return not value.is_floating_point() or bool(value.sum().isfinite()) or bool(value.isfinite().all())


def strip_prefixes(state: Mapping[str, Tensor], prefixes: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """Keys without what wrapping put before them, such as `module.` for several GPUs; ValueError if two become one."""
    for prefix in prefixes:
        if twice := [key for key in state if key.startswith(prefix) and key.removeprefix(prefix) in state]:
            raise InputError(f"{path} holds both {twice[0]} and {twice[0].removeprefix(prefix)}: keep one of them.")
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def read_tensors(path: Path, wrappers: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a weights file, or those of its entry `wrappers`; whatever is beside that entry is left alone.

    Runs no code, as unpickling would: ValueError for more than tensors, numbers, texts and containers of them;
    FileNotFoundError for no file.
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
        neither = f", neither itself nor as {' or '.join(wrappers)}" if wrappers else ""
        raise InputError(f"{path} holds no state dict (names to tensors){neither}: save the state_dict() alone, "
                         "best as safetensors.")
    return state


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, computed once as long as it stays as it is."""
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache
def _sha256_of(path: Path, mtime_ns: int, size: int) -> str:
    return pooch.file_hash(str(path))
