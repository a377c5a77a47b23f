"""The concept-wise contrastive loss and its bank give the numbers of the released code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cause_lib import reference
from cause_lib.clusterbook import Clusterbook
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from vectors import load, tensor

VECTORS = load("contrast")
UPDATES, CONCEPTS, WIDTH, CAPACITY = len(VECTORS["loss"]), 6, 10, 100


def test_five_updates_with_the_bank_filled_between_them():
    book = Clusterbook(tensor(VECTORS["codebook"]))
    bank = ConceptBank(CONCEPTS, WIDTH, CAPACITY, dtype=torch.float64)
    for update in range(UPDATES):
        student = tensor(VECTORS["student"][update]).requires_grad_()
        teacher = tensor(VECTORS["teacher"][update])
        concepts = book.assign(tensor(VECTORS["tokens"][update]))
        assert np.array_equal(concepts.numpy(), VECTORS["concepts"][update])
        loss = concept_contrastive_loss(student, teacher, concepts, book.similarity, bank)
        loss.backward()
        state = bank.state_dict()
        twin = reference.concept_contrastive_loss(student, teacher, concepts, book.similarity,
                                                  (state["projections"], state["concepts"]))
        for value in (loss.item(), twin.item()):
            assert value == pytest.approx(VECTORS["loss"][update], abs=1e-9)
        np.testing.assert_allclose(student.grad.numpy(), VECTORS["gradient"][update], rtol=0, atol=1e-9)
        rows = tensor(VECTORS["bank_rows"][update])
        bank.update(teacher.flatten(0, 1)[rows], concepts.flatten()[rows])
        assert np.array_equal(bank.counts.numpy(), VECTORS["bank_counts"][update])
    assert int(bank.counts[0]) == int(bank.counts[2]) == CAPACITY and int(bank.counts[5]) == 0
    wanted = F.normalize(tensor(VECTORS["bank_end"]), dim=-1)
    np.testing.assert_allclose(oldest_first(bank).numpy(), wanted.numpy(), rtol=0, atol=1e-7)


def oldest_first(bank):
    """What the bank holds, concept after concept; a full concept's next place is its oldest projection."""
    held = []
    for concept, (count, written) in enumerate(zip(bank.counts.tolist(), bank.written.tolist())):
        start = written % CAPACITY if count == CAPACITY else 0
        held.append(bank.projections[concept].roll(-start, dims=0)[:count])
    return torch.cat(held)


@pytest.mark.parametrize("loss", [concept_contrastive_loss, reference.concept_contrastive_loss],
                         ids=["fast", "reference"])
def test_other_settings(loss):
    book = Clusterbook(tensor(VECTORS["codebook"]))
    student = tensor(VECTORS["student"][0]).requires_grad_()
    value = loss(student, tensor(VECTORS["teacher"][0]), tensor(VECTORS["concepts"][0]), book.similarity,
                 temperature=0.2, positive_threshold=0.5, negative_threshold=-0.1)
    value.backward()
    assert value.item() == pytest.approx(float(VECTORS["loss_other_settings"]), abs=1e-9)
    np.testing.assert_allclose(student.grad.numpy(), VECTORS["gradient_other_settings"], rtol=0, atol=1e-9)
    assert abs(value.item() - VECTORS["loss"][0]) > 0.1


def test_no_pair_of_concepts_is_near_a_threshold():
    """So rounding decides no pair."""
    similarity = Clusterbook(tensor(VECTORS["codebook"])).similarity.numpy()
    pairs = similarity[~np.eye(CONCEPTS, dtype=bool)]
    assert min(np.abs(pairs - threshold).min() for threshold in (0.3, 0.1)) > 0.02
