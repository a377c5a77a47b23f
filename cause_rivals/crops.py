"""TransFGU's classes, from class tokens of crops, and its soft pseudo-labels.

A box slides over the patch grid by half its side. Foreground is where the class token attends more than on average: a
box is a crop of the foreground if more than half of it is, and of the background if more than 80 % of it is not. Each
crop goes through the frozen backbone; k-means of their class tokens gives the classes.

Released code: damo-cv/TransFGU, commit ea49bcdb8ac3. Not followed: there boxes of an even number of patches are moved
by another rule, to fewer places; here all slide alike, and the last ends at the border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.errors import InputError
from cause_lib.probes import cosine_kmeans
from cause_lib.runs.features import open_dataset, read_batches
from cause_rivals.frozen import before_last, class_attention, class_token, class_tokens
from cause_rivals.run import Fitting
from cause_rivals.views import cut

TOGETHER = 64  # crops that the backbone sees at a time


def boxes_of(grid: tuple[int, int], sides: str) -> Tensor:
    """Sliding boxes of a grid of patches: (m, 4) int64, rows [top, bottom) and columns [left, right).

    Examples:
        >>> boxes_of((4, 4), "0.5")[:2].tolist()
        [[0, 2, 0, 2], [0, 2, 1, 3]]
    """
    found = []
    for side in map(float, sides.split()):
        spans = []
        for length in grid:
            long = max(1, min(length, round(side * length)))
            starts = sorted({*range(0, length - long + 1, max(1, long // 2)), length - long})
            spans.append([(start, start + long) for start in starts])
        found += [(*rows, *columns) for rows in spans[0] for columns in spans[1]]
    return torch.tensor(found)


def as_masks(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes (m, 4) as maps of zeros and ones: (m, rows, columns) float32."""
    inside = [(torch.arange(length) >= boxes[:, i:i + 1]) & (torch.arange(length) < boxes[:, i + 1:i + 2])
              for length, i in zip(grid, (0, 2))]
    return (inside[0][:, :, None] & inside[1][:, None]).float()


def as_windows(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes (m, 4) as windows (m, 2, 3), see views.py."""
    top, bottom, left, right = boxes.float().unbind(dim=1)
    none = torch.zeros_like(top)
    rows = [(right - left) / grid[1], none, (left + right) / grid[1] - 1,
            none, (bottom - top) / grid[0], (top + bottom) / grid[0] - 1]
    return torch.stack(rows, dim=1).unflatten(1, (2, 3))


@torch.no_grad()
def classes_of(fitting: Fitting) -> Tensor:
    """Centroids of the crops' class tokens, of length one: (k, d)."""
    settings, experiment = fitting.rival.settings, fitting.rival.experiment
    backbone, patch = fitting.features.backbone, fitting.features.backbone.patch_size
    source, side = (max(1, round(pixels / patch)) * patch
                    for pixels in (settings.source_side or experiment.image_size, settings.crop_side))
    grid, tokens, shares = (source // patch,) * 2, [], []
    boxes = boxes_of(grid, settings.box_sides)
    masks, spots = as_masks(boxes, grid).flatten(1), as_windows(boxes, grid)
    masks = (masks / masks.sum(dim=1, keepdim=True)).to(fitting.accelerator.device)  # (m, n)
    views = torch.arange(len(fitting.features)).split(experiment.batch_size)
    dataset = open_dataset(experiment, "train", source)
    for items in tqdm(read_batches(dataset, views, fitting.accelerator, experiment.num_workers), total=len(views),
                      desc="crops", leave=False):
        share = torch.ones(len(items["image"]), len(boxes), device=masks.device)
        if settings.boxes != "all":
            x, rotary = before_last(backbone, items["image"])
            attended = class_attention(backbone.vit, x, rotary).float().mean(dim=1)[:, -masks.shape[1]:]  # (b, n)
            share = (attended > attended.mean(dim=1, keepdim=True)).float() @ masks.T  # (b, m)
        kept = (share > 0.5) | (share < 0.2) & (settings.boxes == "apart")
        for some in kept.nonzero().split(TOGETHER):  # (crops, 2)
            crops = cut(items["image"][some[:, 0]], spots[some[:, 1].cpu()].to(masks.device), (side, side))
            tokens.append(class_tokens(backbone, crops))
        shares.append(share[kept])
    tokens, shares = torch.cat(tokens or [torch.empty(0, backbone.dim)]), torch.cat(shares)
    total = fitting.features.dataset.num_classes - settings.background
    parts = {True: settings.things, False: total - settings.things} if settings.boxes == "apart" else {True: total}
    found = []
    for foreground, k in parts.items():
        points = tokens[(shares > 0.5) == foreground]
        if k > 0 and len(points) == 0:
            raise InputError(f"No crop is of the {'fore' if foreground else 'back'}ground: set boxes to \"all\".")
        if k > 0:
            found.append(cosine_kmeans(points, k, generator=fitting.generator("classes", foreground)))
    fitting.notes["crops"] = len(tokens)
    return torch.cat(found)


def top_mass(x: Tensor, share: float = 0.8) -> Tensor:
    """Which entries of x (..., n), none below 0, make up that share of its sum, the largest first: (..., n) bool.

    Examples:
        >>> top_mass(torch.tensor([1.0, 6, 3]))
        tensor([False,  True,  True])
    """
    ordered, places = x.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = before < share * ordered.sum(dim=-1, keepdim=True)
    return torch.zeros_like(kept).scatter(-1, places, kept)


def soft_labels(vit: nn.Module, x: Tensor, rotary, centroids: Tensor, batch: int, n: int) -> Tensor:
    """Soft pseudo-labels of pictures by what the last block sees.

    Args:
        x, rotary: of `before_last`. centroids: (k, d), of any length. batch: gradients are divided by it. n: patches.

    Returns:
        (b, k, n), at least 0.
    """
    with torch.enable_grad():
        weights = class_attention(vit, x, rotary).detach().requires_grad_()  # (b, heads, m)
        cosines = F.normalize(class_token(vit, x, weights), dim=-1) @ F.normalize(centroids, dim=-1).T  # (b, k)
        each = torch.eye(len(centroids)).to(cosines)
        slope, = torch.autograd.grad((1 - cosines).sum(dim=0) / batch, weights, each, is_grads_batched=True)
    slope = slope.mean(dim=2)[..., -n:].transpose(0, 1)  # (b, k, n)
    attended = weights.detach().mean(dim=1)[:, None, -n:]  # (b, 1, n)
    gain = (-slope).clamp(min=0)
    return attended / attended.amax(dim=-1, keepdim=True) * (slope <= 0) + gain * top_mass(gain)


def soft_labels_of(fitting: Fitting, centroids: Tensor) -> Tensor:
    """Of all training views: (views, k, rows, columns) float16 on the CPU."""
    features, labels = fitting.features, []
    views = torch.arange(len(features)).split(fitting.rival.experiment.batch_size)
    for items in tqdm(features.pictures(views), total=len(views), desc="pseudo-labels", leave=False):
        x, rotary = before_last(features.backbone, items["image"])
        q = soft_labels(features.backbone.vit, x, rotary, centroids, fitting.rival.settings.gradient_batch,
                        features.grid[0] * features.grid[1])
        labels.append(q.half().cpu())
    return torch.cat(labels).unflatten(2, features.grid)
