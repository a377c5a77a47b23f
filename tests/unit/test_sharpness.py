"""Sharpness of the CRF's unary term: each number against the plain path of an evaluation, and the committed table."""

import csv

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from cause_lib import stages
from cause_lib.masks import read_out
from cause_lib.metrics import SegmentationMetrics
from cause_lib.probes import mirror_mean
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session
from workflow import sharpness
from workflow.rows import read_rows


def write_table(path, *lines):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in line.items()} for line in lines)


@pytest.fixture
def swept(tiny, tmp_path):
    """A run of two read-outs without CRF, k-means on its tokens, and the numbers of both."""
    run = tiny(head="mlp", crf=False, smoothing=0.1)
    write_table(tmp_path / "table.csv", {"row": "mine", "notebook": ""} | run.to_dict(),
                {"row": "not run", "notebook": ""} | run.replace(seed=9).to_dict(),
                {"row": "tokens", "notebook": "workflow/baseline.ipynb"} | run.to_dict() | {"head": None})
    stages.evaluate(run)
    for names in (["mine"], ["tokens", "not run"]):  # the second keeps what the first has written
        sharpness.main(tmp_path / "table.csv", tmp_path / "sharpness.csv", *names)
    return run, pd.read_csv(tmp_path / "sharpness.csv").set_index(["row", "readout", "sharpness"])


def test_there_is_a_line_for_each_readout_and_factor(swept):
    run, found = swept
    assert found.index.tolist() == [(row, readout, factor) for row, readout in (
        ("mine", "modularity"), ("mine", "kmeans"), ("tokens", "kmeans")) for factor in (0, *sharpness.FACTORS)]
    assert [*found.reset_index()[sharpness.COLUMNS].columns] == sharpness.COLUMNS
    plain = stages.collect_metrics(stages.find(run, "evaluation")).set_index("readout")["miou"]
    for readout in ("modularity", "kmeans"):  # all pictures are taken where there are few
        assert found.loc["mine", readout, 0]["miou"] == pytest.approx(100 * plain[readout], abs=0.006)
    assert found["confidence"].isna().tolist() == [factor == 0 for *_, factor in found.index]


@pytest.mark.parametrize("factor", sharpness.FACTORS[2:5])
def test_numbers_are_those_of_a_probe_with_that_sharpness(swept, factor):
    run, found = swept
    with session(run) as accelerator:
        seen, mirror = (FrozenFeatures(run, "test", run.image_size, accelerator, mirrored=mirrored)
                        for mirrored in (False, True))
        every = [torch.arange(len(seen))]
        (items,), (tokens,), (mirrored,) = ([*seen.pictures(every)], [*seen.stream(every)], [*mirror.stream(every)])
    folder = stages.fit_probe(run)
    head, probe = stages.load_head(folder), stages.load_probe(folder, "kmeans")
    probe.sharpness = factor
    features = mirror_mean(tokens, mirrored, seen.grid, head, run.smoothing)
    masks = read_out(items["image"], [(features, [probe])], crf=True)
    metrics = SegmentationMetrics(seen.dataset.num_classes)
    metrics.update(masks[True][:, 0], items["label"])
    line = found.loc["mine", "kmeans", factor]
    assert line["miou"] == pytest.approx(100 * metrics.compute()["miou"], abs=0.02)  # rounding decides single pixels

    def chances(*views):  # (b, c, h, w) of the mean of some views' features
        features = sum(view.unflatten(1, seen.grid) for view in views) / len(views)  # (b, rows, columns, r)
        unit = F.normalize(features.flatten(1, 2), dim=-1)
        features = (unit @ unit.mT / run.smoothing).softmax(-1) @ features.flatten(1, 2)
        features = features.unflatten(1, seen.grid).permute(0, 3, 1, 2)
        features = F.interpolate(features, (run.image_size,) * 2, mode="bilinear", align_corners=False)
        return probe.log_probabilities(features.permute(0, 2, 3, 1)).exp().permute(0, 3, 1, 2)

    with torch.no_grad():
        here, there = head(tokens, seen.grid), head(mirrored, seen.grid)
        there = there.unflatten(1, seen.grid).flip(2).flatten(1, 2)
        assert line["confidence"] == pytest.approx(float(chances(here, there).amax(1).mean()), abs=2e-4)
        same = chances(here).argmax(1) == chances(there).argmax(1)
        assert line["agreement"] == pytest.approx(float(same.double().mean()), abs=1e-3)


def test_a_name_that_has_not_been_run_is_said(tiny, tmp_path):
    write_table(tmp_path / "table.csv", {"row": "mine"} | tiny(crf=False).to_dict())
    for names in (["mine"], ["other"], []):
        with pytest.raises(SystemExit, match="No line of .*table.csv called .* has been run here, with labels"):
            sharpness.main(tmp_path / "table.csv", tmp_path / "sharpness.csv", *names)
    assert not (tmp_path / "sharpness.csv").exists()


def test_what_chapter_10_says_of_the_sharpness():
    rows = {row.number: row for row in read_rows("experiments/rivals.csv")}
    found = pd.read_csv("cause_book/results/sharpness.csv")
    assert list(found.columns) == sharpness.COLUMNS and not found.duplicated(["line", "readout", "sharpness"]).any()
    assert all((line.row, line.seed) == (rows[line.line].label, 0) == ("earlier", 0) for line in found.itertuples())
    found["excess"] = found["confidence"] - found["agreement"]
    runs = found[found["sharpness"] > 0].groupby(["dataset", "backbone", "sharpness"])
    mean = runs[["miou", "confidence", "agreement", "excess"]].mean()
    columns = mean.groupby(["dataset", "backbone"])
    assert (runs.size() == 3).all() and found["images"].max() <= 60
    assert {*columns.groups} == {("camvid", "vit_tiny_patch16_224.supervised"), ("scenes", "bundled"),
                                 ("msrc_v2", "vit_tiny_patch16_224.supervised"),
                                 ("msrc_v2", "vit_small_patch14_dinov2.saliency")}  # CamVid with ViT-S/14 is not there
    loss = {}
    for (dataset, network), part in columns:
        part = part.droplevel([0, 1])
        fitted, three = part["excess"].abs().idxmin(), part.loc[3]
        assert fitted == (40 if dataset == "scenes" else 20) and part.loc[fitted, "miou"] < three["miou"]
        assert three["confidence"] < three["agreement"] / 2 and part["miou"].max() - three["miou"] < 0.3
        loss[dataset, network] = three["miou"] - part.loc[fitted, "miou"]
    assert max(loss, key=loss.get) == ("scenes", "bundled")  # most of all
