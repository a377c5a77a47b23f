"""Page one: its tables and the sentences about them are the results' and the paper's; no number is stale."""

import re
from pathlib import Path

import pandas as pd

from cause_book import RESULTS
from cause_book.rivals import systems
from cause_lib.config import Experiment
from workflow.rows import read_rows

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/intro.md").read_text()
NAMES = {"COCO-Stuff": "cocostuff", "Cityscapes": "cityscapes", "Pascal VOC": "pascalvoc"}
RUNS = {  # data set and backbone of a line
    "CamVid, ViT-Ti/16": ("camvid", "vit_tiny_patch16_224.supervised"),
    "CamVid, ViT-S/14": ("camvid", "vit_small_patch14_dinov2.saliency"),
    "MSRC v2, ViT-Ti/16": ("msrc_v2", "vit_tiny_patch16_224.supervised"),
    "MSRC v2, ViT-S/14": ("msrc_v2", "vit_small_patch14_dinov2.saliency"),
    "generated scenes, bundled": ("scenes", "bundled"),
}
OURS = ["tokens", "published", "alive", "earlier", "eigensegments"]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = PAGE[PAGE.index(f"## {heading}\n"):]
    lines = re.search(r"((?:^\|.*\n)+)", below, re.M).group(1).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_margins_are_over_the_best_rival_on_the_same_backbone():
    theirs, published = systems()[1], pd.read_csv(ROOT / "experiments/published_rows.csv")
    theirs = theirs[~theirs["system"].str.contains("CAUSE")]
    cause = published[published["method"] == "CAUSE-TR"]
    margins = []
    for name, ours, rival, margin in table("What is claimed"):
        dataset, backbone = NAMES[name.split(", ")[0]], name.split(", ")[1]
        best = theirs[(theirs["dataset"] == dataset) & (theirs["backbone"] == backbone)].nlargest(1, "miou").iloc[0]
        row = cause[(cause["dataset"] == dataset) & (cause["backbone"] == backbone) & (cause["initial_features"] == "DINO")]
        assert float(ours) == row["miou"].item() and rival == f"{best['system']} {best['miou']}"
        assert margin == f"{float(ours) - best['miou']:+.1f}"
        margins.append(float(margin))
    assert len(margins) == 7 and f"by {min(margins)} to {max(margins)} mIoU" in PAGE
    highest = theirs[theirs["dataset"] == "cityscapes"].nlargest(1, "miou").iloc[0]
    assert f"{highest['system']} is higher on Cityscapes: {highest['miou']} with a {highest['backbone']}" in PAGE
    assert highest["miou"] > cause.loc[cause["dataset"] == "cityscapes", "miou"].max()


def test_what_has_been_rerun_is_said():
    assert pd.read_csv(RESULTS / "published.csv").empty and "None of these rows has been rerun here" in PAGE


def test_results_are_the_files():
    own, gains, above, all_gains, runs = [], [], [], [], pd.read_csv(RESULTS / "rivals.csv")
    runs = runs[~runs["crf"].astype(bool)].set_index(["dataset", "backbone"]).sort_index()
    whole = controls().loc["tokens of whole pictures", "kmeans"].round(1)
    for name, tokens, published, alive, earlier, rival in table("What came out here"):
        of = runs.loc[RUNS[name]]
        score = of.groupby(["row", "method", "readout"])["miou"].agg(["mean", "size"])
        seeds = score.loc["eigensegments", "size"].min()
        assert (score.drop("eigensegments")["size"] == 3).all() and seeds == 2 + (name != "MSRC v2, ViT-S/14")
        mean = score["mean"].round(1)
        assert tokens == f"{mean['tokens', 'k-means', 'kmeans']:.1f}, {whole[RUNS[name]]:.1f}"
        tokens = tokens.split(",")[0]
        for shown, row, method, first in ((published, "published", "CAUSE-MLP", "modularity"),
                                          (alive, "alive", "CAUSE-MLP", "modularity"),
                                          (earlier, "earlier", "CAUSE-MLP", "modularity")):
            assert shown == ", ".join(f"{mean[row, method, readout]:.1f}" for readout in (first, "kmeans"))
        others = mean.drop(OURS, level="row")
        assert others.index.get_level_values("row").nunique() == 8
        assert rival == f"{others.idxmax()[1].removesuffix(' objective')} {others.max():.1f}"
        assert others.idxmax()[2] == ("own" if name == "MSRC v2, ViT-Ti/16" else "kmeans")
        used = of[of["row"].isin(["alive", "earlier"]) & of["readout"].isin(["modularity", "kmeans"])]
        assert (used["clusters_used"] == used["num_clusters"]).all()  # all groups stay in use
        own.append(float(published.split(",")[0]) - float(tokens))
        gains += [float(value) - float(tokens) for value in alive.split(",")]
        seed = of.set_index(["row", "readout", "seed"])["miou"].sort_index()
        gained = {}  # by each own read-out, of the seeds that it has
        for row, readout in seed.index.droplevel("seed").unique():
            if readout in ("own", "modularity"):
                gained[row] = (seed[row, readout] - seed["tokens", "kmeans"]).mean()
        all_gains.append(gained)
        assert all(e > a for e, a in zip(map(float, earlier.split(", ")), map(float, alive.split(", "))))  # what to use when
        if name != "generated scenes, bundled":
            above += [(seed["earlier", one] > seed["tokens", "kmeans"]).all() for one in ("modularity", "kmeans")]
    assert all(above) and len(above) == 8  # with every seed on photographs
    *others, last = (f"{gained['eigensegments']:.1f}" for gained in all_gains)
    assert f"gain {', '.join(others)} (two seeds) and {last} over" in PAGE
    over_lines = pd.DataFrame(all_gains).mean().nlargest(3)
    assert over_lines.index.tolist() == ["earlier", "deepspectral", "eigensegments"]  # and what to use when
    assert ("they gain {2:.1f}, DeepSpectral {1:.1f}, `earlier` {0:.1f}.".format(*over_lines)) in PAGE
    means = runs.groupby(["dataset", "backbone", "row", "readout"])["miou"].mean().loc["msrc_v2"].unstack("backbone")
    assert (means["vit_small_patch14_dinov2.saliency"] < means["vit_tiny_patch16_224.supervised"]).all()  # low for all
    assert len(own) == len(RUNS) and min(gains) > 0  # alive is above k-means in every line
    assert sum(abs(one) < 0.5 for one in own) == 1 and max(own) < 0.5  # published: level in one, below in the others


def test_what_is_trained_on_whole_pictures():
    crops = {row.label: row.experiment.crops for row in read_rows(ROOT / "experiments/rivals.csv")}
    whole = {label for label, of in crops.items() if of == "none"}
    assert whole == {"earlier", "deepspectral", "transfgu", "picie", "iic"}  # as chapters 3 and 10 say
    assert len(crops.keys() - {*OURS}) == 8 and {of for label, of in crops.items() if label not in whole} == {"five"}
    assert "`earlier` and four of the rivals are trained on whole pictures, all others on five crops of each" in PAGE


def plain(file: str, *keys: str, device: str = "") -> pd.Series:
    """mIoU without CRF of a file of runs, those of a device alone if that is asked for, by keys and seed."""
    runs = pd.read_csv(RESULTS / f"{file}.csv")
    runs = runs[runs["device"].str.contains(device)]
    return runs[~runs["crf"].astype(bool)].groupby([*keys, "readout", "seed"])["miou"].first()


def controls() -> pd.Series:
    """Mean mIoU without CRF by row, read-out, data set and backbone of the controls of `earlier`."""
    runs = pd.concat([pd.read_csv(RESULTS / "earlier.csv"), pd.read_csv(RESULTS / "rivals.csv").query("row == 'earlier'")])
    each = runs[~runs["crf"].astype(bool)].groupby(["row", "readout", "dataset", "backbone"])["miou"].agg(["mean", "size"])
    assert (each["size"] == 3).all()
    return each["mean"]


def test_what_whole_pictures_change():
    mean, lines = controls(), list(RUNS.values())
    gained = [f"{mean['earlier', 'modularity'][line] - mean['tokens of whole pictures', 'kmeans'][line]:.1f}"
              for line in lines]
    assert f"`earlier` gains {', '.join(gained[:-1])} and {gained[-1]} by its own read-out" in PAGE
    keys = ["dataset", "backbone", "row"]
    earlier, whole = plain("rivals", *keys), plain("earlier", *keys)
    for line in lines[:4]:  # with every seed on photographs
        tokens = whole.loc[(*line, "tokens of whole pictures", "kmeans")]
        assert all((earlier.loc[(*line, "earlier", one)] > tokens).all() for one in ("modularity", "kmeans"))
    alive = [f"{mean['alive, whole pictures', 'modularity'][line]:.1f}" for line in lines]
    assert f"`alive` on whole pictures has {', '.join(alive[:-1])} and {alive[-1]}" in PAGE
    highest = pd.read_csv(RESULTS / "rivals.csv").query("~crf").groupby(["row", "readout", "dataset", "backbone"])["miou"].mean()
    crops = [highest["alive", "modularity"][line] - mean["tokens of whole pictures", "kmeans"][line] for line in lines]
    assert [gain > 0 for gain in crops] == [True] + 4 * [False]  # below that in all lines but the first
    assert float(alive[2]) > highest.xs(lines[2], level=["dataset", "backbone"]).max()  # above all in the table
    assert float(alive[3]) + 5 < mean["earlier", "modularity"][lines[3]]  # far below


def test_what_the_default_shows():
    mean, scenes = controls(), ("scenes", "bundled")
    network = [mean[f"tokens of a random network{whole}", "kmeans"].item() for whole in ("", ", whole pictures")]
    assert "k-means has {:.1f} and {:.1f} on tokens of the same network with random weights".format(*network) in PAGE
    readouts = [[mean[row, readout][scenes] for readout in ("modularity", "kmeans")]
                for row in ("earlier, no step 2", "earlier")]
    assert "in place of that of `earlier` has {:.1f}, {:.1f}".format(*readouts[0]) in PAGE
    assert all(trained > other for trained, other in zip(*readouts[::-1]))
    block = mean["tokens of the earlier block, whole pictures", "kmeans"][scenes]
    assert f"whole pictures, has {block:.1f}, more than the head" in PAGE and block > max(readouts[1])


def test_limits_are_the_files():
    rivals, alive = plain("rivals", "dataset", "backbone", "row"), plain("alive", "dataset", "backbone", "row")
    below = 0  # lines in which some seed of `alive` is not above k-means
    for of in (rivals.loc[line] for line in RUNS.values()):
        below += any((of["alive", readout] <= of["tokens", "kmeans"]).any() for readout in ("modularity", "kmeans"))
    assert below == 2 and "but in two of them not with every seed" in PAGE
    first = alive.loc[RUNS["CamVid, ViT-Ti/16"]]
    assert f"the published read-out {first['published', 'modularity'].mean():.1f}, above k-means" in PAGE
    assert (first["published", "modularity"] > first["tokens", "kmeans"]).all()
    third = alive.loc[RUNS["MSRC v2, ViT-Ti/16"]]["alive", "modularity"].mean()
    assert f"the same seeds with an earlier version of the library give `alive` {third:.1f}" in PAGE
    audit = pd.read_csv(RESULTS / "audit.csv")
    audit = audit[(audit["head"] == "tr") & (audit["readout"] == "modularity")]
    tr = audit.drop_duplicates(["dataset", "backbone", "seed"]).groupby(["dataset", "backbone"])["paper_miou"].mean()
    shown = [f"{tr[line]:.1f}" for line in RUNS.values()]
    assert f"it has {', '.join(shown[:-1])} and {shown[-1]}" in PAGE
    for dataset, folder in (("camvid", ""), ("folder", "msrc_v2"), ("cocostuff27", "")):
        run = Experiment(dataset=dataset, folder=folder, head="mlp")
        assert f"{run.concept_steps:,}, {run.head_steps:,} and {run.probe_steps:,}" in PAGE
    runs = pd.read_csv(RESULTS / "alive.csv")
    photographs = runs[runs["dataset"] != "scenes"]  # as chapter 10 says
    assert not photographs["row"].str.contains("bank|step 1|head|updates|pictures|crops").any()
    assert (runs[~runs["crf"].astype(bool)].groupby(["dataset", "row", "readout"]).size().loc["scenes"] == 3).all()
    assert set(photographs.loc[photographs["row"] == "published, as long", "seed"]) == {0}


def test_the_same_seeds_elsewhere():
    """What the summary and paper and code say of a second run with the same seeds."""
    keys = ["dataset", "backbone", "readout", "seed"]
    gpu, cpu = (plain(file, "dataset", "backbone", "row", device=device).xs("published", level="row")
                for file, device in (("rivals", "cuda"), ("alive", "cpu")))
    camvid = (*RUNS["CamVid, ViT-Ti/16"], "modularity")
    said = f"{gpu[camvid].mean():.1f} and not {cpu[camvid].mean():.1f}"
    assert said in (ROOT / "book/outcome.md").read_text()
    audit = pd.read_csv(RESULTS / "audit.csv")
    audit = audit[(audit["head"] == "mlp") & audit["device"].str.contains("cuda")].groupby(keys)["paper_miou"].first()
    assert f"moved by up to {(gpu - audit).abs().max():.1f}." in (ROOT / "book/differences.md").read_text()
