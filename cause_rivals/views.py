"""Views of training pictures that methods hold against each other: altered ones, and the nearest others."""

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
    altered = []
    with torch.random.fork_rng(devices=[]):  # all of it is drawn on the CPU
        for image, i in zip(images, index.tolist()):
            torch.default_generator.manual_seed(seed_of("photometric", seed, i))
            altered.append(alter(image))
    return torch.stack(altered).clamp(0, 1)


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
