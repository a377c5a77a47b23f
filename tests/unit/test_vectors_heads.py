"""Both heads, the projection and the read-outs give the numbers of the released code, with and without dropout."""

import numpy as np
import pytest
import torch

from cause_lib import heads
from cause_lib.clusterbook import Clusterbook
from cause_lib.probes import ClusterProbe, LinearProbe
from vectors import fill, load, make_head, make_linear, tensor, to_ours, unpack

VECTORS, SIDE = load("heads"), 5
both_heads = pytest.mark.parametrize("kind", ["mlp", "tr"])


def of(kind, name):
    return tensor(VECTORS[f"{kind}/{name}"])


def weights(kind):
    return unpack(VECTORS[f"{kind}/weights"], VECTORS[f"{kind}/names"], VECTORS[f"{kind}/shapes"])


def head_of(kind, dropout=0.0):
    return make_head(weights(kind), of(kind, "codebook"), dropout=dropout)


def close(ours, theirs, atol=1e-12):
    np.testing.assert_allclose(ours.detach().numpy(), theirs.numpy(), rtol=0, atol=atol)


@both_heads
def test_features_in_evaluation(kind):
    head, tokens = head_of(kind), of(kind, "tokens")
    close(head(tokens, (SIDE, SIDE)), of(kind, "features"))
    kept = torch.tensor([3, 7, 8, 20])  # fewer than half of the patches, which takes another path through the attention
    close(head(tokens, (SIDE, SIDE), kept), of(kind, "features")[:, kept])


@both_heads
def test_concepts(kind):
    assert torch.equal(Clusterbook(of(kind, "codebook")).assign(of(kind, "tokens")), of(kind, "concepts"))


@both_heads
def test_projections_and_linear_logits(kind):
    features, named = of(kind, "features"), weights(kind)
    projection = make_linear(named, "projection_head_ema")
    assert isinstance(projection, type(heads.projection(2, 3)))
    close(projection(features), of(kind, "projections"))
    probe = fill(LinearProbe(*named["linear.f.weight"].shape[:2]).double(), to_ours(named, "linear"))
    close(probe(features), of(kind, "linear_logits"))


@both_heads
def test_cluster_probe(kind):
    centroids = of(kind, "centroids")
    probe, features = ClusterProbe(*centroids.shape, centroids), of(kind, "features")
    close(probe.log_probabilities(features), of(kind, "log_probabilities"))
    assert torch.equal(probe(features).argmax(dim=-1), of(kind, "cluster"))


def masks_of(kind):
    """The masks in the order of drawing, each as ours has the numbers that it drops.

    Theirs has patches first in the decoder (n, b, .), channels first in the MLP (b, d, rows, columns).
    """
    count = sum(name.startswith(f"{kind}/mask") for name in VECTORS)
    masks = [of(kind, f"mask{i}") for i in range(count)]
    b, n = of(kind, "tokens").shape[:2]
    return [mask.flatten(2).mT if mask.ndim == 4 else mask.transpose(0, 1) if mask.shape[:2] == (n, b) else mask
            for mask in masks]


@both_heads
def test_features_in_training_with_their_masks(kind, monkeypatch):
    """Ours draws in the same order: what is dropped at each place, and how often, is as released."""
    head, masks = head_of(kind, dropout=0.1).train(), masks_of(kind)

    def drop(x, share, training):
        assert training and share == 0.1 and x.shape == masks[0].shape
        return x * masks.pop(0) / 0.9

    monkeypatch.setattr(heads, "drop", drop)
    ours = head(of(kind, "tokens"), (SIDE, SIDE))
    assert not masks
    close(ours, of(kind, "train_features"))
    assert float((ours - of(kind, "features")).detach().abs().max()) > 0.05


def test_masks_in_another_order_give_other_features(monkeypatch):
    """So the vectors tell the order: masks of one shape, exchanged."""
    for kind, first, second in (("mlp", 0, 1), ("tr", 6, 7), ("tr", 1, 3), ("tr", 0, 2), ("tr", 3, 5)):
        head, masks = head_of(kind, dropout=0.1).train(), masks_of(kind)
        masks[first], masks[second] = masks[second], masks[first]
        monkeypatch.setattr(heads, "drop", lambda x, *_: x * masks.pop(0) / 0.9)
        off = head(of(kind, "tokens"), (SIDE, SIDE)) - of(kind, "train_features")
        assert float(off.detach().abs().max()) > 1e-3
