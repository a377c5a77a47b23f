"""Other views of a picture: its colours altered, a part of it cut out, mirrored; and the views that are like one.

A view is a function of (images, indices) alone, so that its tokens can be cached (`Fitting.other`): each picture is
altered by random numbers of (seed, index). As published a view is drawn anew every epoch; here a seed stands for one
drawing, the same in every epoch and every run.

Photometric: torchvision's transforms, on pictures in [0, 1] before they are normalised. Geometric: the same window is
cut out of a picture, or of its map of tokens, and resampled bilinearly, so that the two stay on top of each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.runs.loop import seed_of


def photometric(images: Tensor, index: Tensor, *, brightness: float = 0.0, contrast: float = 0.0,
                saturation: float = 0.0, hue: float = 0.0, each: float = 1.0, jitter: float = 1.0, grey: float = 0.0,
                blur: float = 0.0, seed: int = 0) -> Tensor:
    """Pictures in other colours, and blurred; nothing moves. Made of torchvision's transforms, on values in [0, 1].

    The numbers of a picture are drawn from `seed` and its index, whatever batch it comes in.

    Args:
        images: (b, 3, h, w) floating in [0, 1]. index: (b,) int64.
        brightness, contrast, saturation: a factor is drawn from 1 - x to 1 + x; hue: a turn from -x to x, at most 0.5.
        each: probability of each of these four, which come in random order. jitter: probability of all together.
        grey: probability of a grey picture. blur: that of a Gaussian blur of 5 x 5 pixels, sigma from 0.1 to 2.
        seed: another one, other views.

    Returns:
        (b, 3, h, w), in [0, 1].

    Examples:
        >>> photometric(torch.rand(2, 3, 8, 8), torch.tensor([5, 7]), brightness=0.3, grey=0.2).shape
        torch.Size([2, 3, 8, 8])
    """
    from torchvision.transforms import v2  # takes as long to import as torch

    factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    parts = [v2.RandomApply([v2.ColorJitter(**{name: value})], each) for name, value in factors.items() if value]
    recolour = v2.RandomApply([v2.RandomOrder(parts or [v2.Identity()])], jitter)
    alter = v2.Compose([recolour, v2.RandomGrayscale(grey), v2.RandomApply([v2.GaussianBlur(5)], blur)])
    found = []
    with torch.random.fork_rng(devices=[]):  # all of it is drawn on the CPU
        for image, i in zip(images, index.tolist()):
            torch.default_generator.manual_seed(seed_of("photometric", seed, i))
            found.append(alter(image))
    return torch.stack(found).clamp(0, 1)


def nearest_views(means: Tensor, count: int) -> Tensor:
    """For mean tokens (views, d) the `count` others with the largest cosines: (views, count) int64."""
    unit, found = F.normalize(means, dim=-1), []
    for first, some in enumerate(unit.split(1024)):
        cosines = some @ unit.T  # (1024, views)
        cosines.diagonal(1024 * first).fill_(-2)
        found.append(cosines.topk(min(count, len(unit) - 1)).indices)
    return torch.cat(found)


def others_of(b: int, generator: torch.Generator) -> Tensor:
    """A random order of b views, in which one that stayed in its place gives way to the next: (b,) int64."""
    order = torch.randperm(b, generator=generator)
    return torch.where(order == torch.arange(b), (order + 1) % b, order)


def windows(index: Tensor, *, smallest: float = 1.0, largest: float = 1.0, flip: float = 0.0, seed: int = 0) -> Tensor:
    """A random square window of each picture: (b, 2, 3) on the indices' device, as `F.affine_grid` takes it.

    Args:
        index: (b,) int64, of each picture its number in the data set.
        smallest, largest: the share of a side that is kept lies between. flip: probability that it is mirrored.
    """
    draws = torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(seed_of("window", seed, i)))
                         for i in index.tolist()])  # (b, 4)
    side = smallest + (largest - smallest) * draws[:, 0]
    across, down = ((1 - side) * (2 * draws[:, i] - 1) for i in (1, 2))
    turned = torch.where(draws[:, 3] < flip, -side, side)
    none = torch.zeros_like(side)
    rows = torch.stack([turned, none, across, none, side, down], dim=1)
    return rows.unflatten(1, (2, 3)).to(index.device)


def cut(maps: Tensor, window: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Windows (b, 2, 3) of maps (b, c, h, w) floating, resampled bilinearly to `size`, None: (h, w)."""
    shape = [*maps.shape[:2], *(size or maps.shape[2:])]
    places = F.affine_grid(window.to(maps), shape, align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def cut_tokens(tokens: Tensor, window: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same of tokens (b, n, d) on a grid of rows and columns."""
    return cut(tokens.mT.unflatten(2, grid), window).flatten(2).mT


def altered(images: Tensor, index: Tensor, *, smallest: float = 1.0, largest: float = 1.0, flip: float = 0.0,
            seed: int = 0, **colours: float) -> Tensor:
    """`photometric`, then a window that is as large as the picture was: (b, 3, h, w)."""
    window = windows(index, smallest=smallest, largest=largest, flip=flip, seed=seed)
    return cut(photometric(images, index, seed=seed, **colours), window).clamp(0, 1)
