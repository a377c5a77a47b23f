"""Dense conditional random field: a mask that follows the picture's edges (Kraehenbuehl and Koltun 2011).

    E(y) = sum_i -log p_i(y_i) + sum_{i<j} [y_i != y_j] ( w1 K1_ij + w2 K2_ij ),   each K normalised as below
    K1_ij = exp(-|x_i - x_j|^2 / 2 s1^2),   K2_ij = exp(-|x_i - x_j|^2 / 2 s2^2 - |I_i - I_j|^2 / 2 s3^2)

x places in pixels, I colours in 0..255. Published settings: w1 = 3, s1 = 1 (Gaussian), w2 = 4, s2 = 67, s3 = 3
(bilateral). Mean field, 10 iterations of

    q_i <- softmax( log p_i + sum_k w_k (N_k K_k N_k q)_i ),   N_k = diag(K_k 1)^(-1/2)

where each K_k q, a Gaussian sum over all pixels, is one pass through a permutohedral lattice (kernels/lattice.py).

The lattice's cells are not their own mirror image, nor the same for each colour: masks may differ in a few pixels of
mirrored pictures, and of colours in another order (tests/unit/test_properties_judging.py, test_vectors_crf.py).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib.errors import InputError, RunError
from cause_lib.kernels.lattice import Lattice, permutohedral_lattice
from cause_lib.kernels.memory import keep_memory

GAUSSIAN, BILATERAL = {"sxy": 1, "compat": 3}, {"sxy": 67, "srgb": 3, "compat": 4}
_PIXELS = {"cpu": 2**17, "cuda": 2**21}  # that share a lattice: near a CPU's cache, or keeping a GPU busy
_TABLE = {"cpu": 2**24, "cuda": 2**28}  # numbers of a table beyond which classes are filtered in blocks
_ROWS = 2**16  # pixels updated together where classes are filtered in blocks


def crf_backends() -> tuple[str, ...]:
    """The backends that can be used here: `torch`, and `pydensecrf` where it is installed."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return ("torch",)
    return ("torch", "pydensecrf")


def pictures_together(images: Tensor) -> int:
    """How many pictures of the size of these, (b, 3, h, w), share a lattice."""
    return max(1, _PIXELS["cuda" if images.is_cuda else "cpu"] // images[0, 0].numel())


@torch.no_grad()
def dense_crf(images: Tensor, log_probabilities: Tensor, *, iterations: int = 10, backend: str = "torch",
              picture: str = "rgb") -> Tensor:
    """Mean-field marginals of the dense CRF above. Memory that it frees stays with the process (kernels/memory.py).

    Args:
        images: (b, 3, h, w) floating in [0, 1].
        log_probabilities: (b, c, h, w) floating, the unary term's negative; need not be normalised. Or (b, s, c, h, w):
            s of them for every picture, which costs less than one after the other.
        iterations: of mean field; 0 gives softmax(log_probabilities).
        backend: `torch`, on the device of log_probabilities; or `pydensecrf`, as published, on the CPU, one by one.
        picture: `rgb`; or `released`, the released code's bytes: blue first, and some one lower by rounding.

    Returns:
        Probabilities of the same shape, float32, on the device of log_probabilities.

    Raises:
        ValueError: shapes do not agree; images are not floating in [0, 1]; log_probabilities are not floating, or a
            pixel's largest is not finite; backend or picture is unknown. RuntimeError: the backend is not installed.
    """
    shape = tuple(log_probabilities.shape)
    if len(shape) not in (4, 5) or tuple(images.shape) != (shape[0], 3, *shape[-2:]):
        raise InputError(f"dense_crf needs images (b, 3, h, w) and log_probabilities (b, c, h, w) or (b, s, c, h, w), "
                         f"not {tuple(images.shape)} and {shape}.")
    for what, value, *known in (("backend", backend, "torch", "pydensecrf"), ("picture", picture, "rgb", "released")):
        if value not in known:
            raise InputError(f"Unknown CRF {what} {value!r}: there are {known[0]!r} and {known[1]!r}.")
    if backend not in crf_backends():
        raise RunError("pydensecrf is not installed: `make book` builds it where there is a C++ compiler; "
                       "without it, set crf_backend to 'torch'.")
    if not (images.is_floating_point() and log_probabilities.is_floating_point()):
        raise InputError("dense_crf needs floating images and log_probabilities: divide bytes by 255.")
    if not log_probabilities.numel():
        return log_probabilities.float()
    keep_memory()
    colours = (images.to(log_probabilities.device) * 255).round()  # (b, 3, h, w)
    if not bool(((colours >= 0) & (colours <= 255)).all()):
        raise InputError("dense_crf needs images in [0, 1], without NaN: divide by 255 if they are in 0 to 255.")
    if lost := int((~log_probabilities.amax(dim=-3).isfinite()).sum()):
        raise InputError(f"dense_crf needs a finite largest log-probability in each pixel; {lost:,} pixels have none: "
                         "look for NaN, or give their classes a small probability before the logarithm.")
    colours = _released(colours) if picture == "released" else colours
    unary = log_probabilities.float().view(shape[0], -1, *shape[-3:])  # (b, s, c, h, w)
    if backend == "torch":
        many = pictures_together(colours)
        with torch.autocast(colours.device.type, enabled=False):
            parts = zip(colours.float().split(many), unary.split(many))
            parts = [_mean_field(*part, iterations) for part in parts]  # (b, h, w, s, c') each
        marginals = (torch.cat(parts) if len(parts) > 1 else parts[0])[..., :shape[-3]].permute(0, 3, 4, 1, 2)
    else:
        pairs = zip(colours.byte().permute(0, 2, 3, 1).cpu().numpy(), -unary.cpu().numpy())
        marginals = torch.from_numpy(np.stack([_pydensecrf(*pair, iterations) for pair in pairs]))
    return marginals.to(log_probabilities.device).view(shape)


def _released(colours: Tensor) -> Tensor:
    """Whole colours (b, 3, h, w), normalised for ImageNet and back in float32 as in the released code, cut off, BGR."""
    exact = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[..., None, None]
    (mean, std), back = exact.float(), (1 / exact[1]).float()
    undone = (colours.float().cpu() / 255 - mean) / std / back + mean  # a GPU rounds otherwise
    return (undone * 255).trunc().flip(1).to(colours)


def _mean_field(colours: Tensor, unary: Tensor, iterations: int) -> Tensor:
    """colours (b, 3, h, w) in 0..255, log-probabilities (b, s, c, h, w), float32 -> (b, h, w, s, c'), c' >= c."""
    b, s, c, h, w = unary.shape
    gaussian = _gaussian(b, h, w, colours.device)
    bilateral = torch.cat([_positions(b, h, w, colours.device) / BILATERAL["sxy"],
                           colours.flatten(2) / BILATERAL["srgb"]], dim=1)  # (b, 5, hw)
    bilateral = permutohedral_lattice(bilateral).normalised(BILATERAL["compat"])
    unary = unary.permute(0, 3, 4, 1, 2)  # (b, h, w, s, c)
    # Classes without mass: below 16 some CPUs' softmax is ten times slower, and odd widths slow all that follows.
    more = 0, max(16, c + -c % 8) - c
    room = _TABLE["cuda" if unary.is_cuda else "cpu"] // max(b * h * w, bilateral.passes[-1].width)
    if s * (c + more[1]) > (step := max(32, room - room % 16)):  # columns
        return _in_blocks(gaussian, bilateral, unary.reshape(-1, s, c), more, step, iterations).view(b, h, w, s, -1)
    unary = F.pad(unary, more, value=-torch.inf)
    q = unary.softmax(dim=4)  # (b, h, w, s, c')
    for _ in range(iterations):
        flat = q.view(b * h * w, -1)
        message = bilateral.filter(flat).add_(gaussian.filter(flat))
        torch.softmax(message.view_as(q).add_(unary), dim=4, out=q)
    return q


def _in_blocks(gaussian: Lattice, bilateral: Lattice, unary: Tensor, more: tuple[int, int], step: int,
               iterations: int) -> Tensor:
    """The same q (n, s, c'), to the same bits, `step` columns filtered after the others: of tables of this size there
    are the scores and q alone. unary: (n, s, c). more: columns to pad."""
    q = unary.new_zeros(*unary.shape[:2], unary.shape[2] + more[1])
    for i in range(iterations + 1):
        for block in q.flatten(1).split(step, dim=1) if i else ():  # the first q is that of the scores alone
            before = block.clone(memory_format=torch.contiguous_format)
            block.copy_(bilateral.filter(before).add_(gaussian.filter(before)))
        for own, place in zip(unary.split(_ROWS), q.split(_ROWS)):  # (n', s, c), (n', s, c')
            place.copy_(place.add_(F.pad(own, more, value=-torch.inf)).softmax(dim=2))
    return q


def _positions(b: int, h: int, w: int, device: torch.device) -> Tensor:
    """x and y of every pixel: (b, 2, hw) float32."""
    y, x = torch.meshgrid(torch.arange(float(h), device=device), torch.arange(float(w), device=device), indexing="ij")
    return torch.stack([x, y]).flatten(1).expand(b, 2, h * w)


@functools.lru_cache(maxsize=2)  # pictures of one size share it
def _gaussian(b: int, h: int, w: int, device: torch.device) -> Lattice:
    lattice = permutohedral_lattice(_positions(b, h, w, device) / GAUSSIAN["sxy"])
    return lattice.normalised(GAUSSIAN["compat"]).collapsed()  # some 32 pixels matter to each


def _pydensecrf(picture: np.ndarray, energies: np.ndarray, iterations: int) -> np.ndarray:
    """picture (h, w, 3) uint8 and unary energies (s, c, h, w) float32 -> marginals (s, c, h, w) float32."""
    import pydensecrf.densecrf as densecrf

    c, h, w = energies.shape[1:]
    field = densecrf.DenseCRF2D(w, h, c)
    field.addPairwiseGaussian(**GAUSSIAN)
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(picture), **BILATERAL)
    marginals = np.empty_like(energies)
    for energy, marginal in zip(energies, marginals):
        field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(c, -1)))
        marginal[:] = np.array(field.inference(iterations)).reshape(c, h, w)
    return marginals
