"""The concept-wise contrastive loss against its reference, and its bank."""

import mmap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cause_lib import reference
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.kernels import tiles


def case(seed, b=3, n=4, p=6, k=5):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(b, n, p, generator=g, dtype=torch.float64)
    teacher = torch.randn(b, n, p, generator=g, dtype=torch.float64)
    concepts = torch.randint(0, k, (b, n), generator=g)
    book = F.normalize(torch.randn(k, 3, generator=g, dtype=torch.float64), dim=-1)
    return student, teacher, concepts, book @ book.T, g


@pytest.mark.parametrize("numbers", [1, 60, 2**22])
@pytest.mark.parametrize("temperature, high, low",
                         [(0.07, 0.3, 0.1), (0.5, 0.8, 0.2), (0.005, 0.3, 0.1), (0.5, 0.3, 1.5)])
@pytest.mark.parametrize("with_bank", [False, True])
def test_equals_the_reference_in_value_and_gradient(with_bank, temperature, high, low, numbers, monkeypatch):
    monkeypatch.setattr(tiles, "NUMBERS", {"cpu": numbers})
    for seed in range(3):
        student, teacher, concepts, similarity, g = case(seed)
        bank = entries = None
        if with_bank:
            bank = ConceptBank(5, 6, capacity=3, dtype=torch.float64)
            old, ids = torch.randn(9, 6, generator=g, dtype=torch.float64), torch.randint(0, 5, (9,), generator=g)
            bank.update(old, ids)
            state = bank.state_dict()
            entries = state["projections"], state["concepts"]
        rule = {"temperature": temperature, "positive_threshold": high, "negative_threshold": low}
        teacher.requires_grad_()
        theirs = student.clone().requires_grad_()
        wanted = reference.concept_contrastive_loss(theirs, teacher, concepts, similarity, entries, **rule)
        wanted.backward()
        ours = student.clone().requires_grad_()
        loss = concept_contrastive_loss(ours, teacher, concepts, similarity, bank, **rule)
        loss.backward()
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert teacher.grad is None
        # The same from features of width 4, the projection left to the loss.
        layer = torch.nn.Linear(4, 6, bias=seed > 0, dtype=torch.float64)
        features = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
        gradients = []
        for sooner in (False, True):
            f = features.clone().requires_grad_()
            case_of = teacher, concepts, similarity
            loss = concept_contrastive_loss(f, *case_of, bank, **rule, projection=layer) \
                if sooner else reference.concept_contrastive_loss(layer(f), *case_of, entries, **rule)
            gradients.append([loss.detach(), *torch.autograd.grad(loss, [f, *layer.parameters()])])
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("counts", [[3, 3, 3, 3, 3], [0, 3, 1, 0, 2], [0, 0, 0, 0, 0]])
def test_full_and_empty_concepts_of_the_bank(counts):
    """A bank that is full is read as it lies; of another, only the rows that hold something."""
    student, teacher, concepts, similarity, g = case(7)
    bank = ConceptBank(5, 6, capacity=3, dtype=torch.float64)
    ids = torch.arange(5).repeat_interleave(torch.tensor(counts))
    bank.update(torch.randn(len(ids), 6, generator=g, dtype=torch.float64), ids)
    entries = bank.state_dict()["projections"], ids
    assert bank.counts_on_host().tolist() == bank.counts.tolist() == counts
    torch.testing.assert_close(concept_contrastive_loss(student, teacher, concepts, similarity, bank),
                               reference.concept_contrastive_loss(student, teacher, concepts, similarity, entries))


def test_empty_places_of_the_bank_have_no_say():
    """All cosines are -1 and the temperature is low: a single 0 in the maximum would leave no float32 of the sum."""
    z, bank = torch.ones(1, 1, 4), ConceptBank(2, 4, capacity=9)
    bank.update(z.repeat(1, 4, 1), torch.tensor([0, 0, 0, 1]))
    loss = concept_contrastive_loss(-z, z, torch.zeros(1, 1).long(), torch.ones(2, 2), bank, temperature=0.005)
    torch.testing.assert_close(loss, torch.tensor(4.0).log(), atol=1e-4, rtol=0)


def test_similarities_that_equal_a_threshold_are_ignored():
    """Equation 4 has > and <, and 2 of 5 similarities are 0.3 or 0.1 exactly."""
    student, teacher, concepts, _, g = case(3, n=9, k=9)
    values = torch.tensor([0.3, 0.1, 0.9, 0.2, -0.5], dtype=torch.float64)
    similarity = values[torch.randint(5, (9, 9), generator=g)]
    ids = torch.arange(9).repeat(2)
    old, bank = torch.randn(18, 6, generator=g, dtype=torch.float64), ConceptBank(9, 6, 2, dtype=torch.float64)
    bank.update(old, ids)
    torch.testing.assert_close(concept_contrastive_loss(student, teacher, concepts, similarity, bank),
                               reference.concept_contrastive_loss(student, teacher, concepts, similarity, (old, ids)))


def test_float32_agrees_to_rounding():
    student, teacher, concepts, similarity, g = case(0, b=4, n=25, p=64, k=9)
    a = concept_contrastive_loss(student.float(), teacher.float(), concepts, similarity.float())
    b = concept_contrastive_loss(student, teacher, concepts, similarity)
    torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
    layer, features = torch.nn.Linear(8, 64), torch.randn(4, 25, 8, generator=g)
    a = concept_contrastive_loss(features, teacher.float(), concepts, similarity.float(), projection=layer)
    b = concept_contrastive_loss(layer(features).double(), teacher, concepts, similarity)
    torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("b, n", [(1, 1), (1, 3), (3, 1)])
def test_no_positives_is_defined(b, n):
    """All patches in concepts that are strangers, or one patch alone: the term is left out."""
    student = torch.randn(b, n, 4, requires_grad=True)
    concepts = torch.arange(b * n).view(b, n)
    loss = concept_contrastive_loss(student, torch.randn(b, n, 4), concepts, torch.eye(b * n))
    loss.backward()
    assert loss == 0 and torch.equal(student.grad, torch.zeros_like(student))


def test_one_picture_one_concept_is_finite():
    student = torch.randn(1, 5, 4, requires_grad=True)
    concepts = torch.zeros(1, 5, dtype=torch.long)
    loss = concept_contrastive_loss(student, torch.randn(1, 5, 4), concepts, torch.ones(1, 1), ConceptBank(1, 4, 10))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_bank_keeps_the_last_of_each_concept():
    bank, kept = ConceptBank(3, 2, capacity=4), {c: [] for c in range(3)}
    g = torch.Generator().manual_seed(0)
    for _ in range(6):
        m = int(torch.randint(0, 9, (1,), generator=g))
        values, ids = torch.randn(m, 2, generator=g), torch.randint(0, 2, (m,), generator=g)
        bank.update(values, ids)
        for value, c in zip(F.normalize(values, dim=-1), ids.tolist()):
            kept[c] = (kept[c] + [tuple(value.tolist())])[-4:]
    state = bank.state_dict()
    for c in range(3):
        held = {tuple(v.tolist()) for v in state["projections"][state["concepts"] == c]}
        assert held == set(kept[c]) and int(bank.counts[c]) == len(kept[c])
    assert len(bank) == sum(map(len, kept.values()))


def test_more_than_the_capacity_of_one_concept_at_once():
    rows = F.normalize(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), dim=-1)
    bank = ConceptBank(2, 2, capacity=3)
    bank.update(rows[:1], torch.tensor([1]))
    bank.update(rows, torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]))  # seven of concept 1, after one
    assert bank.counts.tolist() == [1, 3] and bank.written.tolist() == [1, 8]
    order = [(8 - 3 + i) % 3 for i in range(3)]  # the slots of the last three
    torch.testing.assert_close(bank.projections[1, order], rows[5:])
    torch.testing.assert_close(bank.projections[0, 0], rows[1])


def test_bank_round_trip_goes_on_the_same():
    g = torch.Generator().manual_seed(0)
    bank = ConceptBank(4, 3, capacity=2)
    bank.update(torch.randn(7, 3, generator=g), torch.tensor([0, 2, 2, 2, 3, 0, 0]))
    twin = ConceptBank(4, 3, capacity=2)
    twin.update(torch.randn(8, 3, generator=g), torch.arange(8) % 4)  # what it held is gone
    twin.load_state_dict(bank.state_dict())
    more, ids = torch.randn(5, 3, generator=g), torch.randint(0, 4, (5,), generator=g)
    bank.update(more, ids), twin.update(more, ids)
    assert torch.equal(bank.projections, twin.projections) and torch.equal(bank.written, twin.written)
    assert torch.equal(twin.counts_on_host(), bank.counts)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="needs student and teacher"):
        concept_contrastive_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(1, 2).long(), torch.eye(2))
    with pytest.raises(ValueError, match="Linear"):
        concept_contrastive_loss(torch.zeros(1, 2, 5), torch.zeros(1, 2, 4), torch.zeros(1, 2).long(), torch.eye(2),
                                 projection=torch.nn.Linear(3, 4))
    with pytest.raises(ValueError, match="needs student and teacher"):  # a part beyond the end of the batch
        concept_contrastive_loss(torch.zeros(1, 2, 4), torch.zeros(3, 2, 4), torch.zeros(3, 2).long(), torch.eye(1),
                                 first=3)
    with pytest.raises(ValueError, match="at least 1"):
        ConceptBank(0, 4)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells how much memory is resident")
def test_a_bank_on_the_cpu_takes_memory_as_it_is_written():
    """4 GiB are asked for, twice, and no more is taken than two concepts need. What was never written is zero."""
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    bank, again = (ConceptBank(2**12, 2**10, capacity=2**8) for _ in range(2))
    bank.update(torch.ones(3, 2**10), torch.tensor([7, 7, 7]))
    again.load_state_dict(bank.state_dict())
    assert torch.equal(again.projections[7], bank.projections[7]) and bank.counts_on_host().sum() == 3
    assert not bank.projections[7, 3:].any() and not bank.projections[8].any() and not again.projections[-1].any()
    assert resident() - before < 2**27
