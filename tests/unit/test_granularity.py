"""Which grain was chosen: every number against the words that define it, written as loops."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from cause_book.granularity import (NEVER, Pairs, above_layout, agreement, at_level, best_view, coarser, count_table,
                                    grain, leading, medians, merging, patch_labels, patch_pairs, relations,
                                    scores_at_levels, segments, separation, windows, within_objects)
from cause_lib.data.scenes import LEVELS, OBJECTS, PARTS
from cause_lib.metrics import SegmentationMetrics

OWNERS = [0, 0, 0, 1, 1, 2]  # six parts of three objects


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


# --- labels of patches ---

def test_patch_labels_are_the_most_frequent_ones(random):
    labels = torch.randint(-1, 4, (2, 6, 9), generator=random)
    labels[0, :3, :3] = -1
    found = patch_labels(labels, 3).view(2, 2, 3)
    for b, row, column in itertools.product(range(2), range(2), range(3)):
        pixels = labels[b, 3 * row:3 * row + 3, 3 * column:3 * column + 3].flatten().tolist()
        known = sorted(set(pixels) - {-1})
        assert found[b, row, column] == (max(known, key=pixels.count) if known else -1)  # the first of several
    assert patch_labels(torch.full((1, 4, 4), -1), 2).tolist() == [[-1] * 4]


def test_patches_that_do_not_fill_the_picture_are_refused():
    with pytest.raises(ValueError, match="Patches of 4 pixels do not fill a label of 8 x 6: choose an image_size"):
        patch_labels(torch.zeros(1, 8, 6, dtype=torch.int64), 4)


# --- concepts against labels ---

def naive_agreement(table):
    """Purity, information and its expectation over all arrangements (Vinh et al. 2010, Eq. 24a), entry by entry."""
    total, rows, columns = sum(map(sum, table)), [sum(row) for row in table], [sum(c) for c in zip(*table)]
    purity = sum(max(row) for row in table) / total
    information = sum(n / total * math.log2(total * n / (rows[i] * columns[j]))
                      for i, row in enumerate(table) for j, n in enumerate(row) if n)
    expected = 0.0
    for a, b in itertools.product(rows, columns):
        for n in range(max(1, a + b - total), min(a, b) + 1):
            weight = Fraction(math.comb(b, n) * math.comb(total - b, a - n), math.comb(total, a))
            expected += n / total * math.log2(total * n / (a * b)) * float(weight)
    entropies = [-sum(x / total * math.log2(x / total) for x in sums if x) for sums in (rows, columns)]
    return purity, information, expected, (information - expected) / (sum(entropies) / 2 - expected)


def test_agreement_is_the_sum_over_entries(random):
    table = torch.randint(0, 9, (5, 4), generator=random)
    table[2] = 0  # a concept that never wins
    numbers = agreement(table)
    purity, information, expected, ami = naive_agreement([row for row in table.tolist() if any(row)])
    assert numbers["purity"] == pytest.approx(purity) and numbers["information"] == pytest.approx(information)
    assert numbers["information_by_chance"] == pytest.approx(expected)
    assert numbers["ami"] == pytest.approx(ami)
    assert agreement(table) == agreement(table)  # by chance, but the same one each time


def test_by_chance_is_what_shuffled_labels_give(random):
    concepts, labels = torch.randint(0, 6, (400,), generator=random), torch.randint(0, 3, (400,), generator=random)
    shuffled = [agreement(count_table(concepts, labels[torch.randperm(400, generator=random)], 6, 3), draws=1)
                for _ in range(300)]
    numbers = agreement(count_table(concepts, labels, 6, 3), draws=2000)
    for name in ("purity", "information"):
        assert numbers[f"{name}_by_chance"] == pytest.approx(np.mean([one[name] for one in shuffled]), rel=0.06)


def test_agreement_where_there_is_all_or_nothing():
    perfect = agreement(torch.diag(torch.tensor([5, 3, 9])))
    assert (perfect["purity"], perfect["ami"]) == (1, pytest.approx(1))
    one_pile = agreement(torch.tensor([[5, 3, 9]]))
    assert one_pile["purity"] == one_pile["purity_by_chance"] == 9 / 17 and one_pile["ami"] == pytest.approx(0)
    assert agreement(torch.tensor([[7]]))["ami"] == 1
    with pytest.raises(ValueError, match="at least one labelled patch"):
        agreement(torch.zeros(3, 2, dtype=torch.int64))


def test_a_mask_of_one_level_has_its_best_agreement_there(random):
    parts = torch.randint(0, len(PARTS), (40_000,), generator=random)
    for level, (names, classes) in LEVELS.items():
        numbers = grain(count_table(torch.tensor(classes)[parts], parts, len(names), len(PARTS)))
        assert max(numbers, key=lambda each: numbers[each]["ami"]) == level
        assert numbers[level]["ami"] == pytest.approx(1)
        told = [numbers[each]["told"] for each in ("group", "object", "part")]
        reached = ("group", "object", "part").index(level) + 1
        assert told == pytest.approx([1] * reached + [0] * (3 - reached), abs=0.01)  # all, then nothing


def test_a_coarser_table_is_the_table_of_coarser_labels(random):
    concepts, parts = torch.randint(0, 5, (3, 40), generator=random), torch.randint(-1, len(PARTS), (3, 40))
    objects = torch.tensor([*LEVELS["object"][1], -1])[parts]
    table = count_table(concepts, parts, 5, len(PARTS))
    assert table.sum() == (parts >= 0).sum()
    assert torch.equal(coarser(table, LEVELS["object"][1]), count_table(concepts, objects, 5, len(OBJECTS)))


def test_masks_of_the_layout_alone_are_nothing_above_it_and_a_lead_is_named_only_if_it_holds(random):
    rows = torch.arange(20)[:, None].expand(20, 20) * 34 // 20  # a layout that all pictures share
    parts = torch.where(torch.rand(12, 20, 20, generator=random) < 0.5, rows,
                        torch.randint(0, 34, (12, 20, 20), generator=random))
    objects = torch.tensor(LEVELS["object"][1])

    def found(masks):
        own, others = (torch.stack([count_table(mask, label, 12, 34) for mask, label in zip(each, parts)])
                       for each in (masks, masks.roll(1, 0)))
        return above_layout(own, others, resamples=40)

    layout = found(objects[rows].expand(12, 20, 20))
    assert all(each.above == pytest.approx(0) and each.own > 0.05 for each in layout.values()) and leading(layout) is None
    true = found(objects[parts])
    assert leading(true) == "object" and true["object"].own == pytest.approx(1)
    low, high = true["object"].interval()
    assert low <= true["object"].above <= high and 0 < true["object"].layout < 1
    assert all(np.array_equal(each.samples, found(objects[parts])[level].samples) for level, each in true.items())


def test_separation_is_the_share_of_pairs_in_the_right_order(random):
    labels = torch.randint(-1, 6, (3, 12), generator=random)
    labels[2] = 0  # one part: no pair of either kind
    cosines = torch.randint(0, 5, (3, 12, 12), generator=random).double() / 4
    cosines = (cosines + cosines.mT) / 2
    owners = [0, 0, 0, 1, 1, 2]
    for i, value in enumerate(separation(cosines, labels, owners).tolist()):
        kin, strangers = [], []
        for a, b in itertools.combinations(range(12), 2):
            p, q = int(labels[i, a]), int(labels[i, b])
            if min(p, q) >= 0 and owners[p] != owners[q]:
                strangers.append(float(cosines[i, a, b]))
            elif min(p, q) >= 0 and p != q:
                kin.append(float(cosines[i, a, b]))
        wins = [(x > y) + (x == y) / 2 for x in kin for y in strangers]
        assert value == pytest.approx(sum(wins) / len(wins)) if wins else math.isnan(value)


def test_masks_of_objects_are_perfect_at_their_level_and_nowhere_else(random):
    parts = torch.randint(-1, len(PARTS), (2, 20, 20), generator=random)
    masks = torch.tensor([*LEVELS["object"][1], 0])[parts]
    scores = scores_at_levels(masks, parts, len(OBJECTS))
    assert (scores["object"]["miou_present"], scores["object"]["pacc"]) == (1, 1)
    assert {level: (s["matched"], s["classes"]) for level, s in scores.items()} == {
        "part": (12, 34), "object": (12, 12), "group": (6, 6)}
    assert scores["part"]["miou_present"] < 12 / 34 and scores["group"]["miou_present"] < 1
    groups = torch.tensor([*LEVELS["group"][1], -1])[parts]
    metrics = SegmentationMetrics(len(OBJECTS))
    metrics.update(masks, groups)
    assert scores["group"]["miou_present"] == metrics.compute()["miou_present"] > metrics.compute()["miou"]


# --- pairs of patches ---

def all_pairs(cosines, labels):
    for b, (i, j) in itertools.product(range(len(labels)), itertools.combinations(range(labels.shape[1]), 2)):
        if labels[b, i] >= 0 and labels[b, j] >= 0:
            yield float(cosines[b, i, j]), *sorted((int(labels[b, i]), int(labels[b, j])))


@pytest.fixture
def pictures(random):
    """Cosines (b, n, n), many of them equal, and labels (b, n); label 4 never occurs."""
    cosines = torch.randint(-10, 11, (3, 12, 12), generator=random).double() / 10
    labels = torch.tensor([-1, 0, 1, 2, 3, 5])[torch.randint(0, 6, (3, 12), generator=random)]
    return (cosines + cosines.mT) / 2, labels


def test_relations_follow_the_rule_of_the_contrast(pictures):
    naive = torch.zeros(6, 6, 3, dtype=torch.int64)
    for cosine, p, q in all_pairs(*pictures):
        kind = 0 if cosine > 0.3 else 2 if cosine < 0.1 else 1
        naive[p, q, kind] += 1
        if p != q:
            naive[q, p, kind] += 1
    found = relations(patch_pairs(*pictures), 6, 0.3, 0.1)
    assert torch.equal(found, naive)
    own = within_objects(found, OWNERS)
    assert torch.equal(own[0], naive[0, 1] + naive[0, 2] + naive[1, 2]) and own[1:].sum() == 0


def test_cosines_on_a_threshold_are_ignored():
    pairs = Pairs(torch.tensor([0.3, 0.1, 0.2]), *torch.zeros(2, 3, dtype=torch.int64))
    assert relations(pairs, 1, float(pairs.cosine[0]), float(pairs.cosine[1])).flatten().tolist() == [0, 3, 0]


def test_more_than_half_are_positive_exactly_above_the_median(pictures):
    values = {}
    for cosine, p, q in all_pairs(*pictures):
        values.setdefault((p, q), []).append(cosine)
    found = medians(patch_pairs(*pictures), 6)
    assert torch.equal(found.isnan(), found.T.isnan()) and found[4].isnan().all()
    for p, q in itertools.combinations_with_replacement(range(6), 2):
        if (p, q) not in values:
            assert found[p, q].isnan()
            continue
        assert found[p, q] == found[q, p] == torch.tensor(values[p, q], dtype=torch.float64).median()
        for phi in np.linspace(-1, 1, 41):
            positive = sum(value > phi for value in values[p, q])
            assert (2 * positive > len(values[p, q])) == bool(found[p, q] > phi)


# --- merging ---

def naive_segments(m, phi):
    """Relabel until nothing changes."""
    segment = list(range(len(m)))
    for _ in segment:
        for p, q in itertools.product(range(len(m)), repeat=2):
            if m[p][q] > phi:
                segment = [min(segment[p], segment[q]) if s in (segment[p], segment[q]) else s for s in segment]
    return segment


def test_segments_are_chains_of_ties_and_merge_where_the_linkage_says(pictures):
    m = medians(patch_pairs(*pictures), 6)
    heights = np.sort(1 - merging(m)[:, 2])
    for phi in np.linspace(-1.06, 1.04, 43):  # between the values that occur
        found, naive = segments(m, phi), naive_segments(m.tolist(), phi)
        for p, q in itertools.combinations(range(6), 2):
            assert (found[p] == found[q]) == (naive[p] == naive[q])
        assert len(set(found)) == 6 - (heights > phi).sum()
    assert heights[0] == 1 - NEVER  # label 4 is never seen, and merges with nobody


def test_a_window_opens_when_an_object_is_whole_and_shuts_when_it_has_a_stranger():
    m = torch.full((6, 6), 0.0)
    m[0, 1] = m[1, 0] = 0.8
    m[1, 2] = m[2, 1] = 0.5
    m[3, 4] = m[4, 3] = -0.2
    m[5] = m[:, 5] = torch.nan  # never seen
    objects = torch.tensor([[1.0, 0.3, torch.nan], [0.3, 1.0, torch.nan], [torch.nan] * 3])
    found = windows(m, objects, OWNERS)
    assert found[0] == {"whole": pytest.approx(0.5), "alone": pytest.approx(0.3), "rival": 1}
    assert found[1] == {"whole": pytest.approx(-0.2), "alone": pytest.approx(0.3), "rival": 0}
    assert found[2] is None
    m[0, 2] = m[2, 0] = m[1, 2] = m[2, 1] = torch.nan
    alone = windows(m[:3, :3], torch.full((1, 1), 1.0), OWNERS[:3])[0]
    assert alone == {"whole": -np.inf, "alone": -np.inf, "rival": None}


def test_best_view_is_a_square_around_one_object_alone():
    parts = torch.full((3, 30, 40), 9)
    parts[0, 5:15, 5:9], parts[0, 15:17, 5:9] = 1, 2  # a small leg
    parts[1, 10:16, 30:36], parts[1, 16:22, 30:36] = 1, 2
    parts[2, 5:15, 5:15], parts[2, 15:25, 5:25], parts[2, 5:15, 17:25] = 1, 2, 1  # larger, but two heads on one body
    number, (top, left, side) = best_view(parts, [1, 2])
    assert number == 1 and 12 <= side < 20
    assert top <= 10 and top + side >= 22 and left <= 30 and 36 <= left + side <= 40
    assert best_view(parts[2:], [1, 2])[0] == 0  # better two than none
    with pytest.raises(ValueError, match="No picture shows a part of"):
        best_view(parts, [3])


def test_at_level_keeps_void():
    parts = torch.tensor([[0, len(PARTS) - 1, -1]])
    assert at_level(parts, "object").tolist() == [[0, len(OBJECTS) - 1, -1]]
    assert torch.equal(at_level(parts, "part"), parts)
