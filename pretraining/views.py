"""Pictures, drawn once, and the views of them that teacher and student see.

A picture gives one wide view, as it is, and a few narrow ones: squares cut out at random, mirrored half the time,
recoloured, with patches hidden in blobs. Boxes are kept, so that every patch of a narrow view knows its place in the
wide one (`places_in`).

Every random choice is drawn from (seed, update), so that a run that was killed sees the same views when it goes on. No
label is ever looked at.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import roi_align
from tqdm.auto import tqdm

from cause_lib.data import load_dataset
from cause_lib.runs.loop import generator_for
from cause_lib.runs.store import artefact_folder, is_complete, new_artefact, write_record


def draw_pictures(settings) -> np.ndarray:
    """The pictures of a run, uint8 (m, 3, h, w), drawn once and then read from its run_dir as they are needed."""
    dataset = load_dataset("scenes", settings.split, image_size=settings.image_size, limit=settings.pictures)
    size, key = settings.image_size, {"split": settings.split, "size": settings.image_size, "count": len(dataset),
                                      "data": dataset.fingerprint}
    folder = artefact_folder(settings.run_dir, "pictures", f"scenes-{settings.split}-{size}", key)
    if not is_complete(folder):
        started = time.time()
        with new_artefact(folder) as beside:
            pictures = np.lib.format.open_memmap(beside / "pictures.npy", mode="w+", dtype=np.uint8,
                                                 shape=(len(dataset), 3, size, size))
            loader = DataLoader(_Pictures(dataset), batch_size=None, num_workers=settings.num_workers)
            for i, picture in enumerate(tqdm(loader, desc="draw", leave=False)):
                pictures[i] = picture.numpy()
            pictures.flush()
            del pictures
            write_record(beside, key | {"seconds": round(time.time() - started, 2)})
    return np.load(folder / "pictures.npy", mmap_mode="r", allow_pickle=False)


class _Pictures(Dataset):
    """The pictures of a data set as uint8, nothing else of it."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return (self.dataset[index]["image"] * 255).round().byte()  # (3, h, w)


def views_for(pictures: np.ndarray, settings, step: int, device: torch.device) -> dict[str, Tensor]:
    """All that update `step` needs, on `device`; b pictures, s narrow views of each.

    Returns:
        wide: (b, 3, h, w) in [0, 1]. narrow: (s b, 3, h, w), the first b are one view of each picture, and so on.
        hidden: bool (s b, n). places: (s b, n, 2), where a patch of a narrow view lies in its wide view (`places_in`).
        wide_at (b, 2), narrow_at (s b, 2): int64, where a view is put among the ViT's positions.
    """
    generator, b = generator_for(settings, "views", step), settings.batch_size
    chosen = torch.randint(len(pictures), (b,), generator=generator).sort().values
    batch = torch.from_numpy(pictures[chosen.numpy()]).to(device, non_blocking=True)  # (b, 3, h, w)
    side = batch.shape[-1]
    wide, wide_box, wide_mirrored = cut(batch, (settings.wide_share * side, side), settings.wide_size, generator)
    cuts = [cut(batch, tuple(share * side for share in settings.narrow_share), settings.narrow_size, generator)
            for _ in range(settings.narrow_views)]
    narrow, box, mirrored = (torch.cat(parts) for parts in zip(*cuts))
    patch, s = settings.patch_size, settings.narrow_views
    grid, whole = settings.narrow_size // patch, settings.image_size // patch
    views = {
        "wide": wide, "narrow": recolour(narrow, settings.recolour, generator),
        "hidden": hide(s * b, grid, settings.hidden_share, generator),
        "places": places_in(box, mirrored, grid, wide_box.repeat(s, 1), wide_mirrored.repeat(s)),
        "wide_at": torch.randint(whole - settings.wide_size // patch + 1, (b, 2), generator=generator),
        "narrow_at": torch.randint(whole - grid + 1, (s * b, 2), generator=generator),
    }
    return {name: value.to(device, non_blocking=True) for name, value in views.items()}


def cut(pictures: Tensor, sides: tuple[float, float], size: int, generator: torch.Generator
        ) -> tuple[Tensor, Tensor, Tensor]:
    """A square out of every picture, at random; each pixel is the mean of 2 x 2 bilinear samples.

    Args:
        pictures: uint8 (b, 3, h, w), on any device. sides: its side in pixels, from, to. size: the side of the view.
        generator: of the CPU, so that every device cuts the same squares.

    Returns:
        views float32 (b, 3, size, size) in [0, 1], where the pictures are; on the CPU boxes float32 (b, 3) of top, left
        and side in pixels, and mirrored bool (b,).
    """
    b, _, h, w = pictures.shape
    unit = torch.rand(b, 3, generator=generator)
    side = (sides[0] + (sides[1] - sides[0]) * unit[:, 0]).floor().clamp(1, min(h, w))
    top, left = ((h - side + 1) * unit[:, 1]).floor(), ((w - side + 1) * unit[:, 2]).floor()
    mirrored = torch.rand(b, generator=generator) < 0.5
    corners = torch.stack([torch.arange(b), left, top, left + side, top + side], dim=1)  # (b, 5), picture first
    views = roi_align(pictures.float() / 255, corners.to(pictures.device), size, sampling_ratio=2, aligned=True)
    views = torch.where(mirrored[:, None, None, None].to(views.device), views.flip(-1), views)
    return views, torch.stack([top, left, side], dim=1), mirrored


def recolour(views: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Turn, fade, stretch and shift the colours of each view, all by one random 3 x 3 matrix about its mean grey.

    Args:
        views: (b, 3, h, w) in [0, 1]. strength: 0 leaves them as they are; at 1 hues turn all the way round.

    Returns:
        (b, 3, h, w) in [0, 1]; one in seven is grey.
    """
    b = len(views)
    turn, fade, grey, stretch, shift = torch.rand(5, b, 1, 1, generator=generator)
    angle = (turn * 2 - 1) * math.pi * strength
    about = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3 ** 0.5
    mean = torch.full((3, 3), 1 / 3)
    turned = angle.cos() * (torch.eye(3) - mean) + angle.sin() * about  # (b, 3, 3), rotation about the axis of greys
    saturation = torch.where(grey < 0.15 * min(strength * 2, 1), 0.0, 1 + (fade - 0.5) * 1.6 * strength)
    matrix = ((stretch - 0.5) * 0.9 * strength).exp() * (mean + saturation * turned)  # (b, 3, 3)
    matrix, shift = matrix.to(views.device), shift[..., None].to(views.device)
    middle = views.mean(dim=(1, 2, 3), keepdim=True)
    recoloured = torch.einsum("bij,bjhw->bihw", matrix, views - middle)
    return (recoloured + middle + (shift - 0.5) * 0.4 * strength).clamp(0, 1)


def hide(b: int, grid: int, share: float, generator: torch.Generator) -> Tensor:
    """Patches to hide from the student, in blobs: bool (b, grid^2).

    In one view of five none, in the others a share drawn evenly from 0 to 1.6 `share`, at most 0.85.
    """
    noise = F.interpolate(torch.randn(b, 1, grid // 2, grid // 2, generator=generator), (grid, grid), mode="bilinear")
    noise = (noise[:, 0] + 0.3 * torch.randn(b, grid, grid, generator=generator)).flatten(1)  # (b, n), blobs are low
    amount = (torch.rand(b, generator=generator) * 1.6 * share).clamp(max=0.85)
    amount = torch.where(torch.rand(b, generator=generator) < 0.8, amount, 0.0)
    return noise.argsort(dim=1).argsort(dim=1) < amount[:, None] * noise.shape[1]


def places_in(box: Tensor, mirrored: Tensor, grid: int, wide_box: Tensor, wide_mirrored: Tensor) -> Tensor:
    """Where the centres of a view's patches lie in another view of the same picture.

    Args:
        box, wide_box: (b, 3) top, left and side of the two views in the picture. mirrored, wide_mirrored: bool (b,).
        grid: patches along a side of the view.

    Returns:
        (b, n, 2), y and x in the other view, 0 to 1 from edge to edge; what lies outside is below 0 or above 1.
    """
    centres = (torch.arange(grid) + 0.5) / grid
    y, x = (axis.flatten() for axis in torch.meshgrid(centres, centres, indexing="ij"))  # (n,)
    x = torch.where(mirrored[:, None], 1 - x, x)  # (b, n)
    v = (box[:, :1] + y * box[:, 2:] - wide_box[:, :1]) / wide_box[:, 2:]
    u = (box[:, 1:2] + x * box[:, 2:] - wide_box[:, 1:2]) / wide_box[:, 2:]
    return torch.stack([v, torch.where(wide_mirrored[:, None], 1 - u, u)], dim=-1)
