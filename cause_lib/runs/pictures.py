"""Whatever somebody brings as a picture, as one tensor; a device by name; and a mask as a file."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cause_lib.data.images import load_image, to_rgb, to_tensor
from cause_lib.errors import InputError, Refusal, RunError
from cause_lib.runs.store import whole

TAKEN = ("a file, a folder, bytes, a Pillow picture, an array or a tensor (h, w), (h, w, 3) or (3, h, w), uint8 or "
         "floating in [0, 1], or a list of these")
SLACK = 1e-3  # beyond [0, 1], of rounding


def usable_device(device: str | torch.device | None) -> torch.device | None:
    """A device that works here: `auto` is the GPU where there is one, None stays None; RuntimeError for another."""
    if device is None:
        return None
    try:
        found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.zeros(1, device=found).tolist()
        return found
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, TypeError, ...
        reason = " ".join(str(error).split())[:100]
        raise RunError(f"device {str(device)!r} cannot be used here ({reason}): take \"auto\", or \"cpu\".") from error


def picture_tensor(image: Any) -> Tensor:
    """One picture as (3, h, w), RGB: uint8, or float32 in [0, 1] if it was brought floating.

    Args:
        image: a file's path (`~`: your home), its bytes or an open binary file, a Pillow picture, or an array or a
            tensor: (h, w), (h, w, 1), (h, w, 3), (h, w, 4) with opacity, or channels first, of uint8, bool or floating
            in [0, 1]. Where both orders fit, a tensor has its channels first, an array last.

    Raises:
        FileNotFoundError: no such file. ValueError: none of these; a damaged file; numbers beyond [0, 1].
    """
    if isinstance(image, (str, os.PathLike)):
        return to_tensor(load_image(Path(image).expanduser()))
    if isinstance(image, (bytes, bytearray, memoryview)) or hasattr(image, "read"):
        image = _decoded(image if hasattr(image, "read") else io.BytesIO(image))
    if isinstance(image, Image.Image):
        try:
            return to_tensor(to_rgb(image))
        except Refusal:
            raise
        except Exception as error:  # Pillow reads lazily: a file that is cut off ends here
            raise InputError(f"This picture cannot be read ({' '.join(str(error).split())}): open a whole file."
                             ) from error
    last = not isinstance(image, Tensor)
    if isinstance(image, np.ndarray) and image.dtype.kind in "bfu" and image.dtype.itemsize <= 16:
        kind = np.float32 if image.dtype.kind == "f" else image.dtype.newbyteorder("=")
        image = torch.from_numpy(np.array(image, dtype=kind, order="C"))  # of its own: views may be turned or read-only
    if not isinstance(image, Tensor):
        kind = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"Segmenter takes {TAKEN}, not {kind}.")
    image = image.detach().to(torch.uint8) * 255 if image.dtype == torch.bool else image.detach()
    planes = _planes(image, last)
    if image.dtype == torch.uint8:
        return planes if len(planes) == 3 else to_tensor(to_rgb(
            Image.fromarray(planes.permute(1, 2, 0).cpu().contiguous().numpy(), "RGBA")))
    planes = planes.float()
    _refuse_range(planes)
    return planes if len(planes) == 3 else planes[:3] * planes[3:] + (1 - planes[3:])  # on white, as of files


def _decoded(file: Any) -> Image.Image:
    try:
        picture = Image.open(file)
        picture.load()
        return picture
    except Exception as error:  # of a decoder: OSError, SyntaxError, EOFError, struct.error, ...
        raise InputError(f"These bytes cannot be read as a picture ({type(error).__name__}): give those of a whole "
                         "file, such as a JPEG or a PNG.") from error


def _planes(image: Tensor, last: bool) -> Tensor:
    """Channels first, three or four of them. last: whether channels come last where both orders fit."""
    shape, known = tuple(image.shape), (1, 3, 4)
    if image.ndim == 2:
        return image.expand(3, *shape)
    fits = image.ndim == 3 and (shape[0] in known, shape[2] in known)
    if not fits or not any(fits) or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(f"Segmenter takes {TAKEN}, not {shape} of {image.dtype}.")
    if fits[1] and (last or not fits[0]):
        image = image.permute(2, 0, 1)
    return image.expand(3, -1, -1) if len(image) == 1 else image


def _refuse_range(image: Tensor) -> None:
    low, high = (float(bound) for bound in image.aminmax()) if image.numel() else (0.0, 1.0)
    if -SLACK <= low and high <= 1 + SLACK:
        return
    way = "replace what is not finite" if not np.isfinite([low, high]).all() else (
        "divide it by 255, or give it as uint8" if low >= -SLACK and high <= 256 else
        "take its normalisation back (times std, plus mean), or cut it off at 0 and 1")
    raise InputError(f"Images are in [0, 1], and this one goes from {low:.4g} to {high:.4g}: {way}.")


def mask_ids(mask: Any, count: int) -> np.ndarray:
    """A mask as int64 (h, w) with ids below `count`; ValueError if it is none."""
    ids = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        what = f"{tuple(ids.shape)} of {ids.dtype}" if isinstance(ids, np.ndarray) else f"{type(ids).__name__}"
        raise InputError(f"A mask is whole numbers (h, w), as a Segmenter gives for one picture, not {what}: give one "
                         "mask at a time.")
    if ids.min() < 0 or ids.max() >= count:
        raise InputError(f"This mask has ids from {ids.min()} to {ids.max()}, and this Segmenter has {count} classes: "
                         "give a mask of its own.")
    return ids.astype(np.int64)


def write_mask(ids: np.ndarray, colors: np.ndarray, path: str | Path, over: Any = None) -> Path:
    """Write ids (h, w) as an indexed PNG, or their colours half over the picture `over`; see `Segmenter.save_mask`."""
    path = Path(path).expanduser()
    if over is not None:
        picture = to_uint8(picture_tensor(over)).permute(1, 2, 0).cpu().numpy()  # (h, w, 3)
        if picture.shape[:2] != ids.shape:
            raise InputError(f"The mask is {ids.shape[1]} x {ids.shape[0]} pixels and the picture {picture.shape[1]} x "
                             f"{picture.shape[0]}: give the picture that the mask is of.")
        image = Image.fromarray(((picture.astype(np.uint16) + colors[ids]) // 2).astype(np.uint8))
    elif path.suffix.lower() != ".png":
        raise InputError(f"{path} would not keep the ids of a mask as they are: give it a name that ends in .png.")
    elif len(colors) > 256:  # more than an indexed PNG holds
        image = Image.fromarray(ids.astype(np.uint16))
    else:
        image = Image.fromarray(ids.astype(np.uint8))
        image.putpalette(colors.tobytes())
    if path.suffix.lower() not in Image.registered_extensions():
        raise InputError(f"{path} has an ending that is no picture's: give it a name that ends in .png or .jpg.")
    with whole(path, "the mask") as beside:
        image.save(beside)
    return path


def to_uint8(image: Tensor) -> Tensor:
    """uint8 as it is, floating in [0, 1] times 255."""
    return image if image.dtype == torch.uint8 else (image * 255).round().clamp(0, 255).to(torch.uint8)
