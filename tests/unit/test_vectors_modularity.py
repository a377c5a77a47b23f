"""Modularity and step 1 give the numbers of the released code."""

import numpy as np
import pytest
import torch

from cause_lib import reference
from cause_lib.clusterbook import modularity_loss, modularity_matrix
from vectors import load, tensor

VECTORS = load("modularity")
both_forms = pytest.mark.parametrize("loss", [modularity_loss, reference.modularity_loss], ids=["fast", "reference"])


def value_and_gradient(loss, features, prototypes, temperature=0.1):
    prototypes = tensor(prototypes).requires_grad_()
    value = loss(tensor(features), prototypes, temperature)
    value.backward()
    return value.item(), prototypes.grad.numpy()


@both_forms
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("case", ["near", "uniform", "probe"])
def test_loss_and_gradient(loss, case, temperature):
    value, gradient = value_and_gradient(loss, VECTORS[f"{case}/features"], VECTORS[f"{case}/prototypes"], temperature)
    assert value == pytest.approx(float(VECTORS[f"{case}/loss_tau{temperature}"]), abs=1e-9)
    np.testing.assert_allclose(gradient, VECTORS[f"{case}/gradient_tau{temperature}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ["near", "uniform", "probe"])
def test_matrix_and_edges(case):
    """The matrix's rows are those of W; e, the sum of A, is found again from A off the diagonal."""
    features, wanted = tensor(VECTORS[f"{case}/features"]), VECTORS[f"{case}/matrix"]
    np.testing.assert_allclose(modularity_matrix(features)[:, :8].numpy(), wanted, rtol=0, atol=1e-12)
    unit = torch.nn.functional.normalize(features, dim=-1)
    affinity = (unit @ unit.mT).clamp(min=0)
    edges = affinity.sum(dim=(1, 2)) - affinity.diagonal(dim1=1, dim2=2).sum(dim=1)
    np.testing.assert_allclose(edges.numpy(), VECTORS[f"{case}/edges"], rtol=1e-12)


@both_forms
def test_thinned_by_an_own_pattern_for_each_picture(loss):
    """Place o of block (R, C) is row 4 R + o // 4 and column 4 C + o % 4; rows and columns 12 and 13 have no block."""
    order, side = VECTORS["grid/order"], 14
    row, column = np.divmod(np.arange(9), 3)
    kept = (4 * row + order // 4) * side + 4 * column + order % 4  # (b, 9)
    features = np.take_along_axis(VECTORS["grid/features"], kept[..., None], axis=1)
    value, gradient = value_and_gradient(loss, features, VECTORS["grid/prototypes"])
    assert value == pytest.approx(float(VECTORS["grid/loss"]), abs=1e-9)
    np.testing.assert_allclose(gradient, VECTORS["grid/gradient"], rtol=0, atol=1e-9)


@both_forms
def test_of_equal_prototypes_only_the_sum_of_the_gradients_is_defined(loss):
    value, gradient = value_and_gradient(loss, VECTORS["tie/features"], VECTORS["tie/prototypes"])
    wanted = VECTORS["tie/gradient"]
    assert np.array_equal(VECTORS["tie/prototypes"][1], VECTORS["tie/prototypes"][4])
    assert value == pytest.approx(float(VECTORS["tie/loss"]), abs=1e-9)
    np.testing.assert_allclose(gradient[[0, 2, 3, 5]], wanted[[0, 2, 3, 5]], rtol=0, atol=1e-9)
    np.testing.assert_allclose(gradient[1] + gradient[4], wanted[1] + wanted[4], rtol=0, atol=1e-9)


@both_forms
def test_step_1_makes_the_same_five_updates(loss):
    """Adam at 1e-3, no clip, no decay."""
    inputs = load("step2_inputs")
    prototypes = tensor(VECTORS["step1/init"]).requires_grad_()
    optimiser, losses = torch.optim.Adam([prototypes], lr=1e-3), []
    for update, (tokens, kept) in enumerate(zip(inputs["tokens"], inputs["kept"], strict=True), start=1):
        optimiser.zero_grad()
        value = loss(tensor(tokens[:, kept]), prototypes, 0.1)
        value.backward()
        optimiser.step()
        losses.append(value.item())
        if update in (1, 5):
            wanted = VECTORS[f"step1/after{update}"]
            np.testing.assert_allclose(prototypes.detach().numpy(), wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(losses, VECTORS["step1/losses"], rtol=0, atol=1e-9)
    assert np.abs(wanted - VECTORS["step1/init"]).max() > 4e-3
