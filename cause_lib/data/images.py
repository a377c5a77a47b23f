"""Pictures and labels: reading them from files, and the geometry that both share.

Resizing is DINO's evaluation transform, as STEGO and CAUSE use it: the short side becomes `size` by nearest
neighbour, then the centre square is cut out. Each new pixel takes the pixel under its *centre*, torchvision's
NEAREST_EXACT. Pillow, as published, looks for the same place by adding up steps: their rounding moves some pixels by
one. Pictures, and never labels, can be resized with antialias: bilinear, with a filter as wide as a new pixel.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"; Hamilton et al. 2022 (STEGO).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cause_lib.errors import InputError, NotFound, Refusal

HEIC = (".heic", ".heif", ".hif")  # read with the package pillow-heif
RESIZE = {"nearest": "nearest-exact", "antialiased": "bilinear", "pillow": None}  # name -> torchvision's interpolation
TWELVE_BITS = 4096  # a 16-bit picture whose values all stay below was taken with 12 bits; below 256, with 8
ORIENTATION = 0x0112  # EXIF's number of it; 1: upright
BAND = 2**24  # pixels that are taken out of Pillow at once: it copies them twice
ELONGATED = 8  # times as long as it is short, from which on a picture is cut before it is resized


def load_image(path: str | Path) -> Image.Image:
    """The picture at `path` as a person would see it: 8-bit RGB, upright.

    EXIF rotation is applied; grey-scale, palette, CMYK and 16-bit pictures are converted; transparency becomes white.
    Of a 16-bit grey picture whose values all stay below 4096 these are 12 bits, below 256 they are 8: no black picture.
    Raises FileNotFoundError if there is no such file, ValueError if it cannot be decoded or has floating-point pixels.
    """
    def upright(picture: Image.Image, layout: str) -> Image.Image:
        rgb = to_rgb(picture, f"'{path}'")
        if re.search(r"(RGB|LA).*;16", layout) and max(high for _, high in rgb.getextrema()) < TWELVE_BITS >> 8:
            warnings.warn(f"'{path}' has 16 bits a colour and values below {TWELVE_BITS}, of which 4 bits are read: "
                          "save it with 8 bits", stacklevel=2)
        return rgb

    return read_picture(path, upright)


def to_rgb(picture: Image.Image, name: str = "this picture") -> Image.Image:
    """Any Pillow picture as 8-bit RGB, upright; itself if it is. ValueError, with `name`, for floating pixels."""
    if picture.getexif().get(ORIENTATION, 1) != 1:  # Pillow copies what needs no turning, too
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise InputError(f"{name} has floating-point pixels, which have no agreed range: save it as 8-bit PNG")
    if picture.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        values = np.asarray(picture).clip(0, 65535)
        step = 1 if values.max() < 256 else 16 if values.max() < TWELVE_BITS else 257
        picture = Image.fromarray((values // step).astype(np.uint8))
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def load_stored(path: str | Path, in_color: bool = False) -> np.ndarray:
    """The values of a label file as they are stored: int32 (h, w), or of a picture in colour uint8 (h, w, 3).

    in_color: of grey and palette pictures, their colours. Raises FileNotFoundError if there is no such file, ValueError
    if it cannot be decoded, or has neither one channel nor colours.
    """
    # Pillow spreads grey of 2 or 4 bits over 0 to 255, and says so in the layout that it reads.
    picture, bits, pages = read_picture(path, lambda picture, layout: (
        picture, re.search(r"\bL;([24])", layout), getattr(picture, "n_frames", 1)))
    if pages > 1:
        raise InputError(f"label '{path}' has {pages} pages: save it as one picture, with one class id a pixel")
    if picture.mode in ("RGBA", "LA") and picture.getextrema()[-1][0] < 255:
        raise InputError(f"label '{path}' has transparent pixels, whose class nobody knows: save it without "
                         "transparency, as class ids or colours")
    picture = picture.getchannel("L") if picture.mode == "LA" else picture
    if picture.mode in ("RGB", "RGBA") or in_color and picture.mode in ("1", "L", "P"):
        return np.asarray(picture.convert("RGB"))
    if picture.mode == "F" and (whole := np.asarray(picture)).size and (whole == whole.round()).all():
        return whole.clip(-2, 1 << 30).astype(np.int32)  # as programs for maps save ids
    if picture.mode not in ("1", "L", "P", "I") and not picture.mode.startswith("I;16"):
        raise InputError(f"label '{path}' is a {picture.mode} picture: save it with one channel of class ids")
    stored = np.asarray(picture).astype(np.int32)  # of a palette picture these are the ids
    return stored // {"2": 85, "4": 17}[bits[1]] if bits else stored


def is_turned(path: Path) -> bool:
    """Whether a camera's mark (EXIF) says that the picture is to be turned by a quarter."""
    return read_picture(path, lambda picture, _: picture.getexif().get(0x0112, 1)) > 4


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, h, w)."""
    w, h = picture.size
    pixels = np.empty((h, w, 3), dtype=np.uint8)
    rows = max(1, BAND // max(1, w))
    for top in range(0, h, rows):
        pixels[top:top + rows] = picture.crop((0, top, w, min(h, top + rows))) if rows < h else picture
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resize_and_crop(picture: Tensor, size: int, resize: str = "nearest", *, squash: bool = False) -> Tensor:
    """DINO's evaluation transform: short side to `size`, then the centre square. Small pictures are enlarged.

    picture: (h, w) or (c, h, w), any dtype. resize: a key of `RESIZE`. squash: both sides to `size`, nothing cut.
    Returns (size, size) or (c, size, size) of the same dtype; an image and its label from the same places.
    """
    short, long = sorted(picture.shape[-2:])
    if resize == "pillow":
        sides = [(old, size if squash else int(size * old / short)) for old in picture.shape[-2:]]
        rows, columns = (pillow_places(*side)[round((side[1] - size) / 2):][:size] for side in sides)
        return picture[..., rows[:, None], columns]
    from torchvision.transforms.v2 import functional  # takes as long to import as torch

    planes = picture.reshape(-1, *picture.shape[-2:])
    if long > ELONGATED * short and not squash:  # else 20000 x 1 pixels would be enlarged to gigabytes, and then cut
        part = ELONGATED // 2 * short + (long - ELONGATED // 2 * short) % 2  # whose middle is the picture's middle
        planes = functional.center_crop(planes, [min(side, part) for side in planes.shape[-2:]])
    planes = resize_picture(planes, [size, size] if squash else [size], resize)
    return functional.center_crop(planes, [size]).reshape(*picture.shape[:-2], size, size)


def resize_picture(picture: Tensor, size: list[int], resize: str = "nearest") -> Tensor:
    """A picture (c, h, w), any dtype, at size [rows, columns] by a rule of `RESIZE`; [rows]: of the short side, not for
    `pillow`."""
    if resize == "pillow":
        rows, columns = map(pillow_places, picture.shape[-2:], size)
        return picture[..., rows[:, None], columns]
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.resize(picture, size, InterpolationMode(RESIZE[resize]), antialias=resize == "antialiased")


def pillow_places(old: int, new: int) -> Tensor:
    """Which of `old` pixels in a row each of `new` takes by Pillow's nearest neighbour: (new,) int64."""
    steps = np.full(new, old / new)
    steps[0] /= 2
    return torch.from_numpy(steps.cumsum().astype(np.int64))  # one after the other, rounding and all


@cache
def reads_heic() -> bool:
    """Whether the package pillow-heif is there, which is then set up to read HEIC."""
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
        return True
    return False


def read_picture(path: str | Path, convert: Callable[[Image.Image, str], Any], *, pixels: bool = True) -> Any:
    """What `convert` makes of the picture at `path` and the layout of its pixels in the file.

    pixels: decode them; else the header alone is read. Raises ValueError naming the file for whatever goes wrong.
    """
    if not Path(path).is_file():  # a pipe would be waited for, without end
        what = " (but a folder, a pipe, or a link to nothing)" if os.path.lexists(path) else ""
        way = ("addresses are not fetched, download it first" if re.match("https?:/", str(path)) else
               "put one there or take the name out")
        raise NotFound(f"there is no picture at '{path}'{what}: {way}")
    if Path(path).suffix.lower() in HEIC:
        reads_heic()
    try:
        with Image.open(path) as picture:
            layout = str([part[3] for part in picture.tile])
            if pixels:  # Pillow reads lazily: without this a truncated file would fail far from here
                picture.load()
            return convert(picture, layout)
    except Refusal:
        raise
    except Exception as error:  # of a decoder: OSError, SyntaxError, EOFError, struct.error, ...
        reason = " ".join(str(error).replace(repr(str(path)), "").split()) or type(error).__name__
        raise InputError(f"'{path}' cannot be read as a picture ({reason}): replace the file or take it out of its "
                         "folder") from error
