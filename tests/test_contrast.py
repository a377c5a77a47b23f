"""The concept-wise contrastive loss and its bank against loops over pairs."""

import pytest
import torch
import torch.nn.functional as F

from cause_lib import contrast
from cause_lib.contrast import ConceptBank, concept_contrastive_loss


def naive_loss(student, teacher, concepts, similarity, bank, temperature, high, low):
    """Eq. 4, pair by pair. `bank` is a list of (concept, projection)."""
    b, n, _ = student.shape
    s, z = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    terms = []
    for pool in ["batch", "bank"]:
        for i in range(b):
            losses = []
            for a in range(n):
                entries = [(concepts[j, x], z[j, x]) for j in range(b) for x in range(n) if (j, x) != (i, a)] \
                    if pool == "batch" else bank
                alike = [similarity[concepts[i, a], c] for c, _ in entries]
                logits = [s[i, a] @ v / temperature for _, v in entries]
                used = [logit for logit, d in zip(logits, alike) if d > high or d < low]
                for logit, d in zip(logits, alike):
                    if d > high:
                        losses.append(-logit + torch.logsumexp(torch.stack(used), 0))
            if losses:
                terms.append(torch.stack(losses).mean())
    return torch.stack(terms).mean() if terms else (s * 0).sum()


def case(seed, b=3, n=4, p=6, k=5):
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(b, n, p, generator=g, dtype=torch.float64)
    teacher = torch.randn(b, n, p, generator=g, dtype=torch.float64)
    concepts = torch.randint(0, k, (b, n), generator=g)
    book = F.normalize(torch.randn(k, 3, generator=g, dtype=torch.float64), dim=-1)
    return student, teacher, concepts, book @ book.T, g


@pytest.mark.parametrize("tile", [1, 60, 2**22])
@pytest.mark.parametrize("temperature, high, low", [(0.07, 0.3, 0.1), (0.5, 0.8, 0.2), (0.005, 0.3, 0.1)])
@pytest.mark.parametrize("with_bank", [False, True])
def test_equals_the_naive_twin_in_value_and_gradient(with_bank, temperature, high, low, tile, monkeypatch):
    monkeypatch.setattr(contrast, "_TILE", tile)
    for seed in range(3):
        student, teacher, concepts, similarity, g = case(seed)
        bank, entries = None, []
        if with_bank:
            bank = ConceptBank(5, 6, capacity=3, dtype=torch.float64)
            old, ids = torch.randn(9, 6, generator=g, dtype=torch.float64), torch.randint(0, 5, (9,), generator=g)
            bank.update(old, ids)
            state = bank.state_dict()
            entries = list(zip(state["concepts"], state["projections"]))
        ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
        teacher.requires_grad_()
        a = concept_contrastive_loss(ours, teacher, concepts, similarity, bank, temperature=temperature,
                                     positive_threshold=high, negative_threshold=low)
        b = naive_loss(theirs, teacher.detach(), concepts, similarity, entries, temperature, high, low)
        a.backward(), b.backward()
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert teacher.grad is None


def test_float32_agrees_to_rounding():
    student, teacher, concepts, similarity, _ = case(0, b=4, n=25, p=64, k=9)
    a = concept_contrastive_loss(student.float(), teacher.float(), concepts, similarity.float())
    b = concept_contrastive_loss(student, teacher, concepts, similarity)
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


def test_bank_round_trip_goes_on_the_same():
    g = torch.Generator().manual_seed(0)
    bank = ConceptBank(4, 3, capacity=2)
    bank.update(torch.randn(7, 3, generator=g), torch.randint(0, 4, (7,), generator=g))
    twin = ConceptBank(4, 3, capacity=2)
    twin.load_state_dict(bank.state_dict())
    more, ids = torch.randn(5, 3, generator=g), torch.randint(0, 4, (5,), generator=g)
    bank.update(more, ids), twin.update(more, ids)
    assert torch.equal(bank.projections, twin.projections) and torch.equal(bank.written, twin.written)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="needs student and teacher"):
        concept_contrastive_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(1, 2).long(), torch.eye(2))
    with pytest.raises(ValueError, match="at least 1"):
        ConceptBank(0, 4)
