"""Chapter 8: one run beside its controls, and what the height in a picture predicts of its masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cause_book.verdicts.words import compared

TOKENS = "k-means on tokens"
CHANCE = 2.0  # points of mIoU; one run does not distinguish what is nearer


def name_of(result: Mapping[str, Any], head: str) -> str:
    """The features and the read-out of a line of `metrics.json`; head: as shown, such as "TR"."""
    if result["method"] == "k-means":
        return TOKENS
    features = f"untrained {head}" if result["method"] == "untrained" else head
    return f"{features}, {'k-means' if result['readout'] == 'kmeans' else result['readout']}"


def lines(results: Sequence[Mapping[str, Any]], head: str, labelled: bool) -> pd.DataFrame:
    """A table of lines of `metrics.json`, with scores in per cent where the pictures have labels."""
    scores = {"mIoU (%)": "miou", "pixel accuracy (%)": "pacc"}
    return pd.DataFrame([
        {"features, read-out": name_of(each, head), "CRF": "yes" if each["crf"] else "no"}
        | {shown: 100 * each[name] if labelled else None for shown, name in scores.items()}
        | {"groups used": f"{each['clusters_used']} of {each['num_clusters']}"} for each in results])


def read_outs(plain: Mapping[str, Mapping[str, Any]], head: str, classes: Sequence[str], seed: int) -> str:
    """Both read-outs of a head beside its two controls, k-means on tokens and the untrained head, and each other.

    plain: name as by `name_of` -> line of `metrics.json` without CRF; without the lines of the untrained head, as of
        released files, there is nothing to compare
    head: as in the names
    classes: in the order of a line's `iou`
    seed: of the run
    """
    published, by_kmeans = f"{head}, modularity", f"{head}, k-means"
    if f"untrained {by_kmeans}" not in plain:
        return "Released files are evaluated alone: nothing was trained here to compare them with."

    def above(one: str, other: str, score: str = "miou") -> float:
        return 100 * (plain[one][score] - plain[other][score])

    said = [f"One seed ({seed}), without CRF. One seed does not show how much of a difference is chance.\n"]
    for shown, one in (("The published read-out (modularity)", published), ("k-means on the same features", by_kmeans)):
        for score, name in (("miou", "mIoU"), ("pacc", "accuracy")):
            to_tokens, to_fresh = (compared(above(one, other, score)) for other in (TOKENS, f"untrained {one}"))
            said.append(f"- **{shown}**, {name}: {to_tokens} k-means on tokens, {to_fresh} the untrained head.")
    found = [name for name, iou in zip(classes, plain[published]["iou"]) if iou is not None and iou >= 0.1]
    said.append(f"- Classes with an IoU of at least a tenth by the published read-out: {', '.join(found) or 'none'}.\n")
    gain = min(above(by_kmeans, other) for other in (TOKENS, f"untrained {by_kmeans}"))  # over the better control
    said.append(f"With k-means, the trained head is {_beyond_chance(gain)} the better of its two controls.")
    said.append(f"The published read-out is {_beyond_chance(above(published, by_kmeans))} k-means.")
    return "\n".join(said)


def _beyond_chance(difference: float) -> str:
    if abs(difference) <= CHANCE:
        return f"not distinguished (within {CHANCE:g} points of mIoU) from"
    return f"{abs(difference):.1f} points of mIoU {'above' if difference > 0 else 'below'}"


def told_by_height(mask: Tensor) -> float:
    """The share of pixels that have the most frequent group of their row, over all pictures; NaN if all are void.

    mask: (g, h, w) integer, -1 void
    """
    rows = [row[row >= 0] for row in mask.long().transpose(0, 1).flatten(1)]
    right = sum(int(torch.bincount(row).max()) for row in rows if len(row))
    known = sum(map(len, rows))
    return right / known if known else float("nan")


def height(masks: Mapping[str, Tensor]) -> str:
    """How much of each mask the height in the picture predicts, and whether of all masks more than of the labels.

    masks: name -> (g, h, w) integer, -1 void; "label" is the comparison, if it is there
    """
    shares = {name: told_by_height(mask) for name, mask in masks.items()}
    listed = ", ".join(f"{share:.0%} ({name})" for name, share in shares.items() if share == share)
    said = f"The most frequent group at each height is correct for this share of the pixels: {listed}."
    label = shares.pop("label", float("nan"))
    if label != label:
        return said
    if min(shares.values()) > label + 0.05:
        return said + (" **The masks depend more on height than the labels.** With this backbone the tokens already "
                       "do ([chapter 4](04_features.ipynb)); no method of this chapter removes it.")
    return said + " For at least one method that is hardly more than in the labels, or less."
