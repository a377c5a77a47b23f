"""Whatever somebody brings as a picture, as one tensor; a device by name; and a mask as a file."""

import io
import os
import stat
from contextlib import suppress
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
        torch.zeros(1, device=found).cpu()  # that it can be named says little
        return found
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError, TypeError, ...
        raise RunError(f"device '{device}' cannot be used here ({' '.join(str(error).split())[:100]}): take \"auto\", "
                       "or \"cpu\".") from error


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
    image = io.BytesIO(image) if isinstance(image, (bytes, bytearray, memoryview)) else image
    if isinstance(image, Image.Image) or hasattr(image, "read"):
        with suppress(AttributeError, OSError):  # of what has no number, as BytesIO
            if not stat.S_ISREG(os.fstat(image.fileno()).st_mode):
                raise InputError("This picture is a pipe, a socket or a device, which may be waited for without end: "
                                 "read it to its end, and give the bytes.")
        try:
            return to_tensor(to_rgb(image if isinstance(image, Image.Image) else Image.open(image)))
        except Refusal:
            raise
        except Exception as error:  # of a decoder: OSError, SyntaxError, EOFError, struct.error, ...
            raise InputError(f"This picture cannot be read ({type(error).__name__}): give a whole file, such as a JPEG "
                             "or a PNG.") from error
    last = isinstance(image, np.ndarray)
    if last and image.dtype.kind in "bfu":  # into memory of its own: views may be turned round or read-only
        kind = np.float32 if image.dtype.kind == "f" else image.dtype.newbyteorder("=")
        image = torch.from_numpy(np.array(image, dtype=kind, order="C"))
    shape = tuple(getattr(image, "shape", ()))
    fits = [len(shape) in (2, 3) and (len(shape) == 2 or shape[axis] in (1, 3, 4)) for axis in (0, -1)]
    if not isinstance(image, Tensor) or not any(fits) or not (
            image.dtype in (torch.uint8, torch.bool) or image.is_floating_point()):
        what = f"{shape} of {image.dtype}" if hasattr(image, "dtype") else type(image).__name__
        raise InputError(f"Segmenter takes {TAKEN}, not {what}.")
    image = image.to(torch.uint8) * 255 if image.dtype == torch.bool else image
    if image.ndim == 3 and fits[1] and (last or not fits[0]):
        image = image.permute(2, 0, 1)
    image = image.expand(3, *image.shape[-2:]) if image.ndim == 2 or len(image) == 1 else image
    if image.dtype == torch.uint8:
        return image if len(image) == 3 else to_tensor(to_rgb(Image.fromarray(
            np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()), "RGBA")))
    _refuse_range(image := image.float())
    return image if len(image) == 3 else image[:3] * image[3:] + (1 - image[3:])  # on white, as of files


def _refuse_range(image: Tensor) -> None:
    low, high = (float(bound) for bound in image.aminmax()) if image.numel() else (0.0, 1.0)
    if not (-SLACK <= low and high <= 1 + SLACK):
        way = "divide it by 255, or give it as uint8" if -SLACK <= low and high <= 256 else (
            "take its normalisation back (times std, plus mean), and replace what is not finite")
        raise InputError(f"Images are in [0, 1], and this one goes from {low:.4g} to {high:.4g}: {way}.")


def mask_ids(mask: Any, count: int) -> np.ndarray:
    """A mask as whole numbers (h, w) of its own type, ids below `count`; ValueError if it is none."""
    ids = mask.cpu().numpy() if isinstance(mask, Tensor) else mask
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
        what = f"{ids.shape} of {ids.dtype}" if isinstance(ids, np.ndarray) else type(ids).__name__
        raise InputError(f"A mask is whole numbers (h, w), not {what}: give one mask at a time.")
    if ids.min() < 0 or ids.max() >= count:
        raise InputError(f"This mask has ids from {ids.min()} to {ids.max()}, and this Segmenter has {count} classes: "
                         "give a mask of its own.")
    return ids


def mask_image(ids: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Ids (h, w) as a Pillow picture of them in the colours' palette; above 256 classes 16 bits of grey."""
    image = Image.fromarray(ids.astype(np.uint8 if len(colors) <= 256 else np.uint16, copy=False))
    if len(colors) <= 256:  # what a palette can hold
        image.putpalette(colors.tobytes())
    return image


def class_shares(ids: np.ndarray, count: int) -> np.ndarray:
    """Of each of so many classes its share of the ids (h, w): (c,) float64."""
    parts = np.array_split(ids, -(-ids.size // 2**22))  # bincount makes int64 of all that it is given
    return sum(np.bincount(part.reshape(-1), minlength=count) for part in parts) / ids.size


def overlay_image(ids: np.ndarray, colors: np.ndarray, picture: Tensor) -> Image.Image:
    """The colours of ids (h, w) half over their picture (3, h, w), uint8 or floating in [0, 1]."""
    if tuple(picture.shape[1:]) != ids.shape:
        raise InputError(f"The mask is {ids.shape[1]} x {ids.shape[0]} pixels and the picture {picture.shape[2]} x "
                         f"{picture.shape[1]}: give the picture that the mask is of.")
    mixed = np.empty((*ids.shape, 3), dtype=np.uint8)
    step = max(1, 2**22 // ids.shape[1])
    for rows in (slice(top, top + step) for top in range(0, len(ids), step)):  # a few megapixels at once
        part = picture[:, rows].detach().cpu()
        part = part if part.dtype == torch.uint8 else (part * 255).round().clamp(0, 255).to(torch.uint8)
        mixed[rows] = (part.permute(1, 2, 0).numpy().astype(np.uint16) + colors[ids[rows]]) // 2
    return Image.fromarray(mixed)


def write_mask(ids: np.ndarray, colors: np.ndarray, path: str | Path, over: Any = None) -> Path:
    """Write ids (h, w) as an indexed PNG, or their colours half over the picture `over`; see `Segmenter.save_mask`."""
    path = Path(path).expanduser()
    if path.suffix.lower() != ".png" and (over is None or path.suffix.lower() not in Image.registered_extensions()):
        raise InputError(f"{path} would not keep a mask as it is: give it a name that ends in .png.")
    image = mask_image(ids, colors) if over is None else overlay_image(ids, colors, picture_tensor(over))
    with whole(path, "the mask") as beside:
        image.save(beside)
    return path
