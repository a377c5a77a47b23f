"""The ablation of the recipe `alive`: its table of experiments, and what chapter 10 makes of the results."""

import ast
import json
import re
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt  # noqa: E402

from cause_book.verdicts import alive  # noqa: E402
from cause_lib.config import RECIPES  # noqa: E402
from workflow import results  # noqa: E402
from workflow.rows import PLACES, read_rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TABLE, RESULTS = ROOT / "experiments/alive.csv", ROOT / "cause_book/results/alive.csv"
CHAPTER = json.loads((ROOT / "notebooks/10_alive.ipynb").read_text())["cells"]
TAKEN_AWAY = {  # the fields in which each line parts from the whole recipe
    "alive": set(), "published clusterbook": {"prototype_start", "num_concepts", "concept_steps"},
    "constant thresholds": {"recipe", "positive_quantile", "negative_quantile"}, "random centroids": {"probe_start"},
    "no smoothing": {"smoothing"}, "100 updates of step 2": {"head_steps"}, "600 updates of step 2": {"head_steps"},
    "with the bank": {"bank_capacity"}, "step 1 after the start": {"concept_steps"},
    "higher quantiles": {"positive_quantile", "negative_quantile"}, "whole pictures": {"crops"},
    "twenty crops a picture": {"crops"}, "no step 2": {"head_steps"},
    "transformer head": {"head", "train_size", "clip_norm", "probe_decay_steps"},
}


def test_each_line_takes_one_repair_away_from_the_same_run():
    rows = read_rows(TABLE)
    whole = {_setting(row): row.experiment for row in rows if row.label == "alive"}
    seeds: dict[tuple, list] = {}
    for row in rows:
        seeds.setdefault((row.label, *_setting(row)[:2]), []).append(row.experiment.seed)
        if row.label in TAKEN_AWAY:
            other = whole[_setting(row)].to_dict()
            changed = {name for name, value in row.experiment.to_dict().items() if value != other[name]}
            assert changed - {*PLACES, "crf"} == TAKEN_AWAY[row.label], row.number
        if row.label == "published":
            assert row.experiment == whole[_setting(row)].replace(recipe="published", crf=row.experiment.crf)
        if row.label == "published, as long":  # more training alone
            longer = {name: RECIPES["alive"][name] for name in ("head_steps", "probe_steps")}
            assert row.experiment == whole[_setting(row)].replace(recipe="published", crf=False).replace(**longer)
    assert set(map(tuple, seeds.values())) == {(0, 1, 2)}
    assert {row.stage for row in rows if row.label == "tokens"} == {"baseline"}
    assert {row.label for row in rows} == {*TAKEN_AWAY, "published", "published, as long", "tokens"}


def _setting(row):
    return row.experiment.dataset, row.experiment.folder, row.experiment.seed


EARLIER = {  # the same of the lines about the recipe `earlier`
    "published, whole pictures": {"recipe", "facet", "probe_decay_steps", *RECIPES["alive"]},
    "alive, whole pictures": {"recipe", "facet"}, "earlier, five crops": {"crops"}, "earlier, no step 2": {"head_steps"},
    "earlier, published clusterbook": TAKEN_AWAY["published clusterbook"],
    "earlier, constant thresholds": TAKEN_AWAY["constant thresholds"], "earlier, with the bank": {"bank_capacity"},
    "earlier, random centroids": {"probe_start"}, "earlier, no smoothing": {"smoothing"},
}
TOKENS = {  # facet and crops of each k-means
    "tokens of whole pictures": ("token", "none"), "tokens of the earlier block": ("normed", "five"),
    "tokens of the earlier block, whole pictures": ("normed", "none"), "tokens of a random network": ("token", "five"),
    "tokens of a random network, whole pictures": ("token", "none"),
}


def test_each_control_of_earlier_parts_from_it_in_one_thing():
    rows = read_rows(ROOT / "experiments/earlier.csv")
    others = {(row.label, *_setting(row), row.experiment.backbone): row.experiment
              for row in read_rows(ROOT / "experiments/rivals.csv")}
    whole = {key[1:]: run for key, run in others.items() if key[0] == "earlier"}
    labels: dict[str, list] = {}
    for row in rows:
        run = row.experiment
        labels.setdefault(row.label, []).append(_setting(row) + (run.backbone,))
        if row.label in EARLIER:
            other = whole[labels[row.label][-1]].to_dict()
            changed = {name for name, value in run.to_dict().items() if value != other[name]}
            assert changed - {*PLACES, "crf", "per_image"} == EARLIER[row.label] and row.stage == "evaluation", row.number
        elif row.label in TOKENS:
            assert (run.facet, run.crops) == TOKENS[row.label] and row.stage == "baseline", row.number
        else:
            other = others[(run.method, *labels[row.label][-1])]
            assert row.label == f"{run.method}, whole pictures" and run.settings == other.settings, row.number
            assert other.experiment.crops != "none", row.number  # else the same run twice
            assert run.experiment == other.experiment.replace(crops="none", crf=False, per_image=False), row.number
    for label, settings in labels.items():
        assert sorted(settings) == (sorted(whole) if "random network" not in label else
                                    [("scenes", "", seed, "bundled.random") for seed in range(3)]), label
    done = pd.read_csv(ROOT / "cause_book/results/earlier.csv")
    rivals = {"hp, whole pictures"}
    assert {*labels} == {*EARLIER, *TOKENS, *rivals} and set(done["row"]) <= {*labels}
    assert list(done.columns) == results.COLUMNS


def test_what_chapter_10_says_of_earlier():
    runs = pd.concat(pd.read_csv(ROOT / f"cause_book/results/{name}.csv") for name in ("rivals", "earlier"))
    each = runs[~runs["crf"].astype(bool)].groupby(["row", "readout", "dataset", "backbone"])["miou"].agg(["mean", "size"])
    mean = each["mean"].unstack(["dataset", "backbone"])
    del mean["scenes", "bundled.random"]
    needed = each.loc[["tokens", "alive", "earlier", *EARLIER.keys() - {"earlier, with the bank", "published, whole pictures"}]]
    assert (needed["size"] == 3).all() and mean.shape[1] == 5
    ti, small, scenes = "vit_tiny_patch16_224.supervised", "vit_small_patch14_dinov2.saliency", [("scenes", "bundled")]
    camvid, msrc = [("camvid", ti)], [("msrc_v2", ti)]

    def below(row, other, readout="kmeans", other_readout=None) -> list:
        """The columns in which a row is not above another."""
        less = mean.loc[(row, readout)] <= mean.loc[(other, other_readout or readout)]
        return sorted(less.index[less])

    own = "modularity"
    tokens, whole = "tokens", "tokens of whole pictures"
    block, both = "tokens of the earlier block", "tokens of the earlier block, whole pictures"
    assert below(whole, tokens) == [] and below(both, block) == camvid
    assert below(block, tokens) == below(both, whole) == msrc
    for readout in (own, "kmeans"):
        assert below("earlier", "alive", readout) == below("earlier", "earlier, no step 2", readout) == []
        assert below("earlier", "earlier, constant thresholds", readout) == []
        without = below("earlier", "earlier, published clusterbook", readout)
        assert set(without) == {*camvid, *[("camvid", small)] * (readout == "kmeans")}
        lost = mean.loc[("earlier", readout)] - mean.loc[("earlier, no smoothing", readout)]
        assert (lost[[*camvid, *msrc, ("msrc_v2", small)]] > 0.5).all() and (lost[[*scenes, ("camvid", small)]].abs() < 0.5).all()
        assert below("earlier", both, readout, "kmeans") == scenes
        assert set(below("earlier", whole, readout, "kmeans")) <= {*scenes}
        assert below("earlier", "earlier, five crops", readout) == camvid
        assert msrc[0] in below("earlier", "alive, whole pictures", readout)
    assert below("earlier", "earlier, random centroids", own) == []
    for readout in (own, "kmeans"):
        rise = mean.loc[("published, whole pictures", readout)] - mean.loc[("published", readout)]
        assert (rise[[*camvid, *msrc]] > 0).all() and rise["msrc_v2", small] < 0
    for readout in ("own", "kmeans"):
        gained = mean.loc[("hp, whole pictures", readout)] - mean.loc[("hp", readout)]
        assert gained[camvid[0]] < 0 < gained["scenes", "bundled"]
    assert (mean.loc[("earlier", "kmeans")] == mean.loc[("earlier, random centroids", "kmeans")]).all()


def test_what_chapter_10_says_of_the_ablation_on_scenes():
    runs = pd.read_csv(RESULTS).query("dataset == 'scenes' and not crf")
    each = runs.pivot(index=["row", "seed"], columns="readout", values="miou")[["modularity", "kmeans", "concepts"]]
    lost = each.drop(index=["tokens", "published"], level="row").rsub(each.loc["alive"], level="seed")
    mean = lost.groupby("row").mean()
    assert (lost.groupby("row").size() == 3).all() and (lost.loc["constant thresholds"] > 0).all(axis=None)
    assert (lost.loc["random centroids", "modularity"] > 0).all()
    start = lost.loc["published clusterbook"]
    assert (start.min() < 0).tolist() == [False, True, True] and (start.max() > 0).all()  # two disagree by the seed
    assert (mean.loc["no smoothing"].abs() < 0.5).all()
    bank = mean.loc["with the bank"]
    assert (bank[["modularity", "concepts"]].abs() < 0.5).all() and abs(bank["kmeans"] - 1) < 0.2
    lower = ["step 1 after the start", "100 updates of step 2", "600 updates of step 2", "no step 2"]
    assert (mean.loc[lower] > 0).all(axis=None) and (mean.loc[["whole pictures", "twenty crops a picture"]] < 0).all(axis=None)
    longer = (each.loc["published, as long"] - each.loc["published"]).mean()
    assert (longer[["modularity", "kmeans"]] < 0).all()


def test_runs_of_the_set_kept_back_have_the_settings_of_the_others():
    others = {(row.label, row.experiment.backbone, row.experiment.seed): row for name in ("earlier", "rivals")
              for row in read_rows(ROOT / f"experiments/{name}.csv") if row.experiment.folder == "msrc_v2"}
    rows = read_rows(ROOT / "experiments/clothing.csv")
    for row in rows:
        other = others[row.label, row.experiment.backbone, row.experiment.seed]
        own, theirs = row.experiment.to_dict(), other.experiment.to_dict()
        changed = {name for name, value in own.items() if value != theirs[name]}
        assert changed <= {"folder", "crf", "per_image", *PLACES} and row.stage == other.stage, row.number
    assert len(rows) == len({(row.label, row.experiment.backbone, row.experiment.seed) for row in rows}) == 8 * 2 * 3


def test_what_is_said_of_the_set_kept_back():
    runs = pd.read_csv(ROOT / "cause_book/results/clothing.csv")
    page, chapter = (ROOT / "book/intro.md").read_text(), "".join("".join(cell["source"]) for cell in CHAPTER)
    assert list(runs.columns) == results.COLUMNS and not runs["crf"].any() and set(runs["images"]) == {502}
    each = runs.pivot(index=["row", "readout"], columns=["backbone", "seed"], values="miou")
    gained = each - each.loc[("tokens of whole pictures", "kmeans")]
    small, ti = sorted(runs["backbone"].unique())
    assert each[ti].notna().all(axis=None) and each[small].isna().all(axis=1).equals(each[small].isna().any(axis=1))
    mean = gained.T.groupby("backbone").mean().T
    not_run = mean.index[mean[small].isna()].unique("row")
    assert set(not_run) == {"published", "eigensegments"} and "Not run: the published recipe and eigens" in chapter
    earlier, alive_, deep = (mean.loc[key, [ti, small]].tolist() for key in (
        ("earlier", "modularity"), ("alive", "modularity"), ("deepspectral", "own")))
    assert (mean.loc[["earlier", "alive"]] > 0).all(axis=None) and (gained.loc["earlier", small] > 0).all(axis=None)
    below = (gained.loc["earlier", ti] < 0).sum(axis=1)
    assert below.to_dict() == {"modularity": 1, "kmeans": 1, "concepts": 0}
    assert "it gains {:.1f} over k-means with one backbone, but not with every seed, and {:.1f} with".format(*earlier) in page
    assert "gains {:.1f} with ViT-Ti/16, where one seed of three is below, and {:.1f} with ViT-S/14".format(*earlier) in page
    assert "DeepSpectral gains {:.1f} and {:.1f}, `alive` {:.1f} and {:.1f}.".format(*deep, *alive_) in page
    assert abs(alive_[0] - earlier[0]) < 0.5 and earlier[1] - alive_[1] > 4 and deep[1] < alive_[1]
    assert mean[ti].idxmax() == ("deepspectral", "own")
    assert not (mean.loc[["published", "hp"]] > 0).any(axis=None)
    assert (mean.loc[("tokens", "kmeans")] > 0).all()  # whole pictures do not help
    crops = each.loc[("tokens", "kmeans"), ti].sort_values()
    assert crops.iloc[2] - crops.iloc[1] > 5 > 1 > crops.iloc[1] - crops.iloc[0]


def test_the_committed_results_are_lines_of_the_table():
    done = pd.read_csv(RESULTS)
    assert list(done.columns) == results.COLUMNS and not done.duplicated(["row", "settings", "readout", "crf"]).any()
    assert set(done["row"]) <= {row.label for row in read_rows(TABLE)}


@pytest.fixture
def shown(monkeypatch):
    """A function that runs the chapter's cells about a file of results: what each of them shows."""
    monkeypatch.setattr(plt, "show", lambda: None)

    def show(path: Path) -> dict[str, str]:
        said: list = []
        names = {"results": str(path), "display": said.append}
        texts = {}
        for cell in CHAPTER:  # of the first two cells only what the others use: imports and the read-outs' names
            if cell["id"] not in ("imports", "together", "photos-scores", "ablation", "ablation-figure", "judge"):
                continue
            tree = ast.parse("".join(cell["source"]))
            if cell["id"] in ("imports", "together"):
                tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
                             or isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "READOUTS"]
            tree.body = [node for node in tree.body if "IPython.display" not in ast.unparse(node)]
            names |= {name: _Shown for name in ("HTML", "Markdown")}
            exec(compile(tree, cell["id"], "exec"), names)
            texts[cell["id"]] = "\n".join(item.text for item in said)
            said.clear()
        return texts

    yield show
    plt.close("all")


class _Shown:
    def __init__(self, text):
        self.text = text


def lines_of(dataset: str, changes: dict[str, float], *, seeds=(0, 1)) -> list[dict]:
    """Results with these changes of mIoU against 24 + seed, one a seed, read-out and CRF; `tokens` has one read-out."""
    made = dict(dataset=dataset, backbone="vit", images=233, clusters_used=11, num_clusters=11, device="cpu",
                date="2026-01-02")
    return [made | dict(row=row, readout=readout, crf=crf, seed=seed, miou=24.0 + seed + change, pacc=50.0 + change)
            for row, change in changes.items() for seed in seeds
            for readout in ("modularity", "kmeans", "concepts")[:1 if row == "tokens" else 3] for crf in (False, True)]


def write(lines: list[dict], path: Path) -> Path:
    for line in lines:
        line["readout"] = "kmeans" if line["row"] == "tokens" else line["readout"]
    pd.DataFrame(lines).reindex(columns=results.COLUMNS).to_csv(path, index=False)
    return path


def test_the_chapter_says_so_where_nothing_was_run(shown, tmp_path):
    (tmp_path / "empty.csv").write_text(",".join(results.COLUMNS) + "\n")
    for path in ("missing.csv", "empty.csv"):
        texts = shown(tmp_path / path)
        assert all("Nothing has been run yet" in texts[name] for name in ("photos-scores", "ablation"))
        assert not texts["judge"] and not plt.get_fignums()


def test_the_chapter_holds_each_line_against_the_whole_recipe(shown, tmp_path):
    lines = lines_of("camvid", {"alive": 0.0, "no smoothing": -1.5}) + lines_of("camvid", {"tokens": -6.0}, seeds=[0])
    lines.append(lines[0] | dict(row="no smoothing", readout="kmeans", crf=False, seed=2, miou=99.0))  # alone
    text = shown(write(lines, tmp_path / "done.csv"))["ablation"]
    assert text.count("<tr>") == 1 + 6 + 6 + 2 and "99.0" not in text
    assert text.count("\N{MINUS SIGN}1.5 (\N{MINUS SIGN}1.5, \N{MINUS SIGN}1.5)") == 12  # of mIoU and of pAcc
    assert "\N{MINUS SIGN}6.0 (\N{MINUS SIGN}6.0)" in text and "k-means + CRF" in text
    (axes,) = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no smoothing", "tokens"]


def test_the_chapter_says_what_is_gained_over_tokens_with_the_same_crf(shown, tmp_path):
    lines = lines_of("camvid", {"tokens": -6.0, "published": -7.0, "alive": 0.0})
    for line in lines:
        line["miou"] += 2.0 * (line["crf"] and line["row"] == "tokens")
    text = shown(write(lines, tmp_path / "done.csv"))["photos-scores"]
    assert text.count("<tr>") == 1 + 2 + 6 + 6 and "Run between 2026-01-02 and 2026-01-02 on cpu; backbones vit." in text
    assert text.count("+6.0 (+6.0, +6.0)") == 3 + 6 and text.count("+4.0 (+4.0, +4.0)") == 3  # with CRF, of mIoU


def test_one_set_chooses_and_another_judges(shown, tmp_path):
    lines = lines_of("camvid", {"tokens": -6.0, "alive": 0.0, "higher quantiles": -1.0, "no smoothing": 5.0})
    lines += lines_of("msrc_v2", {"tokens": -4.0, "alive": 0.0, "higher quantiles": 2.0})  # one line is not run there
    text = shown(write(lines, tmp_path / "done.csv"))["judge"]
    first, second = [re.findall(r">([^<>]+)</t[hd]>", line) for line in text.split("<tr>")[2:]]
    assert first == ["camvid", "msrc_v2", "higher quantiles, modularity", "6", "23.5", "49.0", "+5.0 (+5.0, +5.0)",
                     "+5.0 (+5.0, +5.0)", "24.5"]
    assert second[:3] == ["msrc_v2", "camvid", "alive, modularity"] and second[-3:] == ["+4.0 (+4.0, +4.0)"] * 2 + ["26.5"]


def test_the_chapter_gives_a_reason_for_every_setting_of_the_recipe():
    assert set(alive.REASONS) == set(RECIPES["alive"])
