"""ACSeg: modularity of a picture's concepts, against numbers of an unofficial implementation and against a naive twin."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cause_lib.clusterbook import modularity_matrix
from cause_lib.errors import InputError
from cause_rivals import rival
from cause_rivals.acseg import ConceptHead, Settings, build, modularity

with np.load(Path(__file__).parents[1] / "data/rivals/acseg_thirdparty.npz") as file:
    A = {name: torch.from_numpy(file[name]) for name in file if not name.startswith("acg")}


def cosines(tokens, concepts):
    return F.normalize(tokens, dim=-1) @ F.normalize(concepts, dim=-1).mT


def test_modularity_and_its_gradient_are_those_of_the_vectors():
    concepts = A["concepts"].requires_grad_()
    affinity = cosines(A["tokens"], concepts).clamp(min=0)
    loss = modularity(A["W"] / A["m_sum_of_affinity"][:, None, None], affinity)
    loss.sum().backward()
    torch.testing.assert_close(affinity, A["S"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.detach(), A["loss_per_image"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(concepts.grad, A["grad_concepts"], rtol=1e-9, atol=1e-12)


def test_the_vectors_keep_the_diagonal_and_the_equations_here_do_not():
    full = cosines(A["tokens"], A["tokens"]).clamp(min=0)
    for diagonal in (True, False):
        edges = full if diagonal else full - torch.diag_embed(full.diagonal(dim1=1, dim2=2))
        degree, total = edges.sum(dim=2), edges.sum(dim=(1, 2))[:, None, None]
        weights = edges - degree[:, :, None] * degree[:, None] / total
        if diagonal:
            torch.testing.assert_close(weights, A["W"], rtol=1e-9, atol=1e-12)
        else:
            torch.testing.assert_close(weights / total, modularity_matrix(A["tokens"]), rtol=1e-9, atol=1e-12)


def test_a_picture_of_two_kinds_is_cut_in_two_and_empty_concepts_vanish():
    """Newman's modularity of two cliques of equal size is 1/2; one concept for each reaches it, whatever the third."""
    tokens = torch.eye(2).repeat_interleave(50, dim=0)[None]
    weights = modularity_matrix(tokens)
    best = torch.tensor([[[1.0, 0], [0, 1], [-1, -1]]])
    assert modularity(weights, cosines(tokens, best).clamp(min=0)).item() == pytest.approx(-0.5, abs=1e-5)
    same = torch.ones(1, 3, 2)
    assert modularity(weights, cosines(tokens, same).clamp(min=0)).item() == pytest.approx(0, abs=1e-5)


def test_the_generator_is_its_equations():
    torch.manual_seed(0)
    head, tokens = ConceptHead(8, Settings(concepts=3, blocks=2, heads=2, hidden=12)).double(), torch.randn(2, 10, 8)
    tokens = tokens.double()

    def attend(layer, x, y):
        q, k, v = (F.linear(z, w, b) for z, w, b in zip(
            (x, y, y), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)))
        mixed = [(q[:, s] @ k[:, s].T / 2).softmax(dim=1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))]  # sqrt(4) = 2
        return layer.out_proj(torch.cat(mixed, dim=1))

    for t, found in zip(tokens, head.cosines(tokens)):
        x = head.prototypes
        for block in head.blocks:
            x = block.norms[0](x + attend(block.cross, x, t))
            x = block.norms[1](x + attend(block.among, x, x))
            x = block.norms[2](x + block.feed[2](block.feed[0](x).relu()))
        torch.testing.assert_close(found, cosines(t, x), rtol=1e-9, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="heads must divide the width of the tokens, 8, and 6 does not"):
        build(rival("acseg", "heads=6"), 8, 3, (4, 4))
