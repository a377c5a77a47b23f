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


def log_scores(features: Tensor, size: Sequence[int], readouts: Sequence[nn.Module]) -> Tensor:
    """Features (b, r, rows, columns) -> log-probabilities of s read-outs at `size` (h, w): (b, s, c, h, w) floating."""
    features = F.interpolate(features, size, mode="bilinear", align_corners=False)  # (b, r, h, w)
    features = features.permute(0, 2, 3, 1)  # (b, h, w, r)
    scores = torch.stack([probe.log_probabilities(features) for probe in readouts], dim=1)  # (b, s, h, w, c)
    return scores.permute(0, 1, 4, 2, 3)


@torch.no_grad()
def read_out(images: Tensor, features: Tensor, readouts: Sequence[nn.Module], *, crf: bool = False,
             iterations: int = 10, backend: str = "torch", picture: str = "rgb") -> dict[bool, Tensor]:
    """The same masks from features (b, r, rows, columns), see `predict`."""
    scores = log_scores(features, images.shape[2:], readouts)  # (b, s, c, h, w)
    masks = {False: scores.argmax(dim=2)}  # (b, s, h, w)
    if crf:
        masks[True] = dense_crf(images, scores, iterations=iterations, backend=backend, picture=picture).argmax(dim=2)
    return masks
