"""Dense conditional random field: a mask that follows the picture's edges (Kraehenbuehl and Koltun 2011).

    E(y) = sum_i -log p_i(y_i) + sum_{i<j} [y_i != y_j] ( w1 exp(-|p_i - p_j|^2 / 2 s1^2)
                                                        + w2 exp(-|p_i - p_j|^2 / 2 s2^2 - |I_i - I_j|^2 / 2 s3^2) )

p positions in pixels, I colours in 0..255; mean field, 10 iterations. Published settings: w1 = 3, s1 = 1 (Gaussian),
w2 = 4, s2 = 67, s3 = 3 (bilateral).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GAUSSIAN = {"sxy": 1, "compat": 3}
BILATERAL = {"sxy": 67, "srgb": 3, "compat": 4}


def crf_backends() -> tuple[str, ...]:
    """The backends that can be used here: `pydensecrf` where it is installed."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return ()
    return ("pydensecrf",)


@torch.no_grad()
def dense_crf(images: Tensor, log_probabilities: Tensor, *, iterations: int = 10,
              backend: str = "pydensecrf") -> Tensor:
    """Mean-field marginals of the dense CRF above.

    Args:
        images: (b, 3, h, w) floating in [0, 1].
        log_probabilities: (b, c, h, w) floating, the unary term's negative; need not be normalised.
        iterations: of mean field; 0 gives softmax(log_probabilities).
        backend: `pydensecrf`, the published path, on the CPU, a picture after the other.

    Returns:
        (b, c, h, w) float32 probabilities on the device of log_probabilities.

    Raises:
        ValueError: shapes do not agree, or the backend is unknown. RuntimeError: the backend is not installed.
    """
    if images.ndim != 4 or log_probabilities.ndim != 4 or images.shape[0] != log_probabilities.shape[0] \
            or images.shape[1] != 3 or images.shape[2:] != log_probabilities.shape[2:]:
        raise ValueError(f"dense_crf needs images (b, 3, h, w) and log_probabilities (b, c, h, w), "
                         f"not {tuple(images.shape)} and {tuple(log_probabilities.shape)}.")
    if backend != "pydensecrf":
        raise ValueError(f"Unknown CRF backend {backend!r}: there is 'pydensecrf'.")
    if backend not in crf_backends():
        raise RuntimeError("pydensecrf is not installed: `make book` builds it where there is a C++ compiler; "
                           "without it, set crf to False.")
    pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()  # (b, h, w, 3)
    unary = -log_probabilities.float().cpu().numpy()  # (b, c, h, w)
    marginals = np.stack([_pydensecrf(picture, energy, iterations) for picture, energy in zip(pixels, unary)])
    return torch.from_numpy(marginals).to(log_probabilities.device)


def _pydensecrf(picture: np.ndarray, energy: np.ndarray, iterations: int) -> np.ndarray:
    """picture (h, w, 3) uint8 and unary energy (c, h, w) float32 -> marginals (c, h, w) float32."""
    import pydensecrf.densecrf as densecrf

    c, h, w = energy.shape
    field = densecrf.DenseCRF2D(w, h, c)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(c, -1)))
    field.addPairwiseGaussian(**GAUSSIAN)
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(picture), **BILATERAL)
    return np.array(field.inference(iterations), dtype=np.float32).reshape(c, h, w)
