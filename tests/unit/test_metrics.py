"""Hungarian metrics against brute force over every matching."""

import itertools

import pytest
import torch

from cause_lib.metrics import SegmentationMetrics, count


def brute_force(prediction, label, c):
    """Try every matching; count with loops."""
    known = label >= 0
    prediction, label = prediction[known].tolist(), label[known].tolist()
    pixels = list(zip(prediction, label))
    best = max(itertools.permutations(range(c)), key=lambda m: sum(m[p] == t for p, t in pixels))
    mapped = [best[p] for p in prediction]
    ious = []
    for k in {*label, *mapped}:
        inter = sum(p == k and t == k for p, t in zip(mapped, label))
        union = sum(p == k or t == k for p, t in zip(mapped, label))
        ious.append(inter / union)
    return sum(ious) / len(ious), sum(p == t for p, t in zip(mapped, label)) / len(label), best


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force(seed):
    g = torch.Generator().manual_seed(seed)
    c = 5
    label = torch.randint(-1, c - seed % 2, (4, 9, 7), generator=g)
    noise = torch.randint(0, c, label.shape, generator=g)
    order = torch.randperm(c, generator=g)
    prediction = torch.where(torch.rand(label.shape, generator=g) < 0.6, order[label.clamp(min=0)], noise)
    metrics = SegmentationMetrics(c)
    for i in range(4):
        metrics.update(prediction[i:i + 1], label[i:i + 1])
    ours = metrics.compute()
    miou, pacc, _ = brute_force(prediction, label, c)
    assert ours["miou"] == pytest.approx(miou) and ours["pacc"] == pytest.approx(pacc)
    assert sorted(ours["assignment"]) == list(range(c))
    assert ours["clusters_used"] == len(prediction.unique())


def test_all_void_is_defined():
    metrics = SegmentationMetrics(3)
    metrics.update(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1))
    result = metrics.compute()
    assert (result["miou"], result["pacc"], result["iou"]) == (None, None, [None] * 3)


def test_absent_classes_that_win_nothing_leave_the_mean_and_perfect_is_one():
    metrics = SegmentationMetrics(4)
    metrics.update(torch.tensor([[[3, 3, 0]]]), torch.tensor([[[1, 1, 2]]]))
    result = metrics.compute()
    assert (result["miou"], result["pacc"], result["clusters_used"]) == (1.0, 1.0, 2)
    assert result["iou"] == [None, 1.0, 1.0, None]


def test_without_matching_prediction_j_means_class_j():
    metrics = SegmentationMetrics(2, match=False)
    metrics.update(torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0]]]))
    assert metrics.compute()["pacc"] == 0.0


def test_bad_input_is_named():
    metrics = SegmentationMetrics(2)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long())
    good = torch.zeros(1, 1, 2).long()
    for prediction, label in ((good, good + 7), (good - 1, good), (good + 2, good)):
        with pytest.raises(ValueError, match="2 pixels have an id out of range: predictions must be 0 to 1, labels"):
            metrics.update(prediction, label)
    metrics.update(good, good)
    assert metrics.compute()["pacc"] == 1.0  # what was refused is not counted


def test_ids_out_of_range_that_a_gpu_counted_are_found_in_the_end():
    metrics = SegmentationMetrics(2)
    metrics.counts[-1] += 3
    with pytest.raises(ValueError, match="3 pixels have an id out of range"):
        metrics.compute()


def test_an_update_never_waits_for_its_device():
    """A meta tensor has no numbers: whatever wants to look at one, as a sync with a GPU does, is an error."""
    metrics, ids = SegmentationMetrics(3), torch.empty(2, 4, 4, dtype=torch.int64, device="meta")
    for _ in range(2):
        metrics.update(ids, ids)
    assert metrics.counts.is_meta and metrics.counts.shape == (13,)


@pytest.mark.parametrize("shape", [(0,), (7,), (4, 5, 6)])
def test_count_is_bincount(shape):
    ids = torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(count(ids, 11), torch.bincount(ids.flatten(), minlength=11))


def test_an_absent_class_counts_zero_as_soon_as_its_cluster_wins_a_labelled_pixel():
    """Classes 0 and 1 occur, 2 and 3 do not; cluster 2 wins a labelled pixel, cluster 3 wins a void one alone."""
    metrics = SegmentationMetrics(4)
    metrics.update(torch.tensor([[[0, 0, 2, 1, 1, 3]]]), torch.tensor([[[0, 0, 0, 1, 1, -1]]]))
    result = metrics.compute()
    assert (result["miou"], result["miou_present"]) == pytest.approx(((2 / 3 + 1 + 0) / 3, (2 / 3 + 1) / 2))
    assert result["iou"] == [pytest.approx(2 / 3), 1.0, 0.0, None] and result["clusters_used"] == 4
    assert "miou_all" not in result


@pytest.mark.parametrize("seed", range(6))
def test_both_means_by_sets(seed):
    g = torch.Generator().manual_seed(seed)
    c, present = 6, 3 + seed % 4
    label, prediction = (torch.randint(-low, high, (3, 40), generator=g) for low, high in ((1, present), (0, c)))
    metrics = SegmentationMetrics(c)
    metrics.update(prediction[:, None], label[:, None])
    result = metrics.compute()
    matched = torch.tensor(result["assignment"])[prediction]
    known = label >= 0
    ious = {k: float((known & (matched == k) & (label == k)).sum() / union) for k in range(c)
            if (union := (known & ((matched == k) | (label == k))).sum())}
    assert result["iou"] == [pytest.approx(ious[k]) if k in ious else None for k in range(c)]
    occurs = label[known].unique().tolist()
    assert result["miou"] == pytest.approx(sum(ious.values()) / len(ious))
    assert result["miou_present"] == pytest.approx(sum(ious[k] for k in occurs) / len(occurs))
    assert result["miou"] < result["miou_present"] if len(occurs) < len(ious) else result["miou"] == result["miou_present"]
