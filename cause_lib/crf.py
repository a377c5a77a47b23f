"""Dense conditional random field: a mask that follows the picture's edges (Kraehenbuehl and Koltun 2011).

    E(y) = sum_i -log p_i(y_i) + sum_{i<j} [y_i != y_j] ( w1 K1_ij + w2 K2_ij ),   each K normalised as below
    K1_ij = exp(-|x_i - x_j|^2 / 2 s1^2),   K2_ij = exp(-|x_i - x_j|^2 / 2 s2^2 - |I_i - I_j|^2 / 2 s3^2)

x places in pixels, I colours in 0..255. Published settings: w1 = 3, s1 = 1 (Gaussian), w2 = 4, s2 = 67, s3 = 3
(bilateral). Mean field, 10 iterations of

    q_i <- softmax( log p_i + sum_k w_k (N_k K_k N_k q)_i ),   N_k = diag(K_k 1)^(-1/2)

where each K_k q, a Gaussian sum over all pixels, is one pass through a permutohedral lattice (kernels/lattice.py).

The energy knows no left and right, the lattice does: its cells are not their own mirror image, so a mirrored picture
with mirrored scores gives the mirrored mask but for a few pixels near a tie, of which ten iterations make a decision.
pydensecrf, the published path, does so too, at as many pixels; tests/unit/test_properties_judging.py holds both to it.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.errors import InputError, RunError
from cause_lib.kernels.lattice import Lattice, permutohedral_lattice

GAUSSIAN = {"sxy": 1, "compat": 3}
BILATERAL = {"sxy": 67, "srgb": 3, "compat": 4}

# Pixels that share a lattice: what stays near a CPU's cache, or keeps a GPU busy.
_PIXELS = {"cpu": 2**17, "cuda": 2**21}


def crf_backends() -> tuple[str, ...]:
    """The backends that can be used here: `torch`, and `pydensecrf` where it is installed."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return ("torch",)
    return ("torch", "pydensecrf")


@torch.no_grad()
def dense_crf(images: Tensor, log_probabilities: Tensor, *, iterations: int = 10,
              backend: str = "torch") -> Tensor:
    """Mean-field marginals of the dense CRF above.

    Args:
        images: (b, 3, h, w) floating in [0, 1].
        log_probabilities: (b, c, h, w) floating, the unary term's negative; need not be normalised. Or (b, s, c, h, w):
            s of them for every picture, which costs less than one after the other.
        iterations: of mean field; 0 gives softmax(log_probabilities).
        backend: `torch`, on the device of log_probabilities; or `pydensecrf`, the published path, on the CPU, a picture
            after the other.

    Returns:
        Probabilities of the same shape, float32, on the device of log_probabilities.

    Raises:
        ValueError: shapes do not agree, or the backend is unknown. RuntimeError: the backend is not installed.
    """
    if images.ndim != 4 or log_probabilities.ndim not in (4, 5) or len(images) != len(log_probabilities) \
            or images.shape[1] != 3 or images.shape[2:] != log_probabilities.shape[-2:]:
        raise InputError(f"dense_crf needs images (b, 3, h, w) and log_probabilities (b, c, h, w) or (b, s, c, h, w), "
                         f"not {tuple(images.shape)} and {tuple(log_probabilities.shape)}.")
    if backend not in ("torch", "pydensecrf"):
        raise InputError(f"Unknown CRF backend {backend!r}: there are 'torch' and 'pydensecrf'.")
    if backend not in crf_backends():
        raise RunError("pydensecrf is not installed: `make book` builds it where there is a C++ compiler; "
                           "without it, set crf_backend to 'torch'.")
    images, unary = images.to(log_probabilities.device), log_probabilities.float()
    unary = unary if unary.ndim == 5 else unary[:, None]  # (b, s, c, h, w)
    if backend == "torch":
        many = max(1, _PIXELS["cuda" if images.is_cuda else "cpu"] // images[0, 0].numel())
        with torch.autocast(images.device.type, enabled=False):
            parts = zip(images.split(many), unary.split(many))
            marginals = torch.cat([_mean_field(*part, iterations) for part in parts])
    else:
        pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()  # (b, h, w, 3)
        energies = -unary.cpu().numpy()
        marginals = np.stack([_pydensecrf(*pair, iterations) for pair in zip(pixels, energies)])
        marginals = torch.from_numpy(marginals)
    return marginals.to(log_probabilities.device).view(log_probabilities.shape)


def _mean_field(images: Tensor, unary: Tensor, iterations: int) -> Tensor:
    """images (b, 3, h, w) in [0, 1], log-probabilities (b, s, c, h, w) float32 -> marginals (b, s, c, h, w)."""
    b, s, c, h, w = unary.shape
    kernels = [_gaussian(b, h, w, images.device), _bilateral(images)]
    unary = unary.permute(0, 3, 4, 1, 2).reshape(b * h * w, s, c)
    # Classes without mass: below 16 the CPU's softmax is ten times slower, and odd widths slow all that follows.
    unary = F.pad(unary, (0, max(16, c + -c % 8) - c), value=-torch.inf)
    q = unary.softmax(dim=2)  # (bhw, s, c')
    for _ in range(iterations):
        flat = q.flatten(1)
        energy = kernels[0].filter(flat).add_(kernels[1].filter(flat)).view_as(unary).add_(unary)
        q = energy.softmax(dim=2)
    return q[:, :, :c].reshape(b, h, w, s, c).permute(0, 3, 4, 1, 2).contiguous()


def _positions(b: int, h: int, w: int, device: torch.device) -> Tensor:
    """x and y of every pixel: (b, 2, hw) float32."""
    y, x = torch.meshgrid(torch.arange(float(h), device=device), torch.arange(float(w), device=device), indexing="ij")
    return torch.stack([x, y]).flatten(1).expand(b, 2, h * w)


@functools.lru_cache(maxsize=2)  # pictures of one size share it
def _gaussian(b: int, h: int, w: int, device: torch.device) -> Lattice:
    lattice = permutohedral_lattice(_positions(b, h, w, device) / GAUSSIAN["sxy"])
    return lattice.normalised(GAUSSIAN["compat"]).collapsed()  # some 32 pixels matter to each


def _bilateral(images: Tensor) -> Lattice:
    b, _, h, w = images.shape
    colours = (images * 255).round().clamp(0, 255).float().flatten(2)  # (b, 3, hw)
    features = [_positions(b, h, w, images.device) / BILATERAL["sxy"], colours / BILATERAL["srgb"]]
    return permutohedral_lattice(torch.cat(features, dim=1)).normalised(BILATERAL["compat"])


def _pydensecrf(picture: np.ndarray, energies: np.ndarray, iterations: int) -> np.ndarray:
    """picture (h, w, 3) uint8 and unary energies (s, c, h, w) float32 -> marginals (s, c, h, w) float32."""
    import pydensecrf.densecrf as densecrf

    s, c, h, w = energies.shape
    field = densecrf.DenseCRF2D(w, h, c)
    field.addPairwiseGaussian(**GAUSSIAN)
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(picture), **BILATERAL)
    marginals = np.empty_like(energies)
    for energy, marginal in zip(energies, marginals):
        field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(c, -1)))
        marginal[:] = np.array(field.inference(iterations)).reshape(c, h, w)
    return marginals
