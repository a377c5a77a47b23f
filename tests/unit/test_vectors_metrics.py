"""The released evaluation's numbers on small masks (tests/data/vectors/ORIGIN.md) are ours: matching, IoU, means."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cause_lib.metrics import SegmentationMetrics

with np.load(Path(__file__).resolve().parents[1] / "data/vectors/metrics.npz", allow_pickle=False) as file:
    VECTORS = {name: file[name] for name in file.files}
CASES = sorted({name.split("/")[0] for name in VECTORS})
IDS = ("extra_ids", "extra_predictions")  # with ids out of range, which theirs leaves out and ours refuses


def case(name):
    """Predictions and labels, as their batches, and what theirs returned."""
    entries = {key.split("/")[1]: value for key, value in VECTORS.items() if key.split("/")[0] == name}
    batches = [torch.from_numpy(entries.pop(key)).long() for key in ("predictions", "labels")]
    return (*batches, entries)


def ours(predictions, labels, c):
    metrics = SegmentationMetrics(c)
    for prediction, label in zip(predictions, labels):
        metrics.update(prediction, label)
    return metrics.compute()


def nan_for_none(values):
    return np.array([np.nan if value is None else value for value in values], float)


def same(found, theirs):
    """Confusion, matching, scores, IoU and accuracy of each class, up to the names of clusters without a pixel."""
    counts, classes = theirs["confusion"], theirs["classes_of_clusters"]
    winning = counts.any(axis=1)
    matched = np.zeros_like(counts)
    matched[classes] = counts  # row c is the cluster that means class c
    assert np.array_equal(np.array(found["confusion"]), matched)
    assert np.array_equal(np.array(found["assignment"])[winning], classes[winning])
    assert nan_for_none(found["iou"]) == pytest.approx(theirs["iou"], abs=1e-6, nan_ok=True)
    miou, pacc, mean_accuracy = theirs["scores"]
    assert 100 * nan_for_none([found["miou"], found["pacc"]]) == pytest.approx([miou, pacc], abs=1e-4, nan_ok=True)
    hits, predicted = np.diagonal(matched), matched.sum(axis=1)
    accuracy = np.divide(hits, predicted, out=np.full(len(hits), np.nan), where=predicted > 0)
    assert accuracy == pytest.approx(theirs["class_accuracy"], abs=1e-6, nan_ok=True)
    present = accuracy[~np.isnan(accuracy)]
    assert (100 * present.mean() if len(present) else np.nan) == pytest.approx(mean_accuracy, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("name", [name for name in CASES if name not in IDS])
def test_every_number_is_theirs(name):
    predictions, labels, theirs = case(name)
    same(ours(predictions, labels, len(theirs["confusion"])), theirs)


@pytest.mark.parametrize("name", IDS)
def test_ids_out_of_range_are_refused_and_without_them_the_numbers_are_theirs(name):
    predictions, labels, theirs = case(name)
    c = len(theirs["confusion"])
    wrong = (labels >= c) | (predictions < 0) | (predictions >= c)
    assert wrong.any()
    with pytest.raises(ValueError, match=f"^{int(wrong.sum())} pixels have an id out of range: [^.]*[.]$"):
        ours(predictions, labels, c)
    same(ours(predictions.where(~wrong, 0), labels.where(~wrong, -1), c), theirs)


def test_an_absent_class_whose_cluster_wins_is_in_the_mean():
    """The mean that tells the two conventions apart: 60 with the absent class, 90 without it."""
    predictions, labels, theirs = case("worked")
    found = ours(predictions, labels, len(theirs["confusion"]))
    assert (100 * found["miou"], 100 * found["miou_present"]) == pytest.approx((60, 90), abs=1e-4)
    assert theirs["scores"][0] == pytest.approx(60, abs=1e-4)
    assert sorted(found["iou"])[0] == 0 and None not in found["iou"]
