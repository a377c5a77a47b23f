"""The dense CRF: settings, shapes, errors, and what it does to a noisy mask."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cause_lib import crf, masks
from cause_lib.crf import crf_backends, dense_crf
from cause_lib.masks import read_out
from cause_lib.probes import ClusterProbe

needs_pydensecrf = pytest.mark.skipif("pydensecrf" not in crf_backends(), reason="pydensecrf is not installed")
both_backends = pytest.mark.parametrize("backend", ["torch", pytest.param("pydensecrf", marks=needs_pydensecrf)])


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


def photograph(h, w, c, seed=0):
    """A picture with edges, gradients and grain, and smooth scores: (1, 3, h, w) in [0, 1], (1, c, h, w)."""
    g = torch.Generator().manual_seed(seed)
    smooth = lambda channels, cells: F.interpolate(  # noqa: E731
        torch.rand(1, channels, cells, cells, generator=g), (h, w), mode="bilinear")
    image = torch.where(smooth(1, 6) > 0.5, smooth(3, 3), smooth(3, 4)) + 0.02 * torch.randn(1, 3, h, w, generator=g)
    return image.clamp(0, 1), (6 * smooth(c, 9)).log_softmax(1)


@needs_pydensecrf
@pytest.mark.parametrize("h, w, c", [(96, 120, 7), (61, 40, 2), (160, 160, 27)])
def test_torch_gives_pydensecrf_labels_and_probabilities(h, w, c):
    image, scores = photograph(h, w, c)
    ours, theirs = (dense_crf(image, scores, backend=backend) for backend in ("torch", "pydensecrf"))
    assert (ours.argmax(1) == theirs.argmax(1)).double().mean() >= 0.999
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert (ours.argmax(1) != scores.argmax(1)).double().mean() > 0.02  # and the CRF did something


@both_backends
def test_follows_the_naive_mean_field(backend):
    """The lattice only approximates the kernels: labels agree, probabilities are near."""
    g = torch.Generator().manual_seed(0)
    image = torch.zeros(3, 14, 18)
    image[:, :, 9:] = 0.6
    image = (image + 0.01 * torch.rand(3, 14, 18, generator=g)).clamp(0, 1)
    truth = (torch.arange(18) >= 9).long().expand(14, 18)
    scores = torch.randn(3, 14, 18, generator=g) + 1.5 * torch.nn.functional.one_hot(truth, 3).permute(2, 0, 1)
    log_probabilities = scores.log_softmax(0)
    ours = dense_crf(image[None], log_probabilities[None], iterations=5, backend=backend)[0]
    naive = torch.from_numpy(naive_mean_field(image, log_probabilities.double(), 5))
    assert (ours.argmax(0) == naive.argmax(0)).double().mean() > 0.97
    noisy, clean = ((m.argmax(0) == truth).double().mean() for m in (log_probabilities, ours))
    assert clean > noisy + 0.1


@both_backends
def test_batches_are_pictures_one_by_one_and_probabilities_add_to_one(backend):
    images, scores = torch.rand(2, 3, 10, 12), torch.randn(2, 4, 10, 12).log_softmax(1)
    both = dense_crf(images, scores, iterations=2, backend=backend)
    assert both.shape == (2, 4, 10, 12) and both.dtype == torch.float32
    torch.testing.assert_close(both.sum(1), torch.ones(2, 10, 12))
    assert torch.equal(both[1:], dense_crf(images[1:], scores[1:], iterations=2, backend=backend))
    torch.testing.assert_close(dense_crf(images, scores, iterations=0, backend=backend), scores.exp())


@both_backends
def test_several_readouts_of_a_picture_are_as_one_by_one(backend):
    image, scores = photograph(20, 31, 5)
    several = torch.stack([scores[0], 2 * scores[0], scores[0].flip(0)])[None]  # (1, 3, 5, h, w)
    ours = dense_crf(image, several, iterations=3, backend=backend)
    assert ours.shape == several.shape
    for i in range(3):
        torch.testing.assert_close(ours[:, i], dense_crf(image, several[:, i], iterations=3, backend=backend))


def test_published_settings():
    assert crf.GAUSSIAN == {"sxy": 1, "compat": 3} and crf.BILATERAL == {"sxy": 67, "srgb": 3, "compat": 4}


def test_errors_help(monkeypatch):
    images, scores = torch.rand(1, 3, 4, 4), torch.full((1, 2, 4, 4), math.log(0.5))
    with pytest.raises(ValueError, match="needs images"):
        dense_crf(images, scores[:, :, :3])
    with pytest.raises(ValueError, match="Unknown CRF backend 'lattice'"):
        dense_crf(images, scores, backend="lattice")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    assert crf_backends() == ("torch",)
    with pytest.raises(RuntimeError, match="set crf_backend to 'torch'"):
        dense_crf(images, scores, backend="pydensecrf")


@both_backends
@pytest.mark.parametrize("change, message", [
    (lambda images, scores: ((255 * images).byte(), scores), "needs floating images"),
    (lambda images, scores: (images, scores.long()), "needs floating images"),
    (lambda images, scores: (255 * images, scores), r"images in \[0, 1\]"),
    (lambda images, scores: (images.index_fill(3, torch.tensor(2), math.nan), scores), r"images in \[0, 1\]"),
    (lambda images, scores: (images, scores.index_fill(3, torch.tensor(2), -math.inf)), "; 6 pixels have none"),
    (lambda images, scores: (images, scores.index_fill(1, torch.tensor(0), math.nan)), "; 42 pixels have none"),
    (lambda images, scores: (images, scores.index_fill(1, torch.tensor(0), math.inf)), "; 42 pixels have none")])
def test_values_that_would_give_wrong_masks_are_refused(backend, change, message):
    with pytest.raises(ValueError, match=message):
        dense_crf(*change(*photograph(6, 7, 3)), backend=backend)


@both_backends
def test_classes_without_mass_and_nothing_at_all_are_no_error(backend):
    images, scores = photograph(6, 7, 3)
    scores[0, 1:, 2] = -math.inf
    assert dense_crf(images, scores, backend=backend).isfinite().all()
    for shape in ((0, 3, 6, 7), (1, 0, 6, 7), (1, 3, 0, 7)):
        empty = dense_crf(torch.rand(shape[0], 3, *shape[2:]), torch.zeros(shape), backend=backend)
        assert empty.shape == shape and empty.dtype == torch.float32


def test_picture_larger_than_a_share_of_the_batch(monkeypatch):
    """Whether pictures share a lattice or not is not seen in the result."""
    images, scores = torch.rand(3, 3, 9, 11), torch.randn(3, 4, 9, 11).log_softmax(1)
    together = dense_crf(images, scores)
    monkeypatch.setitem(crf._PIXELS, "cpu", 1)
    assert torch.equal(dense_crf(images, scores), together)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_come_back_as_float32(dtype):
    image, scores = photograph(20, 24, 3)
    assert dense_crf(image.to(dtype), scores.to(dtype), iterations=2).dtype == torch.float32


@pytest.mark.parametrize("classes", [17, 75])  # 48 and 160 columns, of which 32 at once
def test_classes_filtered_in_blocks_change_no_bit(monkeypatch, classes):
    image, scores = photograph(19, 23, classes)
    scores = torch.stack([scores[0], scores[0].flip(0)])[None]  # (1, 2, c, h, w)
    once = dense_crf(image, scores, iterations=3)
    monkeypatch.setitem(crf._TABLE, "cpu", 1)
    for rows in (100, 10**6):
        monkeypatch.setattr(crf, "_ROWS", rows)
        assert torch.equal(dense_crf(image, scores, iterations=3), once)


@pytest.mark.parametrize("backend", crf.crf_backends())
def test_a_picture_has_one_lattice_for_all_its_readouts(monkeypatch, backend):
    """However many scores a batch has; and the masks are those of each picture and read-out by itself."""
    torch.manual_seed(0)
    image = torch.cat([photograph(30, 34, 5, seed)[0] for seed in range(3)])
    looks = [(torch.randn(3, r, 5, 6), [ClusterProbe(5, r) for _ in range(s)]) for r, s in ((8, 2), (12, 1))]
    alone = [torch.cat([read_out(image[i:i + 1], [(features[i:i + 1], [probe])], crf=True, iterations=2, backend=backend)[with_crf]
                        for features, probes in looks for probe in probes], dim=1)
             for with_crf in (False, True) for i in range(3)]
    monkeypatch.setitem(crf._PIXELS, "cpu", 30 * 34)
    monkeypatch.setattr(masks, "MANY", 30 * 34 * 5 * 4)  # the scores of a picture are fewer, of the batch more
    made, lattice = [], crf.permutohedral_lattice
    monkeypatch.setattr(crf, "permutohedral_lattice", lambda features: made.append(features.shape) or lattice(features))
    crf._gaussian(1, 30, 34, image.device)  # which all pictures of a size share
    made.clear()
    found = read_out(image, looks, crf=True, iterations=2, backend=backend)
    assert made == ([(1, 5, 30 * 34)] * 3 if backend == "torch" else [])
    assert all(torch.equal(found[with_crf], torch.cat(alone[3 * with_crf:3 * with_crf + 3])) for with_crf in found)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation gives, but for views."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return found


@pytest.mark.parametrize("readouts", [1, 3])
@pytest.mark.parametrize("grain", [False, True])
def test_no_tensor_is_larger_than_the_scores_of_one_readout(monkeypatch, readouts, grain):
    """With 171 classes, whatever the read-outs and however many corners the lattice has; and the masks are the same."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 48, 64) if grain else photograph(48, 64, 2)[0]
    probes, features = [ClusterProbe(171, 90) for _ in range(readouts)], torch.randn(1, 90, 6, 8)
    with Largest() as before:
        whole = read_out(image, [(features, probes)], crf=True, iterations=2)
    monkeypatch.setattr(masks, "MANY", 48 * 64 * 32)
    monkeypatch.setitem(crf._TABLE, "cpu", 48 * 64 * 32)
    with Largest() as after:
        bounded = read_out(image, [(features, probes)], crf=True, iterations=2)
    assert all(torch.equal(bounded[with_crf], whole[with_crf]) for with_crf in whole)
    table = 48 * 64 * 176 * 4
    assert after.bytes <= 1.3 * table  # of noise every pixel has 6 corners of its own, for 32 classes at once
    assert before.bytes >= readouts * table * (5 if grain else 1)
