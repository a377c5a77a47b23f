"""Pictures and labels: reading them from files, and the geometry that both share.

Resizing is DINO's evaluation transform, as STEGO and CAUSE use it: the short side becomes `size` by nearest
neighbour, then the centre square is cut out. The published code resizes with Pillow, whose nearest neighbour looks
up the pixel under the *centre* of the new one; torchvision calls that rule NEAREST_EXACT. Pictures, and never labels,
can be resized with antialias instead: bilinear, with a filter as wide as a new pixel.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"; Hamilton et al. 2022 (STEGO).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

VOID = 255  # what label files write where nobody said what it is; -1 in every tensor


def load_image(path: str | Path) -> Image.Image:
    """The picture at `path` as a person would see it: 8-bit RGB, upright.

    EXIF rotation is applied; grey-scale, palette, CMYK and 16-bit pictures are converted; transparency is laid on
    white.

    Raises FileNotFoundError if there is no such file, ValueError (naming it) if it cannot be decoded or has
    floating-point pixels.
    """
    return to_rgb(_open(path), name=f"'{path}'")


def to_rgb(picture: Image.Image, name: str = "this picture") -> Image.Image:
    """Any Pillow picture as 8-bit RGB, upright. Raises ValueError, with `name`, for floating-point pixels."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError(f"{name} has floating-point pixels, which have no agreed range: save it as 8-bit PNG")
    if picture.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert("RGB")


def load_label(path: str | Path, *, void: int = VOID) -> Tensor:
    """A label file (one channel of class ids, usually PNG) as int32 (h, w); `void` and 255 become -1.

    Raises FileNotFoundError if there is no such file, ValueError if it cannot be decoded or is not one channel.
    """
    picture = _open(path)
    if picture.mode not in ("1", "L", "P", "I") and not picture.mode.startswith("I;16"):
        raise ValueError(f"label '{path}' is a {picture.mode} picture: save it with one channel of class ids")
    label = torch.from_numpy(np.asarray(picture).astype(np.int32))  # (h, w); of a palette picture these are the ids
    return label.masked_fill((label == void) | (label == VOID), -1)


RESIZE = {  # name -> how torchvision resizes
    "nearest": {"interpolation": InterpolationMode.NEAREST_EXACT},
    "antialiased": {"interpolation": InterpolationMode.BILINEAR, "antialias": True},
}


def resize_and_crop(picture: Tensor, size: int, resize: str = "nearest") -> Tensor:
    """DINO's evaluation transform: short side to `size`, then the centre square.

    picture: (h, w) or (c, h, w), any dtype. resize: a key of `RESIZE`. Returns (size, size) or (c, size, size) of the
    same dtype. An image and its label of the same height and width get the same place, by nearest neighbour exactly the
    same source pixels. Small pictures are enlarged.
    """
    planes = picture if picture.ndim == 3 else picture[None]
    planes = F.resize(planes, [size], **RESIZE[resize])
    planes = F.center_crop(planes, [size])
    return planes if picture.ndim == 3 else planes[0]


def five_crop(picture: Tensor, ratio: float) -> tuple[Tensor, ...]:
    """Four corners and the centre, each `ratio` of every side (at least one pixel): five views of (..., h', w')."""
    height, width = (max(1, round(side * ratio)) for side in picture.shape[-2:])
    planes = picture if picture.ndim == 3 else picture[None]
    views = F.five_crop(planes, [height, width])
    return views if picture.ndim == 3 else tuple(view[0] for view in views)


def _open(path: str | Path) -> Image.Image:
    """The decoded picture at `path`, in whatever mode it was written."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no picture at '{path}'")
    try:
        picture = Image.open(path)
        picture.load()  # Pillow reads lazily: without this a truncated file would fail far from here
    except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error, zlib.error, ...
        raise ValueError(
            f"'{path}' cannot be read as a picture ({error}): replace the file or take it out of its folder"
        ) from error
    return picture
