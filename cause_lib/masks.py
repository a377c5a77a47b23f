"""From tokens to masks: the one path that judging (runs/judging.py) and `Segmenter` share.

    features   mean of the head's features of the picture and of its mirror image (`probes.mirror_mean`)
    scores     the log-probabilities of each read-out at features upsampled bilinearly
    mask       argmax over the clusters, of the scores as they are and of the dense CRF's marginals
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.crf import dense_crf, pictures_together

MANY = 2**24  # scores, beyond which they are not all made at once
_BAND = 2**19  # products that are compared together, of a read-out without CRF


def log_scores(features: Tensor, size: Sequence[int], readouts: Sequence[nn.Module], rows: int | None = None) -> Tensor:
    """Features (b, r, rows, columns) -> log-probabilities of s read-outs at `size` (h, w): (b, s, c, h, w) floating.

    As `scores_by_pixel`, up to rounding, but that no feature is upsampled: a pixel's f = sum_k w_k f_k is a mean of
    four patches', so its product with a centroid is that of the patches' products, and its length follows from theirs
    and their products with each other (`lengths`). Read-outs without `products` are asked pixel by pixel.
    """
    if not _linear(readouts):
        return scores_by_pixel(features, size, readouts, rows)
    products = _products(features, readouts)  # (b, s c, rows, columns)
    products = F.interpolate(products, size, mode="bilinear", align_corners=False)  # (b, s c, h, w)
    length = lengths(features, size)[:, None].clamp(min=1e-12)  # (b, 1, h, w)
    parts = [part if probe.sharpness is None else part * (probe.sharpness / length)
             for probe, part in zip(readouts, products.chunk(len(readouts), dim=1))]
    return torch.stack([F.log_softmax(part, dim=1) for part in parts], dim=1)


def _linear(readouts: Sequence[nn.Module]) -> bool:
    return all(hasattr(probe, "products") for probe in readouts)


def _products(features: Tensor, readouts: Sequence[nn.Module]) -> Tensor:
    """Products of features (b, r, rows, columns) with what s read-outs hold: (b, s c, rows, columns)."""
    patches = features.permute(0, 2, 3, 1)  # (b, rows, columns, r)
    return torch.cat([probe.products(patches) for probe in readouts], dim=3).permute(0, 3, 1, 2).contiguous()


def winners(features: Tensor, size: Sequence[int], readouts: Sequence[nn.Module]) -> Tensor:
    """The clusters with the largest of `log_scores`, (b, s, h, w) int64, for read-outs with `products`.

    Neither a pixel's length nor the softmax changes which product is the largest, so that neither is needed; and some
    rows after the others, what is compared stays in a core's cache.
    """
    products, b = _products(features, readouts), len(features)  # (b, s c, rows, columns)
    (h, w), s = size, len(readouts)
    wide = F.interpolate(products, (products.shape[2], w), mode="bilinear", align_corners=False)  # (b, s c, rows, w)
    above, share = _places(products.shape[2], h, features)
    below = (above + 1).clamp(max=products.shape[2] - 1)
    found = torch.empty(b, s, h, w, dtype=torch.int64, device=features.device)
    for rows in torch.arange(h, device=features.device).split(max(1, _BAND // (b * products.shape[1] * w))):
        band = torch.lerp(wide[:, :, above[rows]], wide[:, :, below[rows]], share[rows, None])  # (b, s c, rows, w)
        found[:, :, rows] = band.unflatten(1, (s, -1)).max(dim=2).indices
    return found


def lengths(features: Tensor, size: Sequence[int]) -> Tensor:
    """|f| of every pixel where features (b, r, rows, columns) are upsampled bilinearly to `size` (h, w): (b, h, w).

    With row weights p, q and column weights u, v of the patches around a pixel,
    |f|^2 = p^2 |u f00 + v f01|^2 + 2 p q (u f00 + v f01)(u f10 + v f11) + q^2 |u f10 + v f11|^2.
    """
    f = F.pad(features, (0, 1, 0, 1), mode="replicate").permute(0, 2, 3, 1)  # (b, rows + 1, columns + 1, r)
    above, below = f[:, :-1], f[:, 1:]
    own, down = (f * f).sum(dim=3), (above * below).sum(dim=3)
    right = (f[:, :, :-1] * f[:, :, 1:]).sum(dim=3)
    across = (above[:, :, :-1] * below[:, :, 1:]).sum(dim=3) + (above[:, :, 1:] * below[:, :, :-1]).sum(dim=3)
    (i, q), (j, v) = (_places(old, new, features) for old, new in zip(features.shape[2:], size))
    p, q, u = (1 - q)[:, None], q[:, None], 1 - v
    own = u * u * own[:, :, j] + 2 * u * v * right[:, :, j] + v * v * own[:, :, j + 1]  # (b, rows + 1, w)
    down = u * u * down[:, :, j] + u * v * across[:, :, j] + v * v * down[:, :, j + 1]  # (b, rows, w)
    square = p * p * own[:, i] + 2 * p * q * down[:, i] + q * q * own[:, i + 1]  # (b, h, w)
    return square.clamp(min=0).sqrt()


def _places(old: int, new: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of `new` pixels among `old` patches: the patch before each, and the weight of the next, (new,) both."""
    at = ((torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * (old / new) - 0.5).clamp(min=0)
    first = at.long()
    return first, at - first


def scores_by_pixel(features: Tensor, size: Sequence[int], readouts: Sequence[nn.Module],
                    rows: int | None = None) -> Tensor:
    """The same, each read-out asked at every pixel; of so many `rows` of h after the others, or of all at once."""
    features = F.interpolate(features, size, mode="bilinear", align_corners=False)  # (b, r, h, w)
    features = features.permute(0, 2, 3, 1)  # (b, h, w, r)
    bands = [features] if rows is None else features.split(rows, dim=1)
    scores = [torch.stack([probe.log_probabilities(band) for probe in readouts], dim=1) for band in bands]
    scores = torch.cat(scores, dim=2) if len(scores) > 1 else scores[0]  # (b, s, h, w, c)
    return scores.permute(0, 1, 4, 2, 3)


@torch.no_grad()
def read_out(images: Tensor, looks: Sequence[tuple[Tensor, Sequence[nn.Module]]], *, crf: bool = False,
             **settings: Any) -> dict[bool, Tensor]:
    """Masks of pictures by each read-out, without and, if asked, with the dense CRF.

    Pictures that share a lattice of the CRF, and all their read-outs, are computed together. Where the scores of these
    are many, those of one read-out after the other are made, some rows of the picture at once.

    Args:
        images: (b, 3, h, w) floating in [0, 1]; the masks have their size.
        looks: features (b, r, rows, columns) floating of the pictures' patches, and what is read out of them: modules
            with `log_probabilities`, (..., r) -> (..., c). The read-outs of all features are s.
        crf: return the masks of the dense CRF, too.
        settings: of the CRF: iterations, backend, picture, see `dense_crf`.

    Returns:
        {False: masks, True: masks with CRF}, each (b, s, h, w) int64 in [0, c), in the order of the read-outs.
    """
    (b, _, h, w), rows, parts = images.shape, None, []
    single = [(features, [probe]) for features, probes in looks for probe in probes]
    classes = single[0][1][0].log_probabilities(single[0][0][:1, :, 0, 0]).shape[-1]
    many = b * h * w * classes * len(single) > MANY
    if crf and b > (each := pictures_together(images)):
        parts, dim = [(images[i:i + each], [(features[i:i + each], probes) for features, probes in looks])
                      for i in range(0, b, each)], 0
    elif many and len(single) > 1:
        parts, dim = [(images, [one]) for one in single], 1
    elif many:
        rows = max(1, MANY // (8 * b * w * max(classes, looks[0][0].shape[1])))
    if parts:
        found = [read_out(*part, crf=crf, **settings) for part in parts]
        return {with_crf: torch.cat([masks[with_crf] for masks in found], dim) for with_crf in found[0]}
    scores, masks = [], []
    for features, probes in looks:
        linear = _linear(probes)
        scores += [log_scores(features, (h, w), probes, rows)] if crf or not linear else []  # (b, s, c, h, w)
        masks += [winners(features, (h, w), probes) if linear else scores[-1].argmax(dim=2)]  # (b, s, h, w)
    found = {False: torch.cat(masks, dim=1)}
    if crf:
        found[True] = dense_crf(images, torch.cat(scores, dim=1), **settings).argmax(dim=2)
    return found
