"""`picture="released"` gives the dense CRF the released code's bytes, and its marginals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cause_lib import crf
from cause_lib.crf import crf_backends, dense_crf
from cause_lib.masks import read_out
from vectors import load, tensor

needs_pydensecrf = pytest.mark.skipif("pydensecrf" not in crf_backends(), reason="pydensecrf is not installed")
VECTORS = load("crf")


def image_of(picture):
    """Bytes (h, w, 3) as data sets and Segmenter give them: (1, 3, h, w) in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() * (1 / 255)


def log_probabilities(scores, size=(40, 48)):
    """What becomes of scores before the CRF: upsampled, softmax, at least 1e-5."""
    scores = F.interpolate(tensor(scores, torch.float32)[None], size, mode="bilinear", align_corners=False)
    return scores.softmax(dim=1).clamp(min=1e-5).log()


def marginals(unary, iterations=10, **how):
    return dense_crf(image_of(VECTORS["picture"]), unary, iterations=iterations, picture="released", **how)[0].numpy()


@pytest.mark.parametrize("given, wanted", [("picture", "bytes_given"), ("ramp", "ramp_bytes_given")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_backends_see_the_released_bytes(monkeypatch, given, wanted, dtype):
    seen = {}
    monkeypatch.setattr(crf, "crf_backends", lambda: ("torch", "pydensecrf"))
    monkeypatch.setattr(crf, "_mean_field", lambda colours, unary, _: (
        seen.update(torch=colours[0]), unary.permute(0, 3, 4, 1, 2))[1])
    monkeypatch.setattr(crf, "_pydensecrf", lambda colours, unary, _: (seen.update(pydensecrf=colours), unary)[1])
    image = image_of(VECTORS[given]).to(dtype)
    for backend in ("torch", "pydensecrf"):
        dense_crf(image, torch.zeros(1, 2, *image.shape[2:]), backend=backend, picture="released")
    assert np.array_equal(seen["pydensecrf"], VECTORS[wanted]) and seen["pydensecrf"].dtype == np.uint8
    assert np.array_equal(seen["torch"].permute(1, 2, 0).numpy(), VECTORS[wanted])
    dense_crf(image, torch.zeros(1, 2, *image.shape[2:]), backend="pydensecrf")
    assert np.array_equal(seen["pydensecrf"], VECTORS[given])


def test_the_unary_term_is_the_vectors():
    """None of these probabilities is below 1e-5, so the cut there changes nothing."""
    for scores, unary in (("scores", "unary"), ("half_scores", "half_unary")):
        ours = log_probabilities(VECTORS[scores])
        assert float(ours.exp().min()) > 1.1e-5
        np.testing.assert_allclose(-ours[0].flatten(1).numpy(), VECTORS[unary], rtol=0, atol=1e-6)


@needs_pydensecrf
@pytest.mark.parametrize("wanted, iterations", [("marginals_10", 10), ("marginals_1", 1)])
def test_pydensecrf_gives_the_released_marginals(wanted, iterations):
    unary = -tensor(VECTORS["unary"], torch.float32).view(1, 6, 40, 48)
    ours = marginals(unary, iterations, backend="pydensecrf")
    np.testing.assert_allclose(ours, VECTORS[wanted], rtol=0, atol=1e-5)
    ours = marginals(log_probabilities(VECTORS["scores"]), iterations, backend="pydensecrf")
    np.testing.assert_allclose(ours, VECTORS[wanted], rtol=0, atol=1e-4)  # rounding of the unary grows
    assert np.array_equal(ours.argmax(0), VECTORS[wanted].argmax(0))


@needs_pydensecrf
def test_pydensecrf_gives_them_from_scores_of_half_the_size():
    wanted = VECTORS["half_marginals_10"]
    unary = -tensor(VECTORS["half_unary"], torch.float32).view(1, 6, 40, 48)
    np.testing.assert_allclose(marginals(unary, backend="pydensecrf"), wanted, rtol=0, atol=1e-5)
    ours = marginals(log_probabilities(VECTORS["half_scores"]), backend="pydensecrf")
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scores, wanted, iterations", [
    ("scores", "marginals_10", 10), ("scores", "marginals_1", 1), ("half_scores", "half_marginals_10", 10)])
def test_torch_gives_the_same_labels(scores, wanted, iterations):
    ours = marginals(log_probabilities(VECTORS[scores]), iterations)
    assert (ours.argmax(0) == VECTORS[wanted].argmax(0)).mean() >= 0.999  # all of them where this was written
    np.testing.assert_allclose(ours, VECTORS[wanted], rtol=0, atol=1e-3)


@pytest.mark.parametrize("backend", ["torch", pytest.param("pydensecrf", marks=needs_pydensecrf)])
def test_other_colours_give_other_labels(backend):
    unary = -tensor(VECTORS["unary"], torch.float32).view(1, 6, 40, 48)
    ours = dense_crf(image_of(VECTORS["picture"]), unary, backend=backend)[0].numpy()
    assert (ours.argmax(0) == VECTORS["marginals_10"].argmax(0)).mean() < 0.995  # 1.1 % of the pixels


def test_masks_pass_it_on_and_other_names_are_refused():
    class Probe(nn.Module):
        def log_probabilities(self, features):
            return features.log_softmax(dim=-1)

    scores = tensor(VECTORS["half_scores"], torch.float32)  # as features: 20 x 24 patches, read out as they are
    image = image_of(VECTORS["picture"])
    masks = {picture: read_out(image, [(scores[None], [Probe()])], crf=True, picture=picture)
             for picture in ("rgb", "released")}
    wanted = torch.from_numpy(VECTORS["half_marginals_10"].argmax(0))
    assert (masks["released"][True][0, 0] == wanted).double().mean() >= 0.999
    assert not torch.equal(masks["rgb"][True], masks["released"][True])
    assert torch.equal(masks["rgb"][False], masks["released"][False])
    with pytest.raises(ValueError, match="Unknown CRF picture 'bgr': there are 'rgb' and 'released'"):
        dense_crf(image, torch.zeros(1, 2, 40, 48), picture="bgr")
