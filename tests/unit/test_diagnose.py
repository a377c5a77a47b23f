"""The diagnosis as a table: its numbers against the artefacts that they are about."""

import csv

import pandas as pd
import pytest
import torch

from cause_book.granularity import patch_labels
from cause_book.usage import wins
from cause_lib import stages
from cause_lib.metrics import SegmentationMetrics, effective_number
from cause_lib.probes import ClusterProbe
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session
from workflow import diagnose
from workflow.rows import read_rows


@pytest.fixture
def table(tiny, tmp_path):
    """A table of both recipes and of a line that nobody asks, and the runs that have been made of it."""
    runs = {"published": tiny(head="mlp", crf=False), "constant thresholds": tiny(head="mlp", crf=False, seed=4),
            "alive": tiny(head="mlp", crf=False, recipe="alive", concept_readout=5)}
    lines = [{"row": name} | run.to_dict() for name, run in runs.items()]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in line.items()} for line in lines)
    return tmp_path / "table.csv", runs


def test_numbers_are_those_of_the_artefacts(table, tmp_path, capsys):
    path, runs = table
    diagnose.main(path, tmp_path / "diagnosis.csv")
    assert capsys.readouterr().out == "" and not (tmp_path / "diagnosis.csv").exists()  # nothing has been run
    for name in ("published", "alive"):
        stages.evaluate(runs[name])
    diagnose.main(path, tmp_path / "diagnosis.csv")
    found = pd.read_csv(tmp_path / "diagnosis.csv")
    assert set(found["row"]) == {"published", "alive"} and not found["value"].isna().any()
    number = found.set_index(["row", "subject", "update", "quantity"])["value"].to_dict()

    for name in ("published", "alive"):
        run = runs[name]
        book, probe = stages.load_clusterbook(stages.fit_clusterbook(run)), stages.fit_probe(run)
        with session(run) as accelerator:
            seen = FrozenFeatures(run, "test", run.image_size, accelerator)
            tokens = next(seen.stream([torch.arange(len(seen))]))
        won = wins(tokens, book.prototypes)
        last = run.concept_steps
        assert number[name, "prototypes", last, "winning"] == int((won > 0).sum())
        assert number[name, "prototypes", last, "effective"] == pytest.approx(effective_number(won), abs=1e-5)

        # the probe that was watched from where the stage started has the stage's centroids, and so its groups
        features = stages.load_head(probe)(tokens, seen.grid)
        centroids = stages.load_probe(probe, "modularity").centroids
        labels = torch.stack([item["label"] for item in seen.dataset])
        metrics = SegmentationMetrics(len(centroids))
        groups = ClusterProbe(*centroids.shape, centroids=centroids)(features).argmax(dim=-1)
        metrics.update(groups, patch_labels(labels, run.image_size // seen.grid[0]))
        start = "random numbers" if name == "published" else "k-means"
        assert number[name, f"centroids from {start}", run.probe_steps, "miou"] == pytest.approx(
            metrics.compute()["miou"], abs=1e-6)
        assert number[name, f"centroids from {start}", run.probe_steps, "winning"] == len(groups.unique())

        others = number[name, "pairs", 0, "others"]
        assert 0 <= number[name, "pairs", 0, "positives"] + number[name, "pairs", 0, "negatives"] <= others
        assert 0 <= number[name, "pairs", 0, "lonely"] <= 1
    assert (found["of"].isna() | (found["value"] <= found["of"])).all()


def test_what_another_machine_diagnosed_stays(table, tmp_path):
    path, runs = table
    stages.evaluate(runs["alive"])
    kept = {name: "" for name in diagnose.COLUMNS} | {"row": "published", "settings": "{}", "value": 1.0}
    pd.DataFrame([kept]).to_csv(tmp_path / "diagnosis.csv", index=False)
    for _ in range(2):
        diagnose.main(path, tmp_path / "diagnosis.csv")
    found = pd.read_csv(tmp_path / "diagnosis.csv")
    assert (found["row"] == "published").sum() == 1
    lines = found[found["row"] == "alive"]
    assert len(lines) and not lines.duplicated(["subject", "update", "quantity"]).any()


def test_pictures_without_labels_are_refused(tiny, tmp_path):
    from PIL import Image

    (tmp_path / "photos/images").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos/images/a.png")
    run = tiny(head="mlp", crf=False, dataset="folder", folder=str(tmp_path / "photos"), num_classes=2,
               train_images=None, test_images=None)
    with pytest.raises(ValueError, match="has no labels"):
        diagnose.diagnose(run)


def test_committed_diagnosis_is_of_lines_of_the_table():
    rows = {row.label for row in read_rows("experiments/alive.csv")}
    found = pd.read_csv("cause_book/results/diagnosis.csv")
    assert list(found.columns) == diagnose.COLUMNS and set(found["row"]) <= rows
    assert not found.duplicated(["settings", "subject", "update", "quantity"]).any()
