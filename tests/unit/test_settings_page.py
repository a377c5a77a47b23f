"""book/settings.csv: the published settings are what a data set's name alone means here."""

import csv
from pathlib import Path

import pytest

from cause_lib.config import Experiment

ROWS = list(csv.DictReader((Path(__file__).resolve().parents[2] / "book/settings.csv").open(encoding="utf8")))
SETS = ("cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc")
EPOCHS = {"concept_steps", "head_steps", "probe_steps"}


@pytest.mark.parametrize("head", ["tr", "mlp"])
@pytest.mark.parametrize("dataset", SETS)
def test_a_data_set_alone_means_what_is_published(dataset, head):
    run = Experiment(dataset=dataset, head=head, label_free=False).to_dict()  # in which step 3 bounds a norm
    mine = [row for row in ROWS if row["field"] and row["dataset"] in ("all", dataset) and row["head"] in ("both", head)]
    for row in mine:
        if row["setting"] not in ("epochs", "the rate is halved every so many epochs"):
            found = run[row["field"]]
            assert str(found) == row["value"] or float(found) == float(row["value"]), row
    names = [row["field"] for row in mine if row["setting"] != "epochs"]
    # no setting has two values; step 3 has no bound on the sets whose scripts have none
    assert len(names) == len(set(names))
    assert "probe_clip_norm" in names or (dataset not in ("cocostuff27", "cityscapes") and run["probe_clip_norm"] >= 1e9)


@pytest.mark.parametrize("head", ["tr", "mlp"])
@pytest.mark.parametrize("dataset", SETS)
def test_updates_are_whole_epochs(dataset, head):
    run = Experiment(dataset=dataset, head=head)
    epochs = {row["field"]: int(row["value"]) for row in ROWS if row["setting"] == "epochs" and row["head"] in ("both", head)}
    assert set(epochs) == EPOCHS
    assert all(getattr(run, field) == count * run.concept_steps for field, count in epochs.items())


def test_each_line_has_a_source():
    assert all(row["source"] and row["value"] and row["step"] for row in ROWS)
    lines = [row["source"] for row in ROWS if ":" in row["source"] and not row["source"].startswith("none")]
    assert all(place.split(":")[0].endswith(".py") and place.split(":")[1].isdigit() for place in lines)
