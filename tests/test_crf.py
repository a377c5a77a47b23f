"""The dense CRF: settings, shapes, errors, and what it does to a noisy mask."""

import math
import sys

import numpy as np
import pytest
import torch

from cause_lib import crf
from cause_lib.crf import crf_backends, dense_crf

needs_pydensecrf = pytest.mark.skipif(not crf_backends(), reason="pydensecrf is not installed")


def naive_mean_field(image, log_probabilities, iterations):
    """The energy of the header, every pair of pixels, with the symmetric normalisation of Kraehenbuehl and Koltun."""
    c, h, w = log_probabilities.shape
    y, x = np.mgrid[:h, :w]
    position = np.stack([x, y], -1).reshape(-1, 2).astype(float)
    colour = np.round(image.permute(1, 2, 0).reshape(-1, 3).numpy() * 255)
    square = lambda f: ((f[:, None] - f[None]) ** 2).sum(-1)  # noqa: E731
    kernels = [(3, np.exp(-square(position) / 2)), (4, np.exp(-square(position) / (2 * 67**2) - square(colour) / 18))]
    unary = -log_probabilities.reshape(c, -1).numpy()
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(iterations):
        energy = unary.copy()
        for weight, kernel in kernels:
            norm = 1 / np.sqrt(kernel.sum(1))
            energy -= weight * (q * norm) @ kernel * norm
        q = np.exp(-energy + energy.min(0))
        q /= q.sum(0)
    return q.reshape(c, h, w)


@needs_pydensecrf
def test_follows_the_naive_mean_field():
    """The lattice only approximates the kernels: labels agree, probabilities are near."""
    g = torch.Generator().manual_seed(0)
    image = torch.zeros(3, 14, 18)
    image[:, :, 9:] = 0.6
    image = (image + 0.01 * torch.rand(3, 14, 18, generator=g)).clamp(0, 1)
    truth = (torch.arange(18) >= 9).long().expand(14, 18)
    scores = torch.randn(3, 14, 18, generator=g) + 1.5 * torch.nn.functional.one_hot(truth, 3).permute(2, 0, 1)
    log_probabilities = scores.log_softmax(0)
    ours = dense_crf(image[None], log_probabilities[None], iterations=5)[0]
    naive = torch.from_numpy(naive_mean_field(image, log_probabilities.double(), 5))
    assert (ours.argmax(0) == naive.argmax(0)).double().mean() > 0.97
    noisy, clean = ((m.argmax(0) == truth).double().mean() for m in (log_probabilities, ours))
    assert clean > noisy + 0.1


@needs_pydensecrf
def test_batches_are_pictures_one_by_one_and_probabilities_add_to_one():
    images, scores = torch.rand(2, 3, 10, 12), torch.randn(2, 4, 10, 12).log_softmax(1)
    both = dense_crf(images, scores, iterations=2)
    assert both.shape == (2, 4, 10, 12) and both.dtype == torch.float32
    torch.testing.assert_close(both.sum(1), torch.ones(2, 10, 12))
    assert torch.equal(both[1:], dense_crf(images[1:], scores[1:], iterations=2))
    torch.testing.assert_close(dense_crf(images, scores, iterations=0), scores.exp())


def test_published_settings():
    assert crf.GAUSSIAN == {"sxy": 1, "compat": 3} and crf.BILATERAL == {"sxy": 67, "srgb": 3, "compat": 4}


def test_errors_help(monkeypatch):
    images, scores = torch.rand(1, 3, 4, 4), torch.full((1, 2, 4, 4), math.log(0.5))
    with pytest.raises(ValueError, match="needs images"):
        dense_crf(images, scores[:, :, :3])
    with pytest.raises(ValueError, match="Unknown CRF backend 'lattice'"):
        dense_crf(images, scores, backend="lattice")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    assert crf_backends() == ()
    with pytest.raises(RuntimeError, match="set crf to False"):
        dense_crf(images, scores)
