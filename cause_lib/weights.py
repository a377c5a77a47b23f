"""Weights files: which one belongs to a name, where it is found, and how it is read without running what is in it.

A file is taken from `CAUSE_WEIGHTS`, from the user's cache of the hub, or from the hub. Architectures, addresses on the
hub, licences and statistics of pictures are timm's pretrained configs. What timm does not know is in backbones.json:

    BACKBONES   name -> timm's name, and how its weights were learned; each has its architecture's own number of heads
    ALIASES     pattern of a name on another hub -> the name that it stands for, see names.py
    HUB_SHA256  repository -> SHA-256 of model.safetensors, where the hub's page states it; as in book/data.md
    AUTHORS     name -> the file that its authors alone publish: the entry that holds the tensors is `inside`; on keys
                that are `unused` no token depends (the head of pre-training, the token of a masked patch)
    READINGS    name -> whose weights, read with so many heads: CAUSE's released code builds DINO's ViT-S with twelve
    SMALL       name of a ViT of ours -> how its description ends
    LICENCES    name -> the licence, where timm has none; empty where the authors' pages name none
    RESTRICTED  licence that is not for everything -> what a warning says of it
    RENAMES     pattern -> what it becomes: keys of transformers, and of the authors of DINOv2 and DINOv3, as timm's
"""

import argparse
import contextlib
import difflib
import json
import os
import pickle  # for the error that torch raises, nothing else
import re
import warnings
import zipfile
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
from cause_lib.names import canonical

# timm and huggingface_hub are imported where they are used: they take longer than torch.
_FACTS = json.loads(Path(__file__).with_name("backbones.json").read_text(encoding="utf8"))
BACKBONES, HUB_SHA256, READINGS = _FACTS["BACKBONES"], _FACTS["HUB_SHA256"], _FACTS["READINGS"]
AUTHORS = {name: SimpleNamespace(**published) for name, published in _FACTS["AUTHORS"].items()}
SMALL, LICENCES, RESTRICTED, RENAMES = (_FACTS[what] for what in ("SMALL", "LICENCES", "RESTRICTED", "RENAMES"))
BUNDLED, RANDOM = SMALL  # of one architecture; the second has seeded random weights, to compare with
BUNDLED_PATH = Path(__file__).with_name("bundled.safetensors")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
# Keys that no token depends on: classifiers, what comes after pooling, a masked patch's token. Others are an error.
UNUSED_KEYS = ("head.", "head_dist.", "fc_norm.", "attn_pool.", "mask_token", "masked_embed", "pooler.", "classifier.",
               "local_cls_norm.")
PARTS = ("model", "state_dict", "teacher", "target_encoder", "encoder", "module", "net", "backbone", "student")
FOLLOWERS = re.compile(r"teacher|target|ema|momentum")  # of two networks in one file, the one that is used afterwards
QKVB, PERIODS = "_qkvb", "rope_embed.periods"  # timm's suffix, and a key of DINOv3's authors
JOINED = {r"attn\.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"), r"mlp\.fc1": ("mlp.fc1_g", "mlp.fc1_x")}
CALLED = {r"gamma_(\d)$": r"ls\1.gamma", r"ls(\d)\.gamma$": r"gamma_\1", r"\.([qv])_bias$": r".\1_proj.bias",
          r"mlp\.fc1\.": "mlp.fc1_x."}
FIRST = re.compile(r"(.*?)(?:embeddings\.patch_embeddings(?:\.projection)?|patch_embed\.proj)\.(?:0\.)?weight")


# --- from a name to its file ---

def weights_fingerprint(name: str) -> str:
    """What stands for the weights of `name` in an artefact's identity, without building the model.

    The SHA-256 (hex) of its weights file, or `random-seed0` for `bundled.random`, which has none; behind that of a name
    of `READINGS`, its heads. Fetches the file if it is nowhere yet; raises as `load_backbone`.
    """
    if (name := canonical(name)) == RANDOM:
        return "random-seed0"
    weights_name, heads = READINGS.get(name, (name, None))
    sha256 = file_sha256(weights_path(weights_name))
    return sha256 if heads is None else f"{sha256}-{heads}heads"


def licence_of(name: str) -> str:
    """The licence of a backbone's weights as those who publish them name it, such as `apache-2.0`; "" if unknown."""
    name, _ = READINGS.get(canonical(name), (canonical(name), None))
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
        vits = [*BACKBONES, *AUTHORS, *READINGS, *SMALL, *timm.list_models(["vit_*", "deit*", "eva*"])]
        near = difflib.get_close_matches(str(name), vits, n=3, cutoff=0.3) or [*BACKBONES][:3]
        raise InputError(f"There is no backbone {name!r}; the nearest names are {', '.join(near)}: take one.")
    config = timm.get_pretrained_cfg(timm_name) if timm.models.is_model_pretrained(timm_name) else None
    default = config or timm.get_pretrained_cfg(architecture)
    return architecture, config, (default.mean, default.std), learned and f", {learned}"


def weights_path(name: str) -> Path:
    """The weights file of `name`: from `CAUSE_WEIGHTS` (folder or file), the user's cache of the hub, or the hub."""
    if (name := canonical(name)) == BUNDLED:
        return BUNDLED_PATH
    config, where, suffix = look_up(name)[1], os.path.expanduser(os.environ.get("CAUSE_WEIGHTS", "")), ".safetensors"
    if where:
        stems = _stems(name)
        paths = [Path(where) / (stem + end) for stem in stems for end in WEIGHT_SUFFIXES]
        paths += sorted(Path(where).glob(f"{name}_pretrain*.pth"))  # as DINOv3's authors call them, with a hash
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
            if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
                page = f"https://huggingface.co/{config.hf_hub_id}"
                raise NotFound(f"No weights for {name!r}: {page} gives {file} to those alone who are logged in and "
                               f"have accepted its licence ({licence_of(name) or 'see there'}): accept it there, "
                               "log in by `hf auth login` and try again, or go on with backbone='bundled'.") from error
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

def read_state(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """A backbone's tensors from a file, by timm's names as far as these need no architecture; and what was taken.

    The latter in words, of a file with more in it than one network, or with others' names; "" for a plain state dict.
    """
    if name in AUTHORS:
        return strip_prefixes(read_tensors(path, (AUTHORS[name].inside,)), ("module.", "backbone."), path), ""
    state, parts = read_part(path, PARTS)
    state, prefix = _of_one_network(state, path)
    found = _as_timm(state, path)
    taken = [*(f"entry {part}" for part in parts), *[f"keys below {prefix}"] * bool(prefix),
             *["names turned into timm's"] * (found.keys() != state.keys())]
    return found, ", ".join(taken)


def asked_for(architecture: str, state: Mapping[str, Tensor]) -> str:
    """The architecture that a file's biases ask for: timm has most of DINOv3's with those of query and value, and
    without."""
    import timm

    plain = architecture.removesuffix(QKVB)
    if not (architecture and timm.is_model(plain) and timm.is_model(plain + QKVB)):
        return architecture
    return plain + QKVB * any(map(re.compile(r"blocks\.\d+\.attn\.(q_bias|(q_proj|qkv)\.bias)").fullmatch, state))


def load_strictly(vit: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Fill a backbone from `read_state`, every key and shape accounted for; raises as `refuse_misfits`."""
    if "norm.weight" not in state and "fc_norm.weight" in state:  # timm's that pool, and norm the mean alone
        vit.norm = nn.Identity()
    unused = (*UNUSED_KEYS, *(AUTHORS[name].unused if name in AUTHORS else ()))
    expected = {key: tuple(value.shape) for key, value in vit.state_dict().items()}
    found = _as_expected({key: value for key, value in state.items() if not key.startswith(unused)}, expected)
    periods = found.pop(PERIODS, None) if hasattr(getattr(vit, "rope", None), "periods") else None
    positions, token = found.get("pos_embed"), found.get("cls_token")
    rows = expected.get("pos_embed", (0, 0, 0))
    if getattr(vit, "no_embed_class", False) and token is not None and positions is not None and (
            tuple(token.shape), tuple(positions.shape)) == ((1, 1, rows[2]), (1, rows[1] + 1, rows[2])):
        found |= {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}  # as timm keeps them
    refuse_misfits(found, expected, path, name)
    own = {key: value.to(torch.float32, copy=True) for key, value in found.items()}  # safetensors' are the file itself
    vit.load_state_dict(own, strict=True, assign=True)
    for module in vit.modules():  # what no file holds, such as the periods of rotary positions
        empty = {key: value for key, value in module.named_buffers(recurse=False) if value.is_meta}
        for key, value in empty.items():
            module.register_buffer(key, torch.zeros_like(value, device="cpu"), persistent=False)
        if empty:
            module.init_non_persistent_buffers()
    if periods is not None and not (periods.shape == vit.rope.periods.shape and torch.allclose(
            periods.float(), vit.rope.periods, rtol=2**-7)):  # published in bfloat16
        raise InputError(f"{path} does not fit {name}: the periods of its rotary positions ({PERIODS}) are others; put "
                         "one there that does.")


def _of_one_network(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """The keys below what stands before a ViT's first layer, such as `backbone.` or `module.`, without it; and it."""
    prefixes = [found[1] for key in state if (found := FIRST.fullmatch(key))] or [""]
    prefix, *others = [one for one in prefixes if FOLLOWERS.search(one)] or prefixes
    if others:
        raise InputError(f"{path} holds several networks ({', '.join(map(repr, prefixes))}): save one's state dict.")
    return {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}, prefix


def _as_timm(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keys by `RENAMES`. ValueError if two become one."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, ours in RENAMES.items():
            name = re.sub(pattern, ours, name)
        if name in found:
            raise InputError(f"{path} holds {name} twice, once as {key}: keep one of them.")
        found[name] = value
    return found


def _as_expected(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors joined, cut and called as an architecture of timm has them; what it does not miss stays as it is."""
    found = dict(state)
    for key in [key for key in expected if key not in state]:
        for pattern, parts in JOINED.items():
            names = [re.sub(pattern, part, key) for part in parts]
            if names[0] != key and len({tuple(found[one].shape) if one in found else one for one in names}) == 1:
                found[key] = torch.cat([found.pop(one) for one in names])
        for pattern, other in CALLED.items():
            if (name := re.sub(pattern, other, key)) != key and name in found:
                found[key] = found.pop(name)
        place = key.removesuffix("q_bias")
        if key != place and (whole := found.get(f"{place}qkv.bias")) is not None:  # of all three, where keys have none
            parts = (whole * found.get(f"{place}qkv.bias_mask", 1)).tensor_split(3)
            if not parts[1].any():
                found |= {f"{place}q_bias": parts[0], f"{place}v_bias": parts[2]}
                del found[f"{place}qkv.bias"]
                found.pop(f"{place}qkv.bias_mask", None)
    return found


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
    """The tensors of `read_part`."""
    return read_part(path, wrappers)[0]


def read_part(path: Path, wrappers: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a weights file, or of its entry named first in `wrappers`, and so on inwards; and these entries.

    Whatever is beside an entry is left alone. Runs no code, as unpickling would: ValueError for more than tensors,
    numbers, texts, `argparse.Namespace` (DINO's settings) and containers of them; FileNotFoundError for no file.
    """
    if not path.is_file():  # a pipe would be waited for, without end
        raise NotFound(f"{path} is no file: put a weights file there.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path), []
        settings = [argparse.Namespace] * bool(wrappers)  # which lie beside an entry
        with getattr(torch.serialization, "safe_globals", contextlib.nullcontext)(settings):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, unpickling and unpacking raise whatever they stumble over
        if (protocol := _protocol(path)) > 2:
            raise InputError(f"{path} is a pickle of protocol {protocol}, and without running code only protocol 2 is "
                             "read: save its state dict again by torch.save(state, path), or as safetensors."
                             ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise InputError(f"{path} holds more than tensors (or is damaged) and is not opened, since unpickling runs "
                             f"code; save its state dict alone, best as safetensors.") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is no readable weights file ({reason}): fetch or save it again.") from error
    taken: list[str] = []
    while isinstance(state, dict) and (inner := next((w for w in wrappers if isinstance(state.get(w), dict)), None)):
        state = state[inner]
        taken.append(inner)
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
            for key, value in state.items()):
        neither = f", neither itself nor as {' or '.join(wrappers)}" if wrappers else ""
        raise InputError(f"{path} holds no state dict (names to tensors){neither}: save the state_dict() alone, "
                         "best as safetensors.")
    return state, taken


def _protocol(path: Path) -> int:
    """Of a pickle, torch's or a plain one, the protocol; 0 for another file."""
    with contextlib.suppress(Exception), path.open("rb") as file:
        archive = zipfile.ZipFile(file) if zipfile.is_zipfile(file) else None
        inside = archive and next(name for name in archive.namelist() if name.endswith("data.pkl"))
        start = archive.read(inside) if archive else (file.seek(0), file.read(2))[1]
        return start[1] if start[0] == 0x80 and start[1] < 10 else 0
    return 0


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, computed once as long as it stays as it is."""
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_mtime_ns, stat.st_size)


@lru_cache
def _sha256_of(path: Path, mtime_ns: int, size: int) -> str:
    return pooch.file_hash(str(path))
