"""Chapter 3: every method on the same tokens, from the results of `experiments/rivals.csv`.

The floor of each line is k-means on the tokens of the same pictures, backbone, seed, and CRF or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files

import pandas as pd

from cause_book.tables import Cell, change, duration

SAME = ["dataset", "backbone", "crf", "seed"]  # what a line and its floor share
FLOOR = "k-means on tokens"
#: Of a table of `lines`.
COLUMNS = ["method", "gained", "own read-out", "own read-out + CRF", "k-means", "k-means + CRF", "pAcc", "a picture",
           "seeds"]


def systems() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The 19 systems of the paper's tables (system, here, method, why), and their published rows (system, dataset,
    classes, backbone, miou, pacc; per cent)."""
    found = json.loads(files("cause_rivals").joinpath("systems.json").read_text(encoding="utf8"))
    return (pd.DataFrame.from_dict(found["systems"], "index").rename_axis("system").reset_index(),
            pd.DataFrame(found["rows"]))


def against_tokens(results: pd.DataFrame) -> pd.DataFrame:
    """Results with `name` (method and recipe), `own` (the method's read-out, not k-means), and `gained`: points of mIoU
    above the floor of the same line. Lines of which no floor has been run have none."""
    table = results.assign(crf=results["crf"].astype(bool), name=_names(results), own=results["readout"] != "kmeans")
    table = table[table["readout"] != "concepts"]  # a third read-out, of `alive` and `earlier` alone: chapter 10
    floor = table.loc[table["name"] == FLOOR, [*SAME, "miou"]]
    table = table.merge(floor, on=SAME, how="left", suffixes=("", " of tokens"))
    return table.assign(gained=table["miou"] - table["miou of tokens"])


def _names(results: pd.DataFrame) -> list[str]:
    """What a line is called: its method, for CAUSE with its recipe."""
    return [FLOOR if method == "k-means" else f"{method}, {row}" if method.startswith("CAUSE") else method
            for method, row in zip(results["method"], results["row"])]


def lines(table: pd.DataFrame) -> Iterator[dict]:
    """For each method of one data set and backbone a line: means over seeds, with ranges."""
    for name, part in table.groupby("name", sort=False):
        plain = part[~part["crf"]]
        line = {"method": name, "seeds": plain["seed"].nunique()}
        for shown, own in (("own read-out", True), ("k-means", False)):
            for crf, found in part[part["own"] == own].groupby("crf"):
                line[f"{shown}{' + CRF' * crf}"] = spread(found["miou"])
        best = plain[plain["own"]] if plain["own"].any() else plain
        line |= {"pAcc": best["pacc"].mean(), "a picture": best["miou_per_image"].mean(),
                 "gained": change(best["gained"].tolist()) if best["gained"].notna().all() else None}
        yield line


def ablation(results: pd.DataFrame) -> Iterator[dict]:
    """For each row of `experiments/eigensegments.csv` a line: for every data set the mIoU of its own read-out, mean
    over seeds, and the change from the row `eigensegments` of the same seeds."""
    own = results[(results["readout"] == "own") | (results["method"] == "k-means")]
    whole = own[own["row"] == "eigensegments"].set_index(["dataset", "seed"])["miou"]
    for row, part in own.groupby("row", sort=False):
        line = {"row": row}
        for dataset, each in part.groupby("dataset", sort=False):
            changes = [miou - whole[dataset, seed] for seed, miou in zip(each["seed"], each["miou"])]
            line |= {dataset: each["miou"].mean(), f"change on {dataset}": change(changes)}
        yield line


def costs(results: pd.DataFrame) -> list[dict]:
    """Of results of one seed: training's `time`, without the tokens of the pictures, and the most memory, `MB`."""
    each = results.assign(method=_names(results)).drop_duplicates("method").rename(columns={"peak_mb": "MB"})
    each["time"] = list(map(duration, each["total_seconds"] - each["seconds"]))
    return each[["method", "time", "MB"]].to_dict("records")


def beside_published(table: pd.DataFrame) -> list[dict]:
    """The published rows of methods that run here, in points of mIoU above the DINO row of the same data set and
    backbone, if there is one, and what the method gains here on photographs: the mean over data sets, and each."""
    found, rows = systems()
    here = found[found["method"] != ""].set_index("system")["here"]
    floors = rows[rows["system"] == "DINO"].set_index(SAME[:2])["miou"].to_dict()
    real = table[~table["crf"] & table["own"] & (table["dataset"] != "scenes") & table["gained"].notna()]
    gains = {name.removesuffix(" objective"): change(part.groupby("dataset")["gained"].mean().tolist())
             for name, part in real.groupby("name")}
    return [row | {"above DINO": row["miou"] - floors.get((row["dataset"], row["backbone"]), float("nan")),
                   "gained here": gains.get(row["system"]), "runs here": here[row["system"]]}
            for row in rows.to_dict("records") if row["system"] in here]


def distances() -> list[str]:
    """Why the published row of each method and what it does here are apart: a sentence or two each."""
    return [f"**{each.system}.** {each.distance}" for each in systems()[0].itertuples() if each.method]


def spread(values: pd.Series) -> Cell:
    """A mean, and in brackets the lowest and the highest of several."""
    mean = f"{values.mean():.1f}"
    return Cell(mean if len(values) < 2 else f"{mean} ({values.min():.1f} to {values.max():.1f})", values.mean())
