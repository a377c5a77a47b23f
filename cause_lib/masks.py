"""From tokens to masks: the one path that judging (runs/judging.py) and `Segmenter` share.

    features   mean of the head's features of the picture and of its mirror image, turned back and, if asked, smoothed
    scores     features upsampled bilinearly, then the log-probabilities of each read-out
    mask       argmax over the clusters, of the scores as they are and of the dense CRF's marginals
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.crf import dense_crf
from cause_lib.probes import mirror_mean

MANY = 2**24  # scores, beyond which they are not all made at once


@torch.no_grad()
def predict(images: Tensor, tokens: Tensor, mirrored: Tensor, grid: tuple[int, int], head: nn.Module | None,
            readouts: Sequence[nn.Module], *, smoothing: float = 0.0, crf: bool = False, iterations: int = 10,
            backend: str = "torch", picture: str = "rgb") -> dict[bool, Tensor]:
    """Masks of pictures by each read-out, without and, if asked, with the dense CRF.

    Args:
        images: (b, 3, h, w) floating in [0, 1]; the masks have their size.
        tokens, mirrored: (b, n, d) floating, of the pictures and of their mirror images.
        grid: rows and columns of the n patches.
        head: tokens (b, n, d) -> features (b, n, r). None: the tokens themselves are read out.
        readouts: s modules with `log_probabilities`, (..., r) -> (..., c).
        smoothing: temperature of `probes.smooth`; 0: none.
        crf: return the masks of the dense CRF, too.
        iterations, backend, picture: of the CRF, see `dense_crf`.

    Returns:
        {False: masks, True: masks with CRF}, each (b, s, h, w) int64 in [0, c).
    """
    features = mirror_mean(tokens, mirrored, grid, head, smoothing)  # (b, r, rows, columns)
    return read_out(images, features, readouts, crf=crf, iterations=iterations, backend=backend, picture=picture)


def log_scores(features: Tensor, size: Sequence[int], readouts: Sequence[nn.Module], rows: int | None = None) -> Tensor:
    """Features (b, r, rows, columns) -> log-probabilities of s read-outs at `size` (h, w): (b, s, c, h, w) floating;
    made of so many `rows` of h after the others, or of all at once."""
    features = F.interpolate(features, size, mode="bilinear", align_corners=False)  # (b, r, h, w)
    features = features.permute(0, 2, 3, 1)  # (b, h, w, r)
    bands = [features] if rows is None else features.split(rows, dim=1)
    scores = [torch.stack([probe.log_probabilities(band) for probe in readouts], dim=1) for band in bands]
    scores = torch.cat(scores, dim=2) if len(scores) > 1 else scores[0]  # (b, s, h, w, c)
    return scores.permute(0, 1, 4, 2, 3)


@torch.no_grad()
def read_out(images: Tensor, features: Tensor, readouts: Sequence[nn.Module], *, crf: bool = False,
             iterations: int = 10, backend: str = "torch", picture: str = "rgb") -> dict[bool, Tensor]:
    """The same masks from features (b, r, rows, columns), see `predict`.

    Where the scores of all read-outs are many, those of one after the other are made, some rows of the picture at once.
    """
    crf_settings = {"iterations": iterations, "backend": backend, "picture": picture}
    classes = readouts[0].log_probabilities(features[:1, :, 0, 0]).shape[-1]
    line, rows = len(images) * images.shape[3], None
    if line * images.shape[2] * classes * len(readouts) > MANY:
        if len(readouts) > 1:
            found = [read_out(images, features, [probe], crf=crf, **crf_settings) for probe in readouts]
            return {with_crf: torch.cat([masks[with_crf] for masks in found], dim=1) for with_crf in found[0]}
        rows = max(1, MANY // (8 * line * max(classes, features.shape[1])))
    scores = log_scores(features, images.shape[2:], readouts, rows)  # (b, s, c, h, w)
    masks = {False: scores.argmax(dim=2)}  # (b, s, h, w)
    if crf:
        masks[True] = dense_crf(images, scores, **crf_settings).argmax(dim=2)
    return masks
