"""One picture at the working size, whole or in tiles, and its mask back at the picture's own size.

The short side is brought to the side of training and the long side keeps its proportion, both whole patches. Up to
`WHOLE` times as long as it is wide the backbone sees a picture whole. Beyond, since attention takes the square of the
patches, it sees square tiles that overlap by half; where they do, their features are averaged, weighted by how far a
patch is from its tile's ends. These features are read out, by the CRF too, in bands of two short sides; half a short
side more at each end is seen and cut off again.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.errors import InputError

WHOLE, LONGEST = 4, 256  # times its short side


def working_size(h: int, w: int, side: int, patch: int, *, squash: bool = False,
                 what: str = "This picture") -> list[int]:
    """Height and width in pixels to which a picture of h x w is brought; squash: a square, as VOC's tables want it.

    Raises ValueError, with `what`, for a picture without pixels or longer than `LONGEST` times its short side.
    """
    if not 0 < max(h, w) <= (max(h, w) if squash else LONGEST) * min(h, w):
        raise InputError(f"{what} is {w} x {h} pixels, and nothing longer than {LONGEST} times its short side is "
                         "segmented: cut it into pieces.")
    sides = (side, side) if squash else (old * side / min(h, w) for old in (h, w))
    return [max(1, round(new / patch)) * patch for new in sides]


def mask_of(small: Tensor, patch: int, features_of: Callable[[Tensor], Tensor],
            read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mask (h, w) of a picture at its working size.

    Args:
        small: (3, h, w) uint8, or floating in [0, 1].
        features_of: a picture (1, 3, h, w) floating -> features (1, r, rows, columns).
        read: a picture and its features -> mask (h, w).
    """
    short, long = sorted(small.shape[1:])
    if long <= WHOLE * short:
        images = _floating(small)
        return read(images, features_of(images))
    axis, tile, length = 1 + int(small.shape[2] == long), short // patch, long // patch  # the latter in patches

    def part(of: Tensor, axis: int, first: int, count: int, unit: int = 1) -> Tensor:
        return of.narrow(axis, first * unit, count * unit)

    total, weights = None, torch.zeros(length, device=small.device)
    ramp = torch.arange(1.0, tile + 1, device=small.device)
    ramp = torch.minimum(ramp, ramp.flip(0))
    shape = [1, 1, 1, 1]
    shape[axis + 1] = -1
    for first in tile_starts(length, tile):
        features = features_of(_floating(part(small, axis, first, tile, patch)))  # (1, r, tile, tile)
        if total is None:
            total = features.new_zeros(1, features.shape[1], *(side // patch for side in small.shape[1:]))
        part(total, axis + 1, first, tile).add_(features * ramp.view(shape))
        weights[first:first + tile] += ramp
    total /= weights.view(shape)
    masks = []
    for first in range(0, length, 2 * tile):
        last = min(length, first + 2 * tile)
        low, high = max(0, first - tile // 2), min(length, last + tile // 2)
        mask = read(_floating(part(small, axis, low, high - low, patch)), part(total, axis + 1, low, high - low))
        masks.append(part(mask, axis - 1, first - low, last - first, patch))
    return torch.cat(masks, dim=axis - 1)


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover `length` from end to end, spread evenly, and overlap by half or a little more."""
    steps = -(-(length - tile) // max(1, tile // 2))
    return [i * (length - tile) // max(1, steps) for i in range(steps + 1)]


def at_size(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (h', w') of any whole numbers at `size`, each new pixel the one under its centre (nearest-exact)."""
    for axis in (1, 0):  # columns first: rows are then copied whole
        # F.interpolate finds the places, by one rounding for small sizes and by another for all others, as when it was
        # given the mask itself; but as floating point, which it wants, a large mask would fill the memory.
        places = torch.arange(mask.shape[axis], dtype=torch.float64).view(1, 1, *((-1, 1), (1, -1))[axis])
        thin = [min(256, other) for other in size]
        thin[axis] = size[axis]
        places = F.interpolate(places, size=thin, mode="nearest-exact")[0, 0].select(1 - axis, 0).long()
        mask = mask.index_select(axis, places)
    return mask


def _floating(small: Tensor) -> Tensor:
    images = small[None]
    return images.float() * (1 / 255) if images.dtype == torch.uint8 else images
