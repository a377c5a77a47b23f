"""Front-door adjustment against the mutilated graph, against naive loops, and against its own assumptions."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cause_book.frontdoor import (StructuralModel, back_door, count_views, estimate_joint, front_door,
                                  front_door_support, observational, segments)

CARDINALITIES = list(itertools.product((1, 2, 5), (1, 2, 4), (1, 3, 7), (2, 3)))  # (u, t, m, y), 54 of them
GOOD = dict(p_u=[0.4, 0.6], p_t=[[0.5, 0.5], [0.1, 0.9]], p_m=[[0.2, 0.8], [0.7, 0.3]], p_y=[[[0.5, 0.5]] * 2] * 2)


def loop_joint(model):
    """p(u, t, m, y), one product at a time."""
    num_u, num_t, num_m, num_y = model.p_y.shape
    joint = np.zeros((num_u, num_t, num_m, num_y))
    for u, t, m, y in np.ndindex(joint.shape):
        joint[u, t, m, y] = model.p_u[u] * model.p_t[u, t] * model.p_m[u, t, m] * model.p_y[u, t, m, y]
    return joint


def loop_front_door(joint):
    """Eq. 1 as it is printed: two sums, nothing shared between them."""
    num_t, num_m, num_y = joint.shape
    answer = np.zeros((num_t, num_y))
    for t in range(num_t):
        for y in range(num_y):
            for m in range(num_m):
                inner = 0.0
                for other in range(num_t):
                    inner += joint[other, m, y] / joint[other, m].sum() * joint[other].sum()
                answer[t, y] += joint[t, m].sum() / joint[t].sum() * inner
    return answer


def loop_truth(model):
    """p(y | do(t)) with nobody asked which treatment they would have chosen."""
    num_u, num_t, num_m, num_y = model.p_y.shape
    truth = np.zeros((num_t, num_y))
    for u, t, m, y in np.ndindex(model.p_y.shape):
        truth[t, y] += model.p_u[u] * model.p_m[u, t, m] * model.p_y[u, t, m, y]
    return truth


@pytest.mark.parametrize("cardinalities", CARDINALITIES)
def test_front_door_is_the_truth_to_rounding(cardinalities):
    for seed in range(10):
        model = StructuralModel.random(*cardinalities, seed=seed)
        assert model.satisfies_front_door
        truth = model.interventional()
        np.testing.assert_allclose(truth, loop_truth(model), rtol=0, atol=1e-14)
        np.testing.assert_allclose(front_door(model.observed()), truth, rtol=0, atol=1e-13)
        np.testing.assert_allclose(back_door(model.joint()), truth, rtol=0, atol=1e-13)
        np.testing.assert_allclose(truth.sum(axis=1), 1, rtol=0, atol=1e-14)


def test_twins_agree_on_models_of_every_kind():
    for seed, free in itertools.product(range(5), (True, False)):
        model = StructuralModel.random(3, 4, 5, 2, seed=seed, front_door=free)
        joint = model.observed()
        np.testing.assert_allclose(model.joint(), loop_joint(model), rtol=0, atol=1e-16)
        np.testing.assert_allclose(front_door(joint), loop_front_door(joint), rtol=0, atol=1e-14)
        for t, y in itertools.product(range(4), range(2)):
            assert observational(joint)[t, y] == pytest.approx(joint[t, :, y].sum() / joint[t].sum(), abs=1e-15)


def test_back_door_holds_when_the_front_door_does_not():
    biases = []
    for seed in range(50):
        model = StructuralModel.random(3, 3, 4, 2, seed=seed, front_door=False)
        assert not model.satisfies_front_door
        truth = model.interventional()
        np.testing.assert_allclose(truth, loop_truth(model), rtol=0, atol=1e-14)
        np.testing.assert_allclose(back_door(model.joint()), truth, rtol=0, atol=1e-13)
        biases.append(np.abs(front_door(model.observed()) - truth).max())
    assert min(biases) > 1e-3


def test_without_confounding_all_answers_are_one():
    model = StructuralModel.random(1, 3, 4, 2, seed=4)
    for answer in (observational(model.observed()), front_door(model.observed()), back_door(model.joint())):
        np.testing.assert_allclose(answer, model.interventional(), rtol=0, atol=1e-14)


def test_smoking_story_numbers():
    model = StructuralModel.smoking()
    truth = model.interventional()[:, 1]
    np.testing.assert_allclose(truth, [0.153, 0.257], rtol=0, atol=1e-12)  # by hand: 0.14 + 0.13 p(tar | t)
    np.testing.assert_allclose(front_door(model.observed())[:, 1], truth, rtol=0, atol=1e-14)
    naive = observational(model.observed())[:, 1]
    assert naive[1] - naive[0] > 2.5 * (truth[1] - truth[0])


@pytest.mark.parametrize("arrow, same", [("u_t", "p_t"), ("u_y", "p_y"), ("t_m", "p_m"), ("m_y", "p_y")])
def test_an_arrow_of_strength_nought_is_not_there(arrow, same):
    model = StructuralModel.smoking(**{arrow: 0})
    table = np.moveaxis(getattr(model, same), 2 if arrow == "m_y" else 1 if arrow == "t_m" else 0, 0)
    np.testing.assert_allclose(table[1], table[0], rtol=0, atol=1e-15)  # what it starts from makes no difference
    for other in {"p_t", "p_m", "p_y"} - {same}:
        np.testing.assert_array_equal(getattr(model, other), getattr(StructuralModel.smoking(), other))
    np.testing.assert_allclose(front_door(model.observed()), model.interventional(), rtol=0, atol=1e-14)


def test_a_gene_that_keeps_people_from_smoking_makes_it_look_healthy():
    model = StructuralModel.smoking(u_t=-1)
    naive, truth = observational(model.observed())[:, 1], model.interventional()[:, 1]
    assert naive[1] < naive[0] and truth[1] > truth[0]
    np.testing.assert_allclose(front_door(model.observed())[:, 1], truth, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name, strength", [("bypass", 1.1), ("u_y", -0.1), ("u_t", -1.1), ("m_y", float("nan"))])
def test_strengths_out_of_range_are_refused(name, strength):
    with pytest.raises(ValueError, match=f"{name} is a strength between"):
        StructuralModel.smoking(**{name: strength})


@pytest.mark.parametrize("violation", ["bypass", "confounding"])
def test_each_violation_alone_breaks_it_and_more_of_it_breaks_it_more(violation):
    biases = []
    for strength in (0.0, 0.25, 0.5, 1.0):
        model = StructuralModel.smoking(**{violation: strength})
        assert model.satisfies_front_door == (strength == 0)
        biases.append(np.abs(front_door(model.observed()) - model.interventional()).max())
        np.testing.assert_allclose(back_door(model.joint()), model.interventional(), rtol=0, atol=1e-14)
    assert biases[0] < 1e-14 and biases[1] > 1e-3
    assert biases == sorted(biases)


def test_do_cuts_only_the_arrow_into_the_treatment():
    model = StructuralModel.random(3, 4, 2, 2, seed=1)
    cut = model.do(2)
    for name in ("p_u", "p_m", "p_y"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(model, name))
    np.testing.assert_array_equal(cut.p_t, np.eye(4)[[2, 2, 2]])
    np.testing.assert_array_equal(cut.observed()[[0, 1, 3]], 0)


@pytest.mark.parametrize("treatment", [-1, 4])
def test_do_of_an_unknown_treatment_raises(treatment):
    with pytest.raises(ValueError, match="0 to 3"):
        StructuralModel.random(3, 4, 2, 2).do(treatment)


def test_same_seed_same_model_and_same_samples():
    first, second = (StructuralModel.random(3, 2, 4, 2, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.joint(), second.joint())
    assert not np.array_equal(first.joint(), StructuralModel.random(3, 2, 4, 2, seed=8).joint())
    one, two = first.sample(1000, seed=3), second.sample(1000, seed=3)
    assert all(np.array_equal(one[name], two[name]) for name in "utmy")
    assert not np.array_equal(one["t"], first.sample(1000, seed=4)["t"])


def test_samples_follow_the_joint():
    model = StructuralModel.random(3, 2, 4, 2, seed=0)
    samples = model.sample(200_000, seed=1)
    assert all(samples[name].dtype == np.int64 for name in "utmy")
    counts = np.zeros(model.p_y.shape)
    np.add.at(counts, tuple(samples[name] for name in "utmy"), 1)
    spread = np.sqrt(model.joint() / 200_000)  # of one cell, from above
    assert (np.abs(counts / 200_000 - model.joint()) < 5 * spread).all()


def test_impossible_cells_are_never_sampled():
    model = StructuralModel(**{**GOOD, "p_m": [[1.0, 0.0], [0.0, 1.0]]})
    samples = model.sample(20_000, seed=0)
    np.testing.assert_array_equal(samples["t"], samples["m"])


def test_estimate_converges_at_the_rate_of_the_square_root():
    model = StructuralModel.smoking()
    truth = model.interventional()
    errors = []
    for size in (1_000, 100_000):
        squares = []
        for seed in range(40):
            samples = model.sample(size, seed=seed)
            joint = estimate_joint(samples["t"], samples["m"], samples["y"], (2, 2, 2))
            squares.append(((front_door(joint) - truth) ** 2).mean())
        errors.append(np.sqrt(np.mean(squares)))
    assert errors[1] < 0.005
    assert 6 < errors[0] / errors[1] < 16  # a hundred times the samples, a tenth of the error


def test_counting_by_hand():
    t, m, y = [0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 0, 0]
    joint = estimate_joint(t, m, y, (2, 2, 2))
    assert joint[0, 0, 1] == joint[0, 1, 1] == 0.25 and joint[1, 0, 0] == 0.5 and joint.sum() == 1
    smooth = estimate_joint(t, m, y, (2, 2, 2), pseudo_count=0.5)
    assert smooth[1, 0, 0] == 2.5 / 8 and smooth[1, 1, 1] == 0.5 / 8
    np.testing.assert_array_equal(estimate_joint([], [], [], (1, 2, 2), pseudo_count=1), np.full((1, 2, 2), 0.25))


@pytest.mark.parametrize(
    "columns, options, sentence",
    [
        (([0, 1], [0], [0, 1]), {}, "one length"),
        (([[0]], [[0]], [[0]]), {}, "one length"),
        (([0, 2], [0, 1], [0, 1]), {}, "t has values from 0 to 2, outside 0 to 1"),
        (([0, 1], [0, -1], [0, 1]), {}, "m has values from -1"),
        (([0.0, 1.0], [0, 1], [0, 1]), {}, "integers"),
        (([], [], []), {}, "no samples"),
        (([0], [0], [0]), {"pseudo_count": -1}, "pseudo_count"),
        (([0], [0], [0]), {"pseudo_count": float("nan")}, "pseudo_count"),
    ],
)
def test_what_cannot_be_counted_raises(columns, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        estimate_joint(*columns, (2, 2, 2), **options)


def test_positivity_raises_or_masks():
    # Treatment 2 alone leads to mediator 2; treatments 0 and 1 share mediators 0 and 1, but 2 never sees mediator 0.
    p_tm = np.array([[0.2, 0.1, 0.0], [0.0, 0.3, 0.0], [0.0, 0.1, 0.3]])
    joint = p_tm[:, :, None] * np.array([0.25, 0.75])
    np.testing.assert_array_equal(front_door_support(joint), [False, True, False])
    with pytest.raises(ValueError, match="Positivity fails.* treatment 0, 2,"):
        front_door(joint)
    masked = front_door(joint, undefined="nan")
    assert np.isnan(masked[[0, 2]]).all()
    np.testing.assert_allclose(masked[1], [0.25, 0.75], rtol=0, atol=1e-15)


def test_a_treatment_that_never_occurs():
    model = StructuralModel(**{**GOOD, "p_t": [[1.0, 0.0], [1.0, 0.0]]})
    joint = model.observed()
    np.testing.assert_array_equal(front_door_support(joint), [True, False])
    for answer in (front_door, observational):
        with pytest.raises(ValueError, match="treatment 1,"):
            answer(joint)
        assert np.isnan(answer(joint, undefined="nan")).tolist() == [[False, False], [True, True]]
    with pytest.raises(ValueError, match="treatment 1,"):
        back_door(model.joint())


def test_a_confounder_value_that_never_occurs_asks_nothing_of_back_door():
    model = StructuralModel(**{**GOOD, "p_u": [1.0, 0.0], "p_t": [[0.5, 0.5], [1.0, 0.0]]})
    np.testing.assert_allclose(back_door(model.joint()), model.interventional(), rtol=0, atol=1e-15)


def test_pseudo_count_restores_positivity():
    joint = estimate_joint([0, 0, 1], [0, 0, 1], [0, 1, 1], (2, 2, 2))
    assert not front_door_support(joint).any()
    smooth = estimate_joint([0, 0, 1], [0, 0, 1], [0, 1, 1], (2, 2, 2), pseudo_count=0.1)
    assert front_door_support(smooth).all() and np.isfinite(front_door(smooth)).all()


def test_only_none_or_nan_for_undefined():
    with pytest.raises(ValueError, match="'raise' or 'nan'"):
        front_door(StructuralModel.smoking().observed(), undefined="zero")


def test_sharpening_reaches_the_hard_mediator_and_loses_positivity():
    model = StructuralModel.random(2, 4, 3, 2, seed=5)
    np.testing.assert_allclose(model.sharpened(1).p_m, model.p_m, rtol=0, atol=1e-15)
    hard = model.sharpened(np.inf)
    np.testing.assert_array_equal(hard.p_m.argmax(-1), model.p_m.argmax(-1))
    np.testing.assert_array_equal(np.sort(np.unique(hard.p_m)), [0, 1])
    np.testing.assert_allclose(model.sharpened(5_000).p_m, hard.p_m, rtol=0, atol=1e-12)
    soft = model.sharpened(4)
    assert (soft.p_m.max(-1) > model.p_m.max(-1)).all()
    np.testing.assert_allclose(front_door(soft.observed()), soft.interventional(), rtol=0, atol=1e-12)
    assert not front_door_support(hard.observed()).any()
    with pytest.raises(ValueError, match="positive"):
        model.sharpened(0)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"p_u": [0.4, 0.7]}, "p_u must sum to 1"),
        ({"p_u": [-0.4, 1.4]}, "p_u has a negative probability"),
        ({"p_u": [float("nan"), 1.0]}, "p_u has entries that are not finite"),
        ({"p_u": [[0.4, 0.6]]}, r"p_u must have axes \(u,\)"),
        ({"p_u": []}, "p_u has shape"),
        ({"p_u": [0.2, 0.3, 0.5]}, r"p_t has shape \(2, 2\)"),
        ({"p_t": [[0.5, 0.5], [0.2, 0.9]]}, "p_t must sum to 1"),
        ({"p_t": [[0.2, 0.3, 0.5]] * 2}, r"p_m has shape \(2, 2\)"),
        ({"p_m": [0.5, 0.5]}, r"p_m must have axes \(t, m\) or \(u, t, m\)"),
        ({"p_m": [[0.2, 0.3, 0.5]] * 2}, r"p_y has shape \(2, 2, 2\)"),
        ({"p_y": [[[0.5, 0.5], [0.5]]] * 2}, "p_y must be a regular array of numbers"),
        ({"p_y": "often"}, "p_y must be a regular array of numbers"),
        ({"p_y": [[0.5, 0.5]] * 2}, "p_y must have axes"),
    ],
)
def test_bad_tables_raise_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        StructuralModel(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "joint, sentence",
    [
        (np.full((2, 2), 0.25), r"axes \(t, m, y\)"),
        (np.full((2, 2, 2), 0.25), "sums to 2"),
        (np.full((2, 2, 2), -0.125), "negative"),
        (np.full((2, 2, 2), np.inf), "not finite"),
        (np.zeros((0, 2, 2)), "sum to 1"),
    ],
)
def test_bad_joints_raise(joint, sentence):
    for function in (front_door, front_door_support, observational):
        with pytest.raises(ValueError, match=sentence):
            function(joint)


def test_bad_strengths_and_cardinalities_raise():
    with pytest.raises(ValueError, match="bypass is a strength"):
        StructuralModel.smoking(bypass=1.5)
    with pytest.raises(ValueError, match="at least one value"):
        StructuralModel.random(2, 0, 2, 2)


def test_tables_are_copies_and_read_only():
    p_u = np.array([0.4, 0.6])
    model = StructuralModel(**{**GOOD, "p_u": p_u})
    p_u[0] = 9
    assert model.p_u[0] == 0.4
    with pytest.raises(ValueError, match="read-only"):
        model.p_y[0] = 0
    with pytest.raises(AttributeError):
        model.p_u = p_u


NAMES = np.array([[0, 1, 2, 3, 4], [5, 5, 6, 6, 7], [8, 8, 8, 8, 9]])  # five kinds at three levels


def scenes(number=3, size=24, seed=0):
    """Scenes of five kinds in blocks of 3 x 3 pixels, so that patches straddle borders."""
    blocks = np.random.default_rng(seed).integers(0, 5, (number, size // 3, size // 3))
    return blocks.repeat(3, axis=1).repeat(3, axis=2)


def loop_views(labels, sides, views, patches, spots, seed):
    """One spot at a time; the same draws as the library, in the same order."""
    generator, size = np.random.default_rng(seed), labels.shape[1]
    shares = np.zeros((len(sides), 5, 5))
    for u, side in enumerate(sides):
        for scene in labels:
            named = np.array([[NAMES[u, kind] for kind in row] for row in scene])
            for name in generator.choice(sorted(set(named.ravel())), views):
                aim = generator.choice([i for i in range(size * size) if named.ravel()[i] == name])
                window = side * size
                top, left = (min(max(c + 0.5 - window / 2, 0), size - window) for c in (aim // size, aim % size))
                for row, column in itertools.product(range(patches), repeat=2):
                    seen = [
                        scene[int(top + (row * spots + i + 0.5) * window / (patches * spots)),
                              int(left + (column * spots + j + 0.5) * window / (patches * spots))]
                        for i, j in itertools.product(range(spots), repeat=2)
                    ]
                    most = max(range(5), key=seen.count)  # the first of equals
                    for kind in seen:
                        shares[u, most, kind] += 1
    return shares / shares.sum(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("sides", [(0.25, 0.5, 1.0), (0.1, 0.3, 0.99)])
def test_views_are_counted_as_by_hand(sides):
    counted = count_views(scenes(), NAMES, sides, views=4, patches=5, spots=2, seed=3)
    np.testing.assert_allclose(counted, loop_views(scenes(), sides, 4, 5, 2, 3), rtol=0, atol=1e-15)
    np.testing.assert_allclose(counted.sum(axis=(1, 2)), 1, rtol=0, atol=1e-14)


def test_a_close_photographer_sees_what_is_rare_and_purer_patches():
    labels = np.zeros((2, 32, 32), int)
    labels[:, 13:17, 13:17] = 1  # 1 in 64
    near, far = count_views(labels, [[0, 1], [0, 1]], (0.1, 1.0), views=50, patches=8, spots=4)
    np.testing.assert_array_equal(far.sum(axis=0), [63 / 64, 1 / 64])  # all of the scene, whatever was aimed at
    assert near.sum(axis=1)[1] > 0.2
    assert near[1, 1] / near[1].sum() > far[1, 1] / far[1].sum()


def test_the_counted_world_opens_the_front_door_whatever_the_tie():
    views = count_views(scenes(), NAMES, (0.2, 0.5, 1.0), seed=1)  # (u, t, m)
    p_tu, p_u = views.sum(axis=2), np.full(3, 1 / 3)
    p_m = views.sum(axis=0) / views.sum(axis=(0, 2))[:, None]
    p_m = 0.9 * p_m + 0.1 / 5
    p_y = np.eye(10)[NAMES]  # (u, m, y)
    naive = []
    for follow in (0, 0.5, 1):
        model = StructuralModel(p_u, follow * p_tu + (1 - follow) * p_tu.mean(axis=0), p_m, p_y)
        truth = np.einsum("u,tm,umy->ty", p_u, p_m, p_y)
        np.testing.assert_allclose(front_door(model.observed()), truth, rtol=0, atol=1e-14)
        naive.append(np.abs(observational(model.observed()) - truth).max())
    assert naive[0] < 1e-14 and 1e-3 < naive[1] < naive[2]


@pytest.mark.parametrize(
    "labels, names, sides, sentence",
    [
        (np.zeros((2, 4, 5), int), [[0]], [1], r"square scenes \(g, h, h\)"),
        (np.zeros((0, 4, 4), int), [[0]], [1], "square scenes"),
        (np.zeros((1, 4, 4), int), [[0]], [1, 1], "one row for each of 2 sides"),
        (np.zeros((1, 4, 4), int), [[0]], [0], "A side is a fraction"),
        (np.zeros((1, 4, 4), int), [[0]], [1.5], "A side is a fraction"),
        (np.full((1, 4, 4), 2), [[0, 1]], [1], "kinds from 2 to 2, outside 0 to 1"),
        (np.full((1, 4, 4), -1), [[0, 1]], [1], "kinds from -1"),
    ],
)
def test_views_that_cannot_be_counted_raise(labels, names, sides, sentence):
    with pytest.raises(ValueError, match=sentence):
        count_views(labels, names, sides)


def loop_segments(answer, least):
    """Merge the two groups that share most until they share too little."""
    groups = [[t] for t in range(len(answer))]

    def shared(one, other):
        return np.mean([np.minimum(answer[a], answer[b]).sum() for a in one for b in other])

    while len(groups) > 1:
        one, other = max(itertools.combinations(groups, 2), key=lambda pair: shared(*pair))
        if shared(one, other) < least:
            break
        groups = [group for group in groups if group is not one and group is not other] + [one + other]
    return [min(group) for t in range(len(answer)) for group in groups if t in group]


@pytest.mark.parametrize("least", [0.3, 0.5, 0.7])
def test_segments_are_those_of_naive_merging(least):
    for seed in range(20):
        answer = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), size=9)
        np.testing.assert_array_equal(segments(answer, least=least), loop_segments(answer, least))


def test_segments_by_hand():
    np.testing.assert_array_equal(segments(np.eye(3)[[2, 0, 2, 1, 0]]), [0, 1, 0, 3, 1])
    np.testing.assert_array_equal(segments([[0.5, 0.5, 0], [0.5, 0, 0.5]]), [0, 0])  # half is enough
    np.testing.assert_array_equal(segments([[0.5, 0.5, 0], [0.5, 0, 0.5]], least=0.51), [0, 1])
    np.testing.assert_array_equal(segments([[1.0]]), [0])


def test_the_table_of_implementations_has_what_each_formula_gives():
    """book/simulator.md: its two stories, with the formulas that dowhy's and pgmpy's estimates follow."""
    lines = (Path(__file__).resolve().parents[2] / "book/simulator.md").read_text(encoding="utf8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    table = {name.split("`")[1]: [float(number) for number in row] for name, *row, _ in cells if "`" in name}
    rare = replace(StructuralModel.smoking(), p_m=np.array([[[0.95, 0.05], [0.5, 0.5]]] * 2))
    for column, model in enumerate((StructuralModel.smoking(), rare)):
        joint = model.observed()
        p_tm, p_y = joint.sum(axis=2), joint[:, :, 1] / joint.sum(axis=2)  # (t, m), p(Y = 1 | t, m)
        ones, (t, m) = np.ones(4), np.indices((2, 2)).reshape(2, 4)
        design = np.stack([ones, t, m])  # (3, 4)
        slope = np.linalg.solve(design * p_tm.ravel() @ design.T, design * p_tm.ravel() @ p_y.ravel())[2]  # of y on m, given t
        effect = {"interventional": model.interventional()[:, 1], "front_door": front_door(joint)[:, 1],
                  "two_stage_regression": slope * (p_tm / p_tm.sum(axis=1, keepdims=True))[:, 1],
                  "linear_regression": observational(joint)[:, 1], "query": p_y @ p_tm.sum(axis=0)}
        assert {name: row[column] for name, row in table.items()} == pytest.approx(
            {name: answer[1] - answer[0] for name, answer in effect.items()}, abs=5.001e-4)
