"""The dense CRF at published settings against pydensecrf, which is compiled and uses one core, where it is installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Curve, Row
from cause_lib.crf import crf_backends, dense_crf

FORMS = {"ours": "torch"} | ({"pydensecrf": "pydensecrf"} if "pydensecrf" in crf_backends() else {})


def photograph(size: int, g: torch.Generator) -> Tensor:
    """Grain at every scale, mostly grey: (1, 3, h, w). It sets how many corners the lattice gets, about 0.6 a pixel here;
    photographs of CamVid and MSRC v2 have 0.36 to 1.07."""
    image, cells = torch.full((1, 3, size, size), 0.45), 2
    while cells <= size:
        grain = 0.3 * torch.randn(1, 3, cells, cells, generator=g) + torch.randn(1, 1, cells, cells, generator=g)
        image = image + 0.25 / cells**0.7 * F.interpolate(grain, (size, size), mode="bicubic")
        cells *= 2
    return image.clamp(0, 1)


def case(form: str, device: str, *, b: int, size: int, c: int, iterations: int) -> Callable[[], Tensor]:
    g = torch.Generator().manual_seed(0)
    images = torch.cat([photograph(size, g) for _ in range(b)]).to(device)
    coarse = torch.randn(b, c, -(-size // 16), -(-size // 16), generator=g)
    scores = F.interpolate(coarse, (size, size), mode="bilinear").log_softmax(dim=1).to(device)

    def run() -> Tensor:
        return dense_crf(images, scores, iterations=iterations, backend=FORMS[form]).amax(dim=1).mean()

    return run


def largest(*, b: int, size: int, c: int, **_: int) -> int:
    """The probabilities, of which a picture's six corners a pixel hold as many again."""
    return 4 * b * c * size**2 * 6


ROW = Row("dense CRF", case, tuple(FORMS), {"b": 1, "size": 320, "c": 27, "iterations": 10},
          {"b": 1, "size": 24, "c": 3, "iterations": 2}, largest)
ROWS = [ROW]
CURVES = [Curve(ROW, "c", (2, 8, 27, 81), (2, 4)), Curve(ROW, "size", (80, 160, 320), (16, 24))]
