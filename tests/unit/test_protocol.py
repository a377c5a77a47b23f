"""Evaluation protocols: a matching a picture, more clusters than classes, and how judged pictures become square."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, draw_folder
from PIL import Image

from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.data import load_dataset, is_squashed
from cause_lib.data.images import load_image, to_tensor
from cause_lib.metrics import SegmentationMetrics
from cause_lib.runs.features import open_dataset
from cause_lib.runs.integrity import what_cannot_be
from cause_lib.runs.store import read_record
from cause_lib.segmenter import Segmenter


def naive(prediction, label, c, real, match=True):
    """miou, miou_present, pacc of some pixels by trying every matching, in float64 and with loops."""
    pixels = [(p, t) for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist()) if t >= 0]
    if not pixels:
        return None
    names = range(c)
    if match:
        names = max(itertools.permutations(range(c)), key=lambda names: sum(names[p] == t for p, t in pixels))
    pixels = [(names[p], t) for p, t in pixels]
    ious = {k: sum(p == t == k for p, t in pixels) / union for k in range(real)
            if (union := sum(k in pixel for pixel in pixels))}
    present = [ious[k] for k in {t for _, t in pixels}]
    return (sum(ious.values()) / len(ious), sum(present) / len(present),
            sum(p == t for p, t in pixels) / len(pixels))


def masks(seed, c, real, b=5):
    """Predictions that follow the labels by another order of the clusters in each picture; the last is all void."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(-1, real, (b, 6, 7), generator=g)
    label[-1] = -1
    orders = torch.stack([torch.randperm(c, generator=g) for _ in range(b)])  # (b, c)
    followed = orders.gather(1, label.clamp(min=0).flatten(1)).view_as(label)
    noise = torch.randint(0, c, label.shape, generator=g)
    return torch.where(torch.rand(label.shape, generator=g) < 0.7, followed, noise), label


@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize("c, real", [(4, 4), (5, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_every_number_is_that_of_loops(seed, c, real, match):
    prediction, label = masks(seed, c, real)
    metrics = SegmentationMetrics(c, match=match, real_classes=real, pictures=len(label))
    for first, last in ((3, 5), (0, 3)):  # in any order
        metrics.update(prediction[first:last], label[first:last], first)
    found = metrics.compute()
    miou, present, pacc = naive(prediction, label, c, real, match)
    if match:  # ties apart, of which there are none in these many pixels
        assert sorted(found["assignment"]) == [*range(c)]
    assert (found["miou"], found["miou_present"], found["pacc"]) == pytest.approx((miou, present, pacc), abs=1e-15)
    assert found["iou"][real:] == [None] * (c - real)
    own = [naive(p, t, c, real, match)[1] for p, t in zip(prediction[:-1], label[:-1])]  # not of the void picture
    assert found["miou_per_image"] == pytest.approx(sum(own) / len(own), abs=1e-15)
    plain = SegmentationMetrics(c, match=match, real_classes=real)
    plain.update(prediction, label)
    assert torch.equal(plain.counts, metrics.counts)
    assert plain.compute() == {name: value for name, value in found.items() if name != "miou_per_image"}


def test_pixels_of_a_cluster_left_over_are_wrong_and_it_is_no_class():
    """STEGO's code drops them: see findings/extra_clusters_leave_the_score.sh, whose counts these are."""
    label = torch.tensor([[[0] * 50 + [1] * 50]])
    prediction = torch.tensor([[[0] * 40 + [2] * 10 + [1] * 40 + [2] * 10]])
    for real, miou in ((2, 0.8), (None, 1.6 / 3)):  # as a class of the data set it counts 0
        metrics = SegmentationMetrics(3, real_classes=real)
        metrics.update(prediction, label)
        found = metrics.compute()
        assert (found["miou"], found["miou_present"], found["pacc"]) == (pytest.approx(miou), 0.8, 0.8)
    with pytest.raises(ValueError, match="1 pixels have an id out of range: .* labels below 2"):
        SegmentationMetrics(3, real_classes=2).update(prediction[..., :1], prediction[..., :1] + 2)


def test_without_a_labelled_pixel_there_is_no_number_of_a_picture():
    metrics = SegmentationMetrics(2, pictures=1)
    metrics.update(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1))
    assert metrics.compute()["miou_per_image"] is None


# --- runs ---


def judged(run):
    return read_record(stages.evaluate_baseline(run))


def test_a_killed_evaluation_ends_with_the_same_bits(tmp_path, monkeypatch):
    draw_folder(tmp_path / "data", pictures=9)

    def run(place):
        return Experiment(dataset="folder", folder=str(tmp_path / "data"), run_dir=str(tmp_path / place),
                                  **TINY | dict(batch_size=2, checkpoint_steps=3, per_image=True))

    whole, update, seen = judged(run("whole")), SegmentationMetrics.update, []

    def mortal(self, prediction, label, first=0):
        seen.append(first)
        if len(seen) == 4:
            raise KeyboardInterrupt
        update(self, prediction, label, first)

    monkeypatch.setattr(SegmentationMetrics, "update", mortal)
    with pytest.raises(KeyboardInterrupt):
        judged(run("killed"))
    again = judged(run("killed"))
    assert seen == [0, 2, 4, 6, 4, 6, 8]  # the fourth batch never came, and two were in the checkpoint
    assert again["results"] == whole["results"] and 0 < whole["results"][0]["miou_per_image"] <= 1


def test_a_column_where_it_is_asked_for_and_a_new_artefact(tiny):
    plain, asked = judged(tiny()), judged(tiny(per_image=True))
    (one,), (other,) = plain["results"], asked["results"]
    assert "miou_per_image" not in one and {**other, "miou_per_image": None} == {**one, "miou_per_image": None}
    assert 0 < other["miou_per_image"] <= 1
    assert not what_cannot_be(asked)
    other["miou_per_image"] = 1.5
    assert "miou_per_image 1.5" in what_cannot_be(asked)
    table = stages.collect_metrics(tiny().run_dir).sort_values("miou_per_image")
    assert len(table) == 2 and table["miou_per_image"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name, classes", [("scenes", 12), ("folder", 3)])
@pytest.mark.parametrize("labelled", [True, False])
def test_more_clusters_than_classes(tmp_path, name, classes, labelled):
    """Classes keep names, colours and fingerprint; those of a folder from classes.json, and read off its labels."""
    folder = str(draw_folder(tmp_path / "data")) if name == "folder" else ""
    if not labelled and folder:
        (tmp_path / "data/classes.json").unlink()
    plain, more = (load_dataset(name, "val", image_size=32, folder=folder, limit=2, num_classes=c) for c in (None, 14))
    assert (plain.num_classes, plain.real_classes) == (classes,) * 2
    assert (more.num_classes, more.real_classes, len(more.colors)) == (14, classes, 14)
    assert more.classes == plain.classes + [f"cluster {i}" for i in range(classes, 14)]
    assert (more.colors[:classes] == plain.colors).all() and len(np.unique(more.colors, axis=0)) == 14
    assert more.fingerprint == plain.fingerprint and torch.equal(more[0]["label"], plain[0]["label"])
    with pytest.raises(ValueError, match=f"num_classes=2, but .* has {classes} classes, and each needs a cluster"):
        load_dataset(name, "val", image_size=32, folder=folder, limit=2, num_classes=2)


def test_a_run_with_more_clusters_than_classes(tiny):
    run = tiny(num_classes=6, concept_readout=8, label_free=False, head="mlp")
    record = read_record(folder := stages.evaluate(run))
    assert not what_cannot_be(json.loads(json.dumps(record)))
    for result in record["results"]:
        counts = np.array(result["confusion"])  # rows: clusters by the class they mean; columns: classes
        assert counts[:, 3:].sum() == 0 and result["num_clusters"] == 6 and result["num_classes"] == 3
        ious = [counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]) for k in range(3)]
        assert result["miou"] == pytest.approx(np.mean(ious)) and result["iou"][3:] == [None] * 3
        assert result["pacc"] == pytest.approx(np.trace(counts[:3, :3]) / counts.sum())
    assert counts.sum() == 4 * 48 * 48
    assert stages.fit_clusterbook(tiny(head="mlp")) == stages.fit_clusterbook(run)  # which knows of no classes
    assert Segmenter.load(folder).classes[3:] == ["cluster 3", "cluster 4", "cluster 5"]


def by_hand(path, size, view):
    """A stored picture or label, (c, h, w), as the protocols show it: nearest neighbour by the pixels' centres."""
    if path.parent.name == "images":
        whole = to_tensor(load_image(path))
    else:
        whole = torch.from_numpy(np.array(Image.open(path)))[None]
    h, w = whole.shape[-2:]
    rows, columns = (size, size) if view == "squash" else (int(size * h / min(h, w)), int(size * w / min(h, w)))
    lines, places = (((torch.arange(new) + 0.5) * old / new).long() for new, old in ((rows, h), (columns, w)))
    whole = whole[:, lines][..., places]
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return whole[:, top:top + size, left:left + size]


@pytest.mark.parametrize("view", ["crop", "squash"])
def test_judged_pictures_become_square_as_said(tiny, tmp_path, view):
    run = tiny(test_view=view, crops="none", head="mlp", concept_steps=1, head_steps=1, probe_steps=1)
    gallery = stages.load_gallery(stages.evaluate_baseline(run))
    for i in range(4):
        place = tmp_path / "data/val"
        assert torch.equal(gallery["image"][i], by_hand(place / f"images/{i}.png", 48, view))
        assert torch.equal(gallery["label"][i], by_hand(place / f"labels/{i}.png", 48, view)[0].short())
    train = open_dataset(run, "train", 48)
    assert torch.equal(train[0]["label"], load_dataset("folder", "train", image_size=48, folder=run.folder)[0]["label"])
    assert Segmenter.load(stages.evaluate(run)).squash == (view == "squash")


def test_tokens_of_another_view_are_others_and_those_of_the_sets_own_way_are_shared(tiny):
    run = tiny()
    folders = [stages.evaluate_baseline(tiny(**{} if view is None else {"test_view": view}))
               for view in (None, "crop", "squash")]
    assert len({*folders}) == 3
    numbers = [read_record(folder)["results"][0]["confusion"] for folder in folders]
    assert numbers[0] == numbers[1] != numbers[2]
    kept = [*(Path(run.run_dir) / "features").glob("*val*")]
    assert len(kept) == 4  # of own way and squashed, plain and mirrored
    assert stages.fit_baseline(run) == stages.fit_baseline(tiny(test_view="squash"))
    assert "test_view" not in run.key("evaluation") and tiny(test_view="crop").key("evaluation")["test_view"] == "crop"


def test_a_view_that_is_none_is_refused(tiny):
    with pytest.raises(ValueError, match="test_view must be one of crop, squash"):
        tiny(test_view="pad")
    with pytest.raises(ValueError, match="unknown view 'crops'.*did you mean 'crop'"):
        load_dataset("scenes", "val", image_size=32, view="crops")


def test_pascal_voc_can_be_cropped_and_others_squashed():
    assert [is_squashed("pascalvoc", view) for view in (None, "crop", "squash")] == [True, False, True]
    assert [is_squashed("camvid", view) for view in (None, "crop", "squash")] == [False, False, True]
