"""Weights files: read without running what is in them, every tensor accounted for, known by their SHA-256.

A pickle is a program. `torch.load(weights_only=True)` and safetensors build tensors and run nothing; what they refuse
is an error here that says what to do. Used for backbones and for the files that the authors of CAUSE released.
"""

import hashlib
import pickle  # for the error that torch raises, nothing else
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from cause_lib.errors import InputError, NotFound


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
    endless = [key for key, value in numbers.items() if not all_finite(value)]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", misshaped), ("not floating point", other),
             ("with numbers that are not finite", endless))
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
