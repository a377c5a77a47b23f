"""Front-door and back-door adjustment on every kind of discrete model, impossible events included, with Hypothesis."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from cause_book.frontdoor import StructuralModel, back_door, front_door, front_door_support, observational, segments

MANY = settings(max_examples=200)
sizes = st.integers(1, 4)


def rows(shape, generator, holes):
    """Distributions along the last axis: some even, some lopsided, and a share `holes` of their entries impossible."""
    table = generator.dirichlet(np.full(shape[-1], generator.choice((0.1, 1.0, 10.0))), size=shape[:-1])
    table = np.where((generator.random(shape) < holes) | (table < 1e-40), 0, table)
    empty = table.sum(axis=-1, keepdims=True) == 0
    table = np.where(empty, np.eye(shape[-1])[generator.integers(shape[-1], size=shape[:-1])], table)
    return table / table.sum(axis=-1, keepdims=True)


@st.composite
def models(draw, front_door=True):
    """A model of up to four values a variable. No entry is below 1e-40, so that no product of four leaves float64."""
    u, t, m, y = (draw(sizes) for _ in range(4))
    generator, holes = np.random.default_rng(draw(seeds)), draw(st.sampled_from((0.0, 0.0, 0.2, 0.5)))
    return StructuralModel(p_u=rows((u,), generator, holes), p_t=rows((u, t), generator, holes),
                           p_m=rows((t, m) if front_door else (u, t, m), generator, holes),
                           p_y=rows((u, m, y) if front_door else (u, t, m, y), generator, holes))


def near(one, other):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


@MANY
@given(models())
def test_front_door_is_the_truth_wherever_it_has_an_answer(model):
    """Exact to rounding, since nothing is subtracted; what it has no answer to, it says: by NaN, or by an error.

    Which treatments those are, by the definition: t occurs, and each mediator value that it leads to occurs with every
    treatment that occurs.
    """
    joint, truth = model.observed(), model.interventional()
    seen = joint.sum(axis=2) > 0  # (t, m)
    treatments = range(len(seen))
    occurs = [t for t in treatments if seen[t].any()]
    answered = [t in occurs and all(seen[other, m] for m in np.flatnonzero(seen[t]) for other in occurs)
                for t in treatments]
    assert front_door_support(joint).tolist() == answered
    answer = front_door(joint, undefined="nan")
    near(answer[answered], truth[answered])
    near(answer[answered].sum(axis=1), 1)
    assert np.isnan(answer[~np.array(answered)]).all()
    if all(answered):
        near(front_door(joint), truth)
    else:
        with pytest.raises(ValueError, match=f"treatment .*{answered.index(False)}.*undefined='nan'"):
            front_door(joint)


@MANY
@given(models(front_door=False))
def test_back_door_is_the_truth_wherever_it_has_an_answer(model):
    """With both forbidden arrows too: t has an answer where nobody who exists would never take it."""
    joint, truth = model.joint(), model.interventional()
    answered = ((joint.sum(axis=(2, 3)) > 0) | (model.p_u == 0)[:, None]).all(axis=0)  # (t,)
    answer = back_door(joint, undefined="nan")
    near(answer[answered], truth[answered])
    assert np.isnan(answer[~answered]).all()


@MANY
@given(models(), seeds)
def test_adjustment_follows_the_names_of_values(model, seed):
    """Treatments, mediators and outcomes in another order: the answers in that order, of the mediator the same ones."""
    joint, generator = model.observed(), np.random.default_rng(seed)
    t, m, y = (generator.permutation(size) for size in joint.shape)
    moved = joint[t][:, m][:, :, y]
    near(front_door(moved, undefined="nan"), front_door(joint, undefined="nan")[t][:, y])
    near(observational(moved, undefined="nan"), observational(joint, undefined="nan")[t][:, y])


@MANY
@given(models())
def test_where_nobody_is_confounded_seeing_is_doing(model):
    """Every value of the confounder takes treatments alike: what is seen is the truth, for each treatment that occurs."""
    even = StructuralModel(model.p_u, model.p_t[:1].repeat(len(model.p_u), axis=0), model.p_m, model.p_y)
    seen = observational(even.observed(), undefined="nan")
    occurs = even.p_t[0] > 0
    near(seen[occurs], even.interventional()[occurs])


@given(models(), st.sampled_from((0.5, 1.0, 3.0, 50.0, np.inf)))
def test_sharpening_keeps_a_model_a_model(model, power):
    """Rows still add to 1, what was impossible stays so, the likeliest stays the likeliest; and the front door open."""
    sharp = model.sharpened(power)
    near(sharp.p_m.sum(axis=-1), 1)
    assert sharp.satisfies_front_door and not (sharp.p_m > 0)[model.p_m == 0].any()
    peaks = np.take_along_axis(sharp.p_m, model.p_m.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    near(peaks, sharp.p_m.max(axis=-1))
    support = front_door_support(sharp.observed())
    near(front_door(sharp.observed(), undefined="nan")[support], sharp.interventional()[support])


@given(st.integers(1, 7), st.integers(1, 5), seeds, st.sampled_from((0.2, 0.5, 0.8, 1.0)))
def test_segments_are_a_partition(t, y, seed, least):
    """Each treatment is with the first of its segment, those with equal answers are together, and apart are those that
    share nothing."""
    generator = np.random.default_rng(seed)
    answer = generator.dirichlet(np.full(y, 0.3), size=t)
    answer[generator.integers(t)] = answer[0]
    found = segments(answer, least=least)
    assert all(found[first] == first <= place for place, first in enumerate(found))
    for one, other in itertools.combinations(range(t), 2):
        if np.array_equal(answer[one], answer[other]):
            assert found[one] == found[other]
    near(segments(np.eye(t), least=least), np.arange(t))
