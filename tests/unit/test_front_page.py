"""Page one: its tables and the sentences about them are the results' and the paper's; no number is stale."""

import re
from pathlib import Path

import pandas as pd

from cause_book import RESULTS
from cause_book.rivals import systems

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/intro.md").read_text()
NAMES = {"COCO-Stuff": "cocostuff", "Cityscapes": "cityscapes", "Pascal VOC": "pascalvoc"}
RUNS = {  # data set and backbone of a line, and the file of its runs
    "CamVid, ViT-Ti/16": ("camvid", "vit_tiny_patch16_224.supervised", "rivals"),
    "CamVid, ViT-S/14": ("camvid", "vit_small_patch14_dinov2.saliency", "rivals"),
    "MSRC v2, ViT-Ti/16": ("msrc_v2", "vit_tiny_patch16_224.supervised", "alive"),
    "generated scenes, bundled": ("scenes", "bundled", "rivals"),
}


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
    for name, backbone, ours, rival, margin in table("What is claimed"):
        dataset = NAMES[name.split(",")[0]]
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
    own, gains = [], []
    for name, tokens, published, alive, rival in table("What came out here"):
        dataset, backbone, file = RUNS[name]
        runs = pd.read_csv(RESULTS / f"{file}.csv")
        runs = runs[(runs["dataset"] == dataset) & (runs["backbone"] == backbone) & ~runs["crf"].astype(bool)]
        score = runs.groupby(["row", "method", "readout"])["miou"].agg(["mean", "size"])
        three = score[score["size"] == 3]["mean"].round(1)
        assert float(tokens) == three["tokens", "k-means", "kmeans"]
        for shown, row in ((published, "published"), (alive, "alive")):
            assert shown == ", ".join(f"{three[row, 'CAUSE-MLP', readout]:.1f}" for readout in ("modularity", "kmeans"))
        others = three.drop(["tokens", "published", "alive"], level="row", errors="ignore")
        others = others[[row[0] not in ("no step 2", "published clusterbook") for row in others.index]]
        if file == "rivals":
            assert rival == f"{others.idxmax()[1]} {others.max():.1f}"
        used = runs[runs["row"] == "alive"]
        assert (used["clusters_used"] == used["num_clusters"]).all()  # all groups stay in use
        own.append(float(published.split(",")[0]) - float(tokens))
        gains += [float(value) - float(tokens) for value in alive.split(",")]
    assert len(own) == len(RUNS) and min(gains) > 0  # alive is above k-means in every line
    assert sum(abs(one) < 0.5 for one in own) == 1 and max(own) < 0.5  # published: level in one, below in the others
