"""The ablation of the recipe `alive`: its table of experiments, and what chapter 9 makes of the results."""

import ast
import json
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt  # noqa: E402

from cause_lib.config import RECIPES  # noqa: E402
from workflow import results  # noqa: E402
from workflow.audit import switch  # noqa: E402
from workflow.rows import read_rows  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TABLE, RESULTS = ROOT / "experiments/alive.csv", ROOT / "book/results/alive.csv"
CHAPTER = json.loads((ROOT / "notebooks/09_alive.ipynb").read_text())["cells"]
TAKEN_AWAY = {  # the fields in which each line parts from the whole recipe
    "alive": set(), "published clusterbook": {"prototype_start", "num_concepts", "concept_steps"},
    "constant thresholds": {"recipe", "positive_quantile", "negative_quantile"}, "random centroids": {"probe_start"},
    "no smoothing": {"smoothing"}, "100 updates of step 2": {"head_steps"}, "600 updates of step 2": {"head_steps"},
    "with the bank": {"bank_capacity"}, "step 1 after the start": {"concept_steps"},
    "higher quantiles": {"positive_quantile", "negative_quantile"}, "whole pictures": {"crops"},
    "twenty crops a picture": {"crops"}, "transformer head": {"head", "train_size", "clip_norm", "probe_decay_steps"},
}


def test_each_line_takes_one_repair_away_from_the_same_run():
    rows = read_rows(TABLE)
    whole = {_setting(row): row.experiment for row in rows if row.label == "alive"}
    seeds: dict[tuple, list] = {}
    for row in rows:
        seeds.setdefault((row.label, *_setting(row)[:2]), []).append(row.experiment.seed)
        if row.label in TAKEN_AWAY:
            changed = {part.split("=")[0] for part in switch(row.experiment, whole[_setting(row)]).split(", ") if part}
            assert changed == TAKEN_AWAY[row.label], row.number
        if row.label == "published":
            assert row.experiment == whole[_setting(row)].replace(recipe="published", crf=row.experiment.crf)
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)}
    assert {row.stage for row in rows if row.label == "tokens"} == {"baseline"}
    assert {row.label for row in rows} == {*TAKEN_AWAY, "published", "tokens"}


def _setting(row):
    return row.experiment.dataset, row.experiment.folder, row.experiment.seed


def test_the_committed_results_are_lines_of_the_table():
    done = pd.read_csv(RESULTS)
    assert list(done.columns) == results.COLUMNS and not done.duplicated(["row", "settings", "readout", "crf"]).any()
    assert set(done["row"]) <= {row.label for row in read_rows(TABLE)}


@pytest.fixture
def ablation(monkeypatch):
    """A function that runs the chapter's cells of the ablation on a file of results: what they show."""
    monkeypatch.setattr(plt, "show", lambda: None)

    def show(path: Path) -> str:
        shown: list = []
        names = {"results": str(path), "display": shown.append}
        wanted = [cell for cell in CHAPTER if cell["id"] in ("validate", "together", "ablation", "ablation-figure")]
        for cell in wanted:  # of the first two cells only what the others use: imports and the read-outs' names
            tree = ast.parse("".join(cell["source"]))
            if not cell["id"].startswith("ablation"):
                tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
                             or isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "READOUTS"]
            tree.body = [node for node in tree.body if "IPython.display" not in ast.unparse(node)]
            names |= {name: _Shown for name in ("HTML", "Markdown")}
            exec(compile(tree, cell["id"], "exec"), names)
        return "\n".join(item.text for item in shown)

    yield show
    plt.close("all")


class _Shown:
    def __init__(self, text):
        self.text = text


def test_the_chapter_says_so_where_nothing_was_run(ablation, tmp_path):
    assert "Nothing has been run yet" in ablation(tmp_path / "missing.csv")
    (tmp_path / "empty.csv").write_text(",".join(results.COLUMNS) + "\n")
    assert "Nothing has been run yet" in ablation(tmp_path / "empty.csv") and not plt.get_fignums()


def test_the_chapter_holds_each_line_against_the_whole_recipe(ablation, tmp_path):
    made = dict(dataset="camvid", backbone="vit", images=233, pacc=50.0, clusters_used=11)
    lines = [made | dict(row=row, readout=readout, crf=crf, seed=seed, miou=24.0 + seed + change)
             for row, change in (("alive", 0.0), ("no smoothing", -1.5)) for seed in (0, 1)
             for readout in ("modularity", "kmeans", "concepts") for crf in (False, True)]
    lines.append(made | dict(row="tokens", readout="kmeans", crf=False, seed=0, miou=18.0))
    lines.append(made | dict(row="no smoothing", readout="kmeans", crf=False, seed=2, miou=99.0))  # alone
    pd.DataFrame(lines).reindex(columns=results.COLUMNS).to_csv(tmp_path / "done.csv", index=False)
    text = ablation(tmp_path / "done.csv")
    assert text.count("<tr>") == 1 + 6 + 6 + 1 and "99.0" not in text
    assert text.count("\N{MINUS SIGN}1.5 (\N{MINUS SIGN}1.5, \N{MINUS SIGN}1.5)") == 6
    assert "\N{MINUS SIGN}6.0 (\N{MINUS SIGN}6.0)" in text and "k-means + CRF" in text
    (axes,) = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no smoothing", "tokens"]


def test_the_chapter_gives_a_reason_for_every_setting_of_the_recipe():
    (cell,) = [cell for cell in CHAPTER if cell["id"] == "recipes"]
    reasons = next(node.value for node in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(node, ast.Assign))
    assert set(ast.literal_eval(reasons)) == set(RECIPES["alive"])
