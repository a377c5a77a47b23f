"""Modularity against its reference, subsampling of the grid, the clusterbook."""

import pytest
import torch

from cause_lib import clusterbook, reference
from cause_lib.clusterbook import Clusterbook, initial_prototypes, modularity_loss, modularity_matrix, thin_grid


@pytest.mark.parametrize("products, group", [(1, 4), (300, 3), (2**19, 64)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_reference_in_value_and_gradient(temperature, products, group, monkeypatch):
    monkeypatch.setattr(clusterbook, "_PRODUCTS", {"cpu": products})
    monkeypatch.setattr(clusterbook, "_GROUP", group)
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 7, 5, generator=g, dtype=torch.float64).requires_grad_()
    ours = torch.randn(11, 5, generator=g, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    a, b = modularity_loss(tokens, ours, temperature), reference.modularity_loss(tokens, theirs, temperature)
    a.backward(), b.backward()
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert tokens.grad is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 70), (2, 5, 64)])
@pytest.mark.parametrize("products", [1, 2**19])
def test_the_argmax_is_the_first_of_the_largest_products(shape, products, monkeypatch):
    monkeypatch.setattr(clusterbook, "_PRODUCTS", {"cpu": products})
    for levels in (3, 2**20):  # few levels: many ties
        affinity = (torch.randint(-levels, levels, shape, generator=torch.Generator().manual_seed(0)) / levels).clamp(0)
        products_of_all = affinity[:, :, None] * affinity[:, None]  # (b, n, n, k)
        assert torch.equal(clusterbook.argmax_concepts(affinity), products_of_all.max(dim=-1).indices)


def test_same_bits_again_and_the_scale_of_the_loss_scales_the_gradient():
    g = torch.Generator().manual_seed(2)
    tokens, prototypes = torch.randn(4, 30, 8, generator=g), torch.randn(90, 8, generator=g).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        once, again = (torch.autograd.grad(modularity_loss(tokens, prototypes), prototypes)[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(once, again)
    tripled = torch.autograd.grad(3 * modularity_loss(tokens, prototypes), prototypes)[0]
    torch.testing.assert_close(tripled, 3 * once)


def test_float32_agrees_to_rounding():
    g = torch.Generator().manual_seed(1)
    tokens, prototypes = torch.randn(2, 25, 16, generator=g), torch.randn(64, 16, generator=g)
    torch.testing.assert_close(modularity_loss(tokens, prototypes).double(),
                               modularity_loss(tokens.double(), prototypes.double()), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 4), (2, 3, 4)])
def test_no_edges_and_one_concept_are_finite(shape):
    tokens = torch.zeros(shape)
    prototypes = torch.ones(1, 4, requires_grad=True)
    loss = modularity_loss(tokens, prototypes)
    loss.backward()
    assert loss == 0 and torch.isfinite(prototypes.grad).all()


def test_tokens_get_no_gradient_and_descent_raises_modularity():
    g = torch.Generator().manual_seed(0)
    tokens = (torch.randn(4, 9, 8, generator=g) + 3 * torch.eye(8)[torch.arange(36) % 3].view(4, 9, 8)).requires_grad_()
    prototypes = torch.nn.Parameter(initial_prototypes(6, 8, g))
    optimizer = torch.optim.Adam([prototypes], lr=1e-2)
    losses = []
    for _ in range(60):
        loss = modularity_loss(tokens, prototypes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert tokens.grad is None and losses[-1] < losses[0] - 0.01


def test_modularity_matrix_rows_add_to_nothing():
    w = modularity_matrix(torch.randn(2, 6, 5, dtype=torch.float64))
    torch.testing.assert_close(w.sum(-1), torch.zeros(2, 6, dtype=torch.float64))
    torch.testing.assert_close(w, w.transpose(1, 2))


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(5, 6\)"):
        modularity_loss(torch.zeros(2, 3, 4), torch.zeros(5, 6))


@pytest.mark.parametrize("grid, block, blocks", [((20, 20), 4, 25), ((14, 14), 4, 16), ((3, 5), 1, 15), ((2, 3), 4, 1)])
def test_thin_grid_keeps_one_patch_a_block(grid, block, blocks):
    index = thin_grid(grid, block, torch.Generator().manual_seed(0))
    where = {(int(i) // grid[1] // block, int(i) % grid[1] // block) for i in index}
    assert len(index) == len(where) == blocks and index.max() < grid[0] * grid[1]
    again = thin_grid(grid, block, torch.Generator().manual_seed(0))
    assert torch.equal(index, again)


def test_thin_grid_reaches_every_patch():
    g = torch.Generator().manual_seed(0)
    seen = torch.cat([thin_grid((5, 6), 4, g) for _ in range(400)]).unique()
    assert len(seen) == 30


def test_assign_quantize_similarity():
    prototypes = torch.tensor([[1.0, 0], [0, 5], [-2, 0]], requires_grad=True)
    book = Clusterbook(prototypes)
    tokens = torch.tensor([[[3.0, 1], [0.1, 0.2], [9, 0]]])
    assert book.assign(tokens).tolist() == [[0, 1, 0]] and book.used(tokens) == 2
    assert book.quantize(tokens)[0, 1].tolist() == [0, 5]
    torch.testing.assert_close(book.similarity, torch.tensor([[1.0, 0, -1], [0, 1, 0], [-1, 0, 1]]))
    with torch.no_grad():
        prototypes.zero_()  # they are trained on: the book is a copy
    assert book.quantize(tokens)[0, 1].tolist() == [0, 5] and not book.prototypes.requires_grad
