"""Sentences of the chapters (cause_book/verdicts): the right direction and number, ties, missing values, one seed."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_sentence_length import LONGEST, MEAN, sentences

from cause_book import granularity, verdicts
from cause_lib.config import Experiment
from cause_lib.data.scenes import LEVELS, OBJECTS, PARTS

ROOT = Path(__file__).resolve().parents[2]
NAN = float("nan")


def said(text: str) -> str:
    """A text with no missing number and no sentence that is too long, as it is; a mean of a few sentences may differ."""
    assert not {"nan", "None"} & set(re.findall(r"\w+", text))
    assert not [sentence for words, _, sentence in sentences(text) if words > LONGEST]
    counted = [words for words, closed, _ in sentences(text) if closed]
    assert sum(counted) <= 1.35 * MEAN * len(counted), (sum(counted) / len(counted), text)
    return text


# words

@pytest.mark.parametrize("changes, word", [
    ([1.0, 2.0], "above"), ([-1.0, -0.6], "below"), ([0.4, -0.5], "level"), ([1.0, 0.4], "undecided"),
    ([1.0, -1.0], "undecided"), ([1.0, NAN], "undecided"), ([1.0], "above"), ([0.5], "level")])
def test_seeds_have_to_agree(changes, word):
    assert verdicts.words.direction(changes) == word


@pytest.mark.parametrize("difference, word", [(1.24, "1.2 points above"), (-1.24, "1.2 points below"), (0.04, "level with"),
                                              (0.0, "level with"), (NAN, "not comparable with")])
def test_a_difference_has_its_direction(difference, word):
    assert verdicts.words.compared(difference) == word


def test_points_name_each_seed():
    assert verdicts.words.points([1.0]) == "+1.0"
    assert verdicts.words.points([1.0, 3.0]) == "+2.0 (+1.0, +3.0)"


def test_shares_of_variance():
    row = torch.arange(3.0)[:, None].expand(3, 2).reshape(1, 6, 1)
    found = verdicts.words.shares(row.expand(4, 6, 1), (3, 2))
    assert found == pytest.approx({"picture": 0.0, "row": 1.0})
    light = torch.tensor([0.0, 2.0])[:, None, None].expand(2, 6, 1)
    assert verdicts.words.shares(light, (3, 2)) == pytest.approx({"picture": 1.0, "row": 0.0})


def test_links_name_files_that_exist():
    """As "[chapter 4](04_features.ipynb)" or "[the card](backbone.ipynb)", seen from notebooks/."""
    links = [(path.name, *link) for path in (ROOT / "cause_book/verdicts").glob("*.py")
             for link in re.findall(r"\[([^\]]*)\]\(([^)]*\.(?:ipynb|md))\)", "".join(re.split(r'"\s+f?"', path.read_text())))]
    assert links
    for name, text, target in links:
        assert (ROOT / "notebooks" / target).is_file(), f"{name}: {target}"
        number = re.match(r"(\d\d)_", target)
        assert [int(each) for each in re.findall(r"\d+", text)] == ([int(number[1])] if number else []), f"{name}: {text}"


# chapter 4

def test_height_in_tokens():
    bands = torch.arange(3.0)[:, None].expand(3, 2).reshape(1, 6, 1).expand(4, 6, 1)
    noise = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0)) * 20
    text = said(verdicts.features.height({"tokens": bands, "untrained": bands + noise}, (3, 2)))
    assert "100% is the same" in text and "(untrained: " in text and "horizontal bands" in text
    text = said(verdicts.features.height({"tokens": noise}, (3, 2)))
    assert "horizontal bands" not in text and "not the height" in text
    assert "All tokens are equal" in said(verdicts.features.height({"tokens": torch.ones(4, 6, 2)}, (3, 2)))


def test_pairs_beside_the_thresholds():
    one, two = verdicts.features.ONE, verdicts.features.TWO
    parts = {"random directions": torch.zeros(4), one: torch.tensor([0.0, 0.2, 0.5, 0.5]), two: torch.tensor([0.0, 0.9])}
    text = said(verdicts.features.pairs(parts, 100, 0.1, 0.3))
    assert "= 0.100$" in text and "is 1.0 of these" in text and "is 3.0." in text
    assert f"| {one} | 50% | 25% | 25% |" in text
    assert "25% of the pairs of *one* class negatives, and 50% of the pairs of *two*" in text
    assert "labels" not in said(verdicts.features.pairs({"random directions": torch.zeros(4)}, 100, 0.1, 0.3))
    alone = said(verdicts.features.pairs(parts | {two: torch.zeros(0)}, 100, 0.1, 0.3))  # pictures of one class
    assert "nan" not in alone and "labels" not in alone and f"| {one} |" in alone


# chapter 5

def test_the_training_of_the_clusterbook():
    reached = {"views": (NAN, 2.0), "twelve people": (0.4, 0.5)}
    text = said(verdicts.clusterbook.training([-0.1] * 10 + [-0.3] * 10, reached))
    assert "was 0.1000 over the first tenth of the updates and 0.3000 over the last" in text
    assert "| views | 0.30 | 2.00 |" in text and "| twelve people | 0.40 | 0.50 |" in text
    assert "has diverged" in said(verdicts.clusterbook.training([-0.1, NAN], reached))
    assert "was 0.1000" in said(verdicts.clusterbook.training([-0.1], reached))


def test_concepts_and_height():
    rows = torch.arange(4)[:, None].expand(4, 3).flatten()[None]
    text = said(verdicts.clusterbook.height(rows.expand(2, 12), (4, 3)))
    assert "explains 100% of the variance of its height" in text and "and 0% of" in text
    assert "encode height" in text and "100% (0)" in text
    columns = torch.arange(3)[None].expand(4, 3).reshape(1, 12)
    text = said(verdicts.clusterbook.height(columns, (4, 3)))
    assert "height alone does not determine" in text and "encode height" not in text
    patches = torch.arange(12)[None]  # both: no preference for height
    assert "encode height" not in said(verdicts.clusterbook.height(patches, (4, 3)))
    assert "no places to compare" in said(verdicts.clusterbook.height(torch.zeros(1, 3, dtype=torch.int64), (1, 3)))


def directions(*rows):
    return F.normalize(torch.tensor(rows), dim=-1)


VIEWS = directions([1.0, 0.2, 0.0], [1.0, -0.2, 0.0])
START = directions([1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, -1.0])


def test_unused_prototypes_that_turn_away():
    used = torch.tensor([True, False, False])
    trained = directions([1.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, -1.0])
    text = said(verdicts.clusterbook.unused(START, trained, used, VIEWS, VIEWS))
    assert "data support" in text and "| unused | 0.71, then -0.71 | 0%, then 100% | 0.00 |" in text and "whole" not in text
    text = said(verdicts.clusterbook.unused(START, trained, used, VIEWS, torch.cat([VIEWS, -VIEWS])))
    assert "*whole* pictures, however, 50%" in text


@pytest.mark.parametrize("trained", [START, directions([1.0, 1.0, 0.0], [1.0, 0.0, 0.1], [1.0, 0.0, -0.1])])
def test_unused_prototypes_that_stay_or_come_nearer(trained):
    text = said(verdicts.clusterbook.unused(START, trained, torch.tensor([True, False, False]), VIEWS, VIEWS))
    assert "do not support" in text


@pytest.mark.parametrize("used", [True, False])
def test_without_unused_or_used_ones_there_is_no_comparison(used):
    assert "nothing to compare" in said(verdicts.clusterbook.unused(START, START, torch.full((3,), used), VIEWS, VIEWS))
    assert "fewer than two" in said(verdicts.clusterbook.alike(START, START, torch.full((3,), used), VIEWS))


def test_why_unused_prototypes_are_alike():
    used = torch.tensor([True, True, False, False])
    start = directions([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0])
    assert "hardly changed" in said(verdicts.clusterbook.alike(start, start, used, VIEWS))
    away = directions([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.1, 0.0], [-1.0, -0.1, 0.0])
    text = said(verdicts.clusterbook.alike(start, away, used, VIEWS))
    assert "was 0.00 at the start and is 0.98" in text and "used ones it is 0.00" in text and "more than half" in text
    other = directions([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.1, 1.0], [0.0, -0.1, 1.0])
    assert "less than half" in said(verdicts.clusterbook.alike(start, other, used, VIEWS))


# chapter 8

def line(method, readout, miou, pacc=0.5, iou=(0.3, 0.05, None)):
    return {"method": method, "readout": readout, "crf": False, "miou": miou, "pacc": pacc, "iou": iou,
            "clusters_used": 2, "num_clusters": 3}


def plain(published, by_kmeans, tokens=0.20, fresh=0.10):
    lines = [line("k-means", "kmeans", tokens), line("untrained", "modularity", fresh), line("untrained", "kmeans", fresh),
             line("CAUSE-TR", "modularity", published, 0.6), line("CAUSE-TR", "kmeans", by_kmeans)]
    return {verdicts.evaluation.name_of(each, "TR"): each for each in lines}


NOT = "not distinguished (within 2 points of mIoU) from"


@pytest.mark.parametrize("published, by_kmeans, gain, readout", [
    (0.15, 0.25, "5.0 points of mIoU above", "10.0 points of mIoU below"), (0.21, 0.21, NOT, NOT),
    (0.22, 0.15, "5.0 points of mIoU below", "7.0 points of mIoU above"), (0.20, 0.22, NOT, NOT)])
def test_read_outs_beside_controls(published, by_kmeans, gain, readout):
    text = said(verdicts.evaluation.read_outs(plain(published, by_kmeans), "TR", ["sky", "tree", "car"], 7))
    assert "One seed (7)" in text and f"head is {gain} the better of its two controls." in text
    assert f"published read-out is {readout} k-means." in text and "by the published read-out: sky." in text
    to_tokens = verdicts.words.compared(100 * (published - 0.20))
    assert f"(modularity)**, mIoU: {to_tokens} k-means on tokens" in text
    assert "accuracy: 10.0 points above k-means on tokens, 10.0 points above the untrained head" in text


def test_read_outs_where_something_is_missing():
    empty = {name: each | {"iou": [None]} for name, each in plain(0.2, 0.2).items()}
    assert "read-out: none." in said(verdicts.evaluation.read_outs(empty, "TR", ["sky"], 0))
    released = {"TR (released), modularity": line("CAUSE-TR", "modularity", 0.2)}
    assert "nothing was trained here" in said(verdicts.evaluation.read_outs(released, "TR (released)", [], 0))
    lines = [line("k-means", "kmeans", 0.2), line("CAUSE-TR", "linear", 0.3) | {"crf": True}]
    table = verdicts.evaluation.lines(lines, "TR", True)
    assert table["features, read-out"].tolist() == ["k-means on tokens", "TR, linear"]
    assert table["CRF"].tolist() == ["no", "yes"] and table["mIoU (%)"].tolist() == pytest.approx([20, 30])
    assert table["groups used"].iloc[0] == "2 of 3" and verdicts.evaluation.lines(lines, "TR", False)["mIoU (%)"].isna().all()


def test_height_of_masks():
    bands = torch.arange(3)[None, :, None].expand(2, 3, 4)
    mixed = torch.arange(4)[None, None].expand(2, 3, 4)
    void = torch.full((2, 3, 4), -1)
    assert verdicts.evaluation.told_by_height(bands) == 1.0 and verdicts.evaluation.told_by_height(mixed) == 0.25
    text = said(verdicts.evaluation.height({"TR": bands, "label": mixed}))
    assert "100% (TR), 25% (label)" in text and "more on height than the labels" in text
    for masks in ({"TR": mixed, "label": bands}, {"TR": bands, "other": mixed, "label": mixed}, {"TR": bands, "label": bands}):
        assert "more on height" not in said(verdicts.evaluation.height(masks))
    for masks in ({"TR": bands}, {"TR": bands, "label": void}):
        assert "labels" not in said(verdicts.evaluation.height(masks))


# chapter 9

def runs(gains, tokens=(20.0, 21.0), random=(15.0, 16.0), recipe="published"):
    lines = [("k-means on tokens", "vit", "-", seed, miou) for seed, miou in enumerate(tokens)]
    lines += [("k-means on tokens", "vit.random", "-", seed, miou) for seed, miou in enumerate(random)]
    lines += [("CAUSE-TR", "vit", "k-means", seed, tokens[seed] + gain) for seed, gain in enumerate(gains)]
    return pd.DataFrame([{"dataset": "scenes", "method": method, "backbone": backbone, "recipe": recipe, "readout": readout,
                          "settings": "", "seed": seed, "mIoU": miou, "accuracy": 50.0} for method, backbone, readout, seed, miou in lines])


@pytest.mark.parametrize("gains, word, points", [
    ((2.0, 3.0), "above", "+2.5 (+2.0, +3.0)"), ((-2.0, -3.0), "below", "−2.5 (−2.0, −3.0)"),
    ((2.0, -2.0), "undecided", "0.0 (+2.0, −2.0)"), ((0.1, 0.3), "level", "+0.2 (+0.1, +0.3)")])
def test_heads_beside_the_baseline(gains, word, points):
    text = said(verdicts.results.baselines(runs(gains), "vit", "published"))
    assert "(mIoU 20.5 (20.0 to 21.0), accuracy" in text
    assert f"- CAUSE-TR, read-out k-means: {word} in mIoU ({points}), level in accuracy" in text and "One seed" not in text
    assert "changes k-means by +5.0 (+5.0, +5.0) points of mIoU" in text and f"k-means) adds {points} points" in text


def test_a_baseline_with_one_seed_or_none():
    text = said(verdicts.results.baselines(runs((2.0,), tokens=(20.0,), random=()), "vit", "alive"))
    assert "**One seed does not establish" in text and "CAUSE-TR (recipe published)" in text
    assert "20.0 (one seed)" in text and "Training the backbone" not in text
    one_shared = runs((2.0, 3.0)).query("method != 'k-means on tokens' or seed == 0")
    assert "**One seed does not" in said(verdicts.results.baselines(one_shared, "vit", "published"))
    missing = runs((2.0, 3.0)).assign(mIoU=NAN)
    for table in (missing, runs((2.0, 3.0)).query("backbone == 'vit.random'"), runs((2.0,)).iloc[:0]):
        assert verdicts.results.baselines(table, "vit", "published").startswith("No labelled run")


def test_two_settings_are_no_two_seeds():
    """Runs of one line that differ in their updates, or a rival's in its own settings, are told apart; seeds are not."""
    def record(stage, notes=None, **fields):
        return {"stage": stage, "experiment": Experiment(**fields).to_dict(), "notes": {"settings": notes or {}}}

    records = [record("evaluation", seed=0), record("evaluation", seed=1, run_dir="elsewhere"),
               record("evaluation", seed=0, head_steps=10), record("evaluation", seed=0, recipe="alive"),
               record("baseline_evaluation"), record("baseline_evaluation", head_steps=10, crf=False),
               record("rival_evaluation", {"steps": 5}), record("rival_evaluation", {"steps": 6})]
    lines = [("TR", "published")] * 3 + [("TR", "alive")] + [("tokens", "")] * 2 + [("STEGO", "")] * 2
    found = verdicts.results.apart(records, lines)
    assert found == ["head_steps 40", "head_steps 40", "head_steps 10", "", "", "", "steps 5", "steps 6"]
    more = [*records[:3], record("evaluation", head_steps=10, probe_steps=5), record("evaluation", head_steps=9, lr=0.1, dropout=0.2)]
    assert verdicts.results.apart(more[:3] + more[4:], [0] * 4)[-1] == "head_steps 9 and 2 more"
    assert len(set(verdicts.results.apart(more, [0] * 5))) == 4  # five runs, two of them seeds
    del records[0]["experiment"]["resize"]  # a record of before that field
    assert verdicts.results.apart(records, lines) == found and verdicts.results.apart([], []) == []


def test_a_setting_is_compared_with_the_baseline_by_itself():
    short = runs((5.0, 7.0)).query("method == 'CAUSE-TR'").assign(settings="head_steps 10")
    text = said(verdicts.results.baselines(pd.concat([runs((2.0, 3.0)), short]), "vit", "published"))
    assert "read-out k-means: above in mIoU (+2.5 (+2.0, +3.0))" in text
    assert "read-out k-means, head_steps 10: above in mIoU (+6.0 (+5.0, +7.0))" in text
    floors = pd.concat([runs((2.0, 3.0)), runs((2.0, 3.0)).iloc[:2].assign(settings="image_size 96", mIoU=18.0)])
    text = said(verdicts.results.baselines(floors, "vit", "published"))
    assert "read-out k-means, beside tokens with image_size 96: above" in text and "of these heads" not in text


@pytest.mark.parametrize("values, shown", [([1.0, 3.0], "2.0 (1.0 to 3.0)"), ([1.0], "1.0 (one seed)"), ([1.0, NAN], "-"), ([], "-")])
def test_spread(values, shown):
    assert verdicts.results.spread(pd.Series(values, dtype=float)) == shown


READOUTS = {"modularity": "modularity", "kmeans": "k-means", "linear": "linear"}


def kept(changes, tr=(0.0, 0.0)):
    columns = {("CAUSE-MLP", "modularity"): [20.0] * len(changes), ("CAUSE-MLP", "kmeans"): [20.0 + each for each in changes],
               ("CAUSE-TR", "modularity"): [20.0 + each for each in tr]}
    return pd.DataFrame(columns)


@pytest.mark.parametrize("changes, word", [
    ((1.0, 2.0), "positive for every seed (+1.5"), ((-1.0, -2.0), "negative for every seed (−1.5"),
    ((1.0, -2.0), "undecided, not of one sign (−0.5"), ((0.0, 0.0), "undecided, not of one sign (0.0")])
def test_kept_runs_are_paired_by_seed(changes, word):
    text = said(verdicts.results.paired(kept(changes), READOUTS, pd.Series([20.5])))
    assert f"- CAUSE-MLP, k-means minus modularity: {word}" in text
    assert "- TR minus MLP, both by modularity: undecided" in text and "both by k-means" not in text
    assert "With 2 seeds" in text and "is 50%" in text
    above = sum(20 + each > 20.5 for each in changes)
    assert f"- CAUSE-MLP, k-means: {above} of 2 seeds above the baseline of this run (20.5 (one seed); not paired)" in text


def test_kept_runs_with_one_seed_or_none():
    text = said(verdicts.results.paired(kept((1.0,), (1.0,)), READOUTS, pd.Series([], dtype=float)))
    assert "One seed does not establish" in text and "chance" not in text and "baseline" not in text
    assert "no differences" in said(verdicts.results.paired(pd.DataFrame(), READOUTS, pd.Series([20.5])))
    partly = kept((1.0, NAN), (NAN, NAN))
    assert "One seed" in said(verdicts.results.paired(partly, READOUTS, pd.Series([], dtype=float)))


@pytest.mark.parametrize("tr, words", [([30.0, 31.0], "heads differ more than seeds"), ([20.0, 21.0], "heads differ no more than seeds"),
                                       ([21.02, 22.02], "1.0 between seeds: heads differ no more than seeds"), ([30.0], "not known")])
def test_heads_or_seeds(tr, words):
    heads = {"CAUSE-MLP": pd.Series([20.0, 21.0]), "CAUSE-TR": pd.Series(tr)}
    assert words in said(verdicts.results.heads_and_seeds(heads, "here"))


# chapter 10

@pytest.mark.parametrize("miou, word", [((10.0, 20.0, 30.0), "opposite"), ((30.0, 20.0, 10.0), "are the same"),
                                        ((20.0, 30.0, 10.0), "differ"), ((30.0, 30.0, 10.0), "cannot be compared")])
def test_orders_of_modularity_and_miou(miou, word):
    ends = dict(zip(("random", "k-means", "truth"), zip((0.3, 0.2, 0.1), miou)))
    text = said(verdicts.alive.orders(ends, (40.0, miou[2])))
    assert word in text and "random (0.300), k-means (0.200)" in text and f"from 40.0 % to {miou[2]:.1f} %" in text
    assert "one seed" in text


def test_the_table_of_settings_has_what_differs():
    text = verdicts.alive.settings({"recipe": "published", "smoothing": None, "lr": 1, "thin": 2},
                                   {"recipe": "alive", "smoothing": 0.1, "lr": 1, "thin": 3})
    assert text.splitlines()[2:] == ["| `smoothing` | none | 0.1 | a step of mean shift within each picture, see below |",
                                     "| `thin` | 2 | 3 | follows from the others |"]


@pytest.mark.parametrize("after, word", [(0.24, "(+4.0 points)"), (0.16, "(-4.0 points)"), (0.204, "less than 0.5 points"),
                                         (0.20, "less than 0.5 points")])
def test_smoothing(after, word):
    text = said(verdicts.alive.smoothing({"miou": 0.2, "pacc": 0.5}, {"miou": after, "pacc": 0.6}, 0.25))
    assert word in text and "25.0% of all" in text and "50.0 % to 60.0 %" in text and "One seed" in text.replace("one", "One")


def test_gains_of_the_recipe():
    text = said(verdicts.alive.gains({"k-means": [0.3, 0.32], "modularity": [0.2, 0.18]}, [0.2, 0.2]))
    assert "+11.0 (+10.0, +12.0) points (k-means)" in text and "−1.0 (0.0, −2.0) points (modularity)" in text
    assert "2 seeds" in text and "does not establish" not in text
    text = said(verdicts.alive.gains({"k-means": [0.3]}, [0.2]))
    assert "+10.0 points (k-means)" in text and "one seed, which does not establish a difference" in text


def asked(values):
    """Lines of the diagnosis: subject, quantity, its values at updates 0 and 10; two seeds, of which the second has 2 more."""
    return pd.DataFrame([
        {"dataset": "camvid", "row": "alive", "seed": seed, "subject": subject, "quantity": quantity, "update": 10 * place,
         "value": value + 2 * seed, "of": 8} for subject, quantity, both in values for seed in (0, 1)
        for place, value in reversed(list(enumerate(both)))])


def test_tables_of_the_diagnosis():
    values = [("prototypes", name, (5, 3)) for name in ("winning", "effective", "reached", "purity", "purity_by_chance", "ami")]
    values += [("pairs", name, (1,)) for name in ("positives", "negatives", "others", "median", "lonely")]
    values += [("centroids from k-means", name, (0.1, 0.2)) for name in ("winning", "H", "miou", "pacc")]
    ends = verdicts.alive.ends(asked(values))
    assert ends.loc["camvid", "alive", "prototypes", "winning"].to_dict() == {"first": 6, "last": 4, "of": 8}
    text = verdicts.alive.concepts(ends)
    assert text.count("<tr>") == 2 and ">4.0<" in text and ">400.0<" in text and ">8<" in text and ">2.00<" in text
    text = verdicts.alive.probes(ends)
    assert text.count("<tr>") == 2 and ">k-means<" in text and ">1.1 \N{RIGHTWARDS ARROW} 1.2<" in text
    assert ">1.1000 \N{RIGHTWARDS ARROW} 1.2000<" in text and ">110.0 \N{RIGHTWARDS ARROW} 120.0<" in text
    nothing = verdicts.alive.ends(pd.DataFrame(columns=[*verdicts.alive.KEY, "update", "value", "of"]))
    assert verdicts.alive.concepts(nothing) == verdicts.alive.probes(nothing) == ""


# chapter 11

def above(values, own=0.5, layout=0.3):
    return {level: granularity.Above(own, layout, np.asarray(each)) for level, each in zip(LEVELS, values)}


LED, OPEN = above([[0.1, 0.1], [0.3, 0.3], [0.2, 0.2]]), above([[0.1, 0.4], [0.3, 0.3], [0.2, 0.2]])


def test_a_grain_is_named_if_it_leads():
    level = list(LEVELS)[1]
    assert f"nearest to the **{level}** (20.0 at" in said(verdicts.granularity.grain_of(LED))
    assert "**not decided**" in said(verdicts.granularity.grain_of(OPEN))
    assert "**not decided**" in said(verdicts.granularity.grain_of(above([[0.1, 0.1]] * 3)))
    row = verdicts.granularity.beside(LED, level)
    assert row == {"AMI (%)": "50.0", "next picture's (%)": "30.0", "left (points)": "20.0", "95 % of draws": "30.0 to 30.0"}


def test_the_world_has_every_part_once():
    world = verdicts.granularity.world()
    assert sorted(world["object"]) == sorted(OBJECTS) and set(world["group"]) == set(LEVELS["group"][0])
    assert sum(len(each.split(", ")) for each in world["parts"]) == len(PARTS)


def test_pixels_and_their_patches():
    parts = torch.zeros(1, 4, 4, dtype=torch.int64)
    parts[0, 0, 0] = next(number for number, group in enumerate(LEVELS["group"][1]) if group != LEVELS["group"][1][0])
    labels = granularity.patch_labels(parts, 2)
    assert "94% have the part of their patch, 94% its object and 94%" in said(verdicts.granularity.patches(parts, labels, (2, 2)))


def test_the_grain_of_concepts():
    table = torch.zeros(5, len(PARTS), dtype=torch.int64)
    table[0, 0] = table[1, 9] = 4
    numbers = granularity.grain(table, draws=5)
    text = said(verdicts.granularity.concepts(table, numbers, LED))
    assert "2 of 5 concepts win" in text and "1.00 of the 1.00 bits of the part" in text
    assert "At least 60% of each AMI is layout" in text and "grain of the concepts is nearest" in text
    for levels, share in ((above([[0.1]] * 3, own=-0.1), None), (above([[0.1]] * 3, layout=-0.1), "0%")):
        text = said(verdicts.granularity.concepts(table, numbers, levels))
        assert (f"At least {share}" in text) if share else "layout" not in text


def test_pairs_of_different_objects():
    first, other = 0, next(number for number, owner in enumerate(LEVELS["object"][1]) if owner)
    pairs = granularity.Pairs(torch.tensor([0.5, 0.2, 0.0, 0.9]), torch.tensor([first] * 4),
                              torch.tensor([other, other, other, first]))
    assert verdicts.granularity.strangers(pairs, 0.3, 0.1).tolist() == [1, 1, 1]
    table = verdicts.granularity.kinds({"all": torch.tensor([3, 0, 1])}, {"all": torch.tensor([0, 0, 0])})
    assert table.loc[0, "positive, before"] == "75%" and table.loc[0, "negative, after"] == "-" and table.loc[0, "pairs"] == "4"


@pytest.mark.parametrize("shift, word", [(0.1, "better (+10.0"), (-0.1, "worse (-10.0"), (0.0, "not measurably")])
def test_separation(shift, word):
    given = torch.tensor([0.5, 0.6, 0.7, 0.8, NAN], dtype=torch.float64)
    noisy = given + torch.tensor([0.2, -0.2, 0.1, -0.1, 0.0])
    own, far = torch.tensor([3, 0, 1]), torch.tensor([1, 0, 3])
    text = said(verdicts.granularity.separation({"concepts": given, "head": given + shift, "tokens": noisy + shift},
                                                [own, own], [far, own]))
    assert f"objects {word}" in text and "Compared with the tokens, they do so not measurably better or worse" in text
    assert "concepts, 65.0 %" in text and "by 50 points before and 0 after" in text


def found(windows):
    return [windows.get(thing) for thing in OBJECTS]


def window(whole, alone, rival=0):
    return {"whole": whole, "alone": alone, "rival": rival}


def test_windows_of_objects():
    first, second, third, fourth = OBJECTS[1:5]
    early = found({first: window(0.5, 0.2), second: window(0.2, 0.5), third: window(0.3, 0.3), fourth: None})
    late = found({first: window(0.5, -np.inf, None), second: window(-np.inf, -np.inf, None), third: window(0.6, 0.55)})
    text = said(verdicts.granularity.windows({"before": early, "after": late}, 0.3))
    assert f"Before the head, there is such a window for 1 of {len(OBJECTS)} objects ({first}). No single value serves more than 1" in text
    assert "(at 0.20); the $\\phi^+$ of this run, 0.3, serves 1. After" in text
    assert f"After the head, there is such a window for 2 of {len(OBJECTS)} objects ({first}, {third})" in text
    nothing = said(verdicts.granularity.windows({"before": found({}), "after": found({})}, 0.3))
    assert "objects (none)" in nothing and "more than 0" in nothing


def test_cuts_are_segments_of_the_objects_own_parts():
    thing = max(OBJECTS, key=lambda each: len(verdicts.granularity.parts_of(each)))
    absent = next(each for each in OBJECTS if each != thing)  # has no window
    m = torch.full((len(PARTS), len(PARTS)), 0.4)
    table = verdicts.granularity.cuts({"before": m}, {"before": found({thing: window(0.4, 0.1)})}, [thing, absent], [0.5, 0.3])
    (row,) = table.to_dict("records")
    assert row["segments at 0.5"] == row["parts"] == len(verdicts.granularity.parts_of(thing)) and row["segments at 0.3"] == 1
    assert row["which"] == OBJECTS[0] and row["in one piece below"] == 0.4


def test_the_grain_of_masks():
    grains = {"TR": {level: {"ami": 0.1 * place} for place, level in enumerate(LEVELS)}}
    scores = {"TR": {"part": {"matched": 3, "classes": 34}}}
    text = said(verdicts.granularity.masks({"TR": LED}, grains, scores))
    assert "60% to 60% of the AMI" in text and f"largest AMI is that of {list(LEVELS)[-1]}s. 3 of 34 parts" in text
    assert "of the AMI is reached" not in said(verdicts.granularity.masks({"TR": above([[0.1]] * 3, own=0.0)}, grains, scores))


@pytest.mark.parametrize("levels, word", [(["part"] * 3, "the same"), (["part", "object", "part"], "changes"),
                                          (["part", None, "object"], "changes"), (["part", None, "part"], "stays open"), ([None] * 3, "stays open")])
def test_does_the_number_of_clusters_matter(levels, word):
    assert word in said(verdicts.granularity.numbers(levels))


@pytest.mark.parametrize("answers, bands, both, none", [
    ((0.5, 0.4, 0.1), (0.1, 0.2, 0.0), False, False), ((0.3, 0.4, 0.1), (0.1, 0.2, 0.0), True, False),
    ((0.1, 0.2, 0.0), (0.1, 0.2, 0.0), True, True), ((0.5, 0.4, 0.1), (0.6, 0.5, 0.2), False, True)])
def test_three_questions(answers, bands, both, none):
    answers, bands = (dict(zip(("group", "object", "part"), each)) for each in (answers, bands))
    text = said(verdicts.granularity.questions(answers, bands))
    assert f"{answers['group']:.0%} of the first" in text and ("Both answer" in text, "no question better" in text) == (both, none)


# the bundled backbone

def test_scores_of_the_backbone():
    of = {"random": {"k-NN": {"miou": 0.2}, "linear": {"miou": 0.3}}, "trained": {"k-NN": {"miou": 0.4}, "linear": {"miou": 0.25}}}
    text = said(verdicts.backbone.scores(of))
    assert "by k-NN from 20.0 to 40.0 % (+20.0 points); by linear from 30.0 to 25.0 % (-5.0 points)" in text
    bands = torch.arange(3.0)[:, None].expand(3, 2).reshape(1, 6, 1).expand(4, 6, 1)
    assert said(verdicts.backbone.variance({"bundled": bands}, (3, 2))) == "**bundled**: picture 0%, row 100%."


@pytest.mark.parametrize("look, common, word", [(torch.ones(16, 16), "100%", "common to all"), (torch.eye(16), "0%", "specific")])
def test_attention(look, common, word):
    text = said(verdicts.backbone.attention([look, look], (4, 4), 0))
    assert f"share {common} of their attention (mean over 2 pictures)" in text and word in text
    assert "gives them 39.1%" in text  # 4 corners have 4 places, 8 edges 6 and 4 inner patches 9, of 16
