"""Chapter 10: modularity beside mIoU, the settings of the second recipe, its gain, and what its runs were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cause_book.tables import Cell, sortable
from cause_book.verdicts.words import LEVEL, points, table

KEY = ["dataset", "row", "seed", "subject", "quantity"]
#: Why a setting of the recipe `alive` differs from the published one.
REASONS = {
    "prototype_start": "k-means++ among training tokens: a prototype that starts at a token wins that token",
    "num_concepts": "can be chosen, since all of them stay in use",
    "concept_steps": "modularity would empty prototypes again",
    "bank_capacity": "hundreds of concepts in use would fill it with a hundred projections each",
    "positive_quantile": "phi+ as a quantile of D_M, see below",
    "negative_quantile": "phi- likewise",
    "head_steps": "with fewer positives an anchor, training takes longer",
    "probe_start": "k-means centroids: all of them win patches before the first update",
    "probe_steps": "enough to refine centroids, not to empty them",
    "concept_readout": "a third read-out, see below",
    "smoothing": "a step of mean shift within each picture, see below",
}


def settings(published: Mapping[str, Any], alive: Mapping[str, Any]) -> str:
    """A table of the settings that differ, with `REASONS`; both as by `Experiment.to_dict`."""
    return table([{"setting": f"`{name}`", "published": "none" if before is None else str(before),
                   "alive": str(alive[name]), "reason": REASONS.get(name, "follows from the others")}
                  for name, before in published.items() if name != "recipe" and before != alive[name]])


def orders(ends: Mapping[str, tuple[float, float]], truth: tuple[float, float]) -> str:
    """Whether modularity ranks the ends of several trainings as mIoU does.

    ends: start -> modularity, and mIoU of patches in per cent, after training
    truth: mIoU before and after training from the means of the true classes
    """
    modularity, miou = ({name: round(each[place], digits) for name, each in ends.items()}
                        for place, digits in ((0, 3), (1, 1)))
    by_modularity, by_miou = (sorted(each, key=each.get, reverse=True) for each in (modularity, miou))
    if min(len(set(each.values())) for each in (modularity, miou)) < len(ends):
        agree = "Some are equal, so the orders cannot be compared"
    elif by_modularity == by_miou:
        agree = "The two orders are the same"
    else:
        agree = f"The two orders {'are opposite' if by_modularity == by_miou[::-1] else 'differ'}"
    first = ", ".join(f"{name} ({modularity[name]:.3f})" for name in by_modularity)
    second = ", ".join(f"{name} ({miou[name]:.1f} %)" for name in by_miou)
    return (f"By modularity, the largest first: {first}. By mIoU: {second}. **{agree}.** Training by modularity from "
            f"the truth changes mIoU from {truth[0]:.1f} % to {truth[1]:.1f} %. This is one seed; the table of the "
            "photographs below has three.")


def smoothing(before: Mapping[str, float], after: Mapping[str, float], moved: float) -> str:
    """What smoothing changes on one set of pictures.

    before, after: miou and pacc of patches, as fractions
    moved: the share of patches whose group changes
    """
    miou, accuracy = (f"{100 * before[name]:.1f} % to {100 * after[name]:.1f} %" for name in ("miou", "pacc"))
    gained = 100 * (after["miou"] - before["miou"])
    less = f", a change of less than {LEVEL:g} points" if abs(gained) < LEVEL else f" ({gained:+.1f} points)"
    return (f"Smoothing changes the group of {moved:.1%} of all patches. mIoU of patches goes from {miou}{less}; "
            f"accuracy goes from {accuracy}. This is one seed.")


def gains(scored: Mapping[str, Sequence[float]], floor: Sequence[float]) -> str:
    """The gain of each read-out of the recipe over k-means on tokens, by seed.

    scored: read-out -> mIoU as a fraction, one a seed
    floor: of k-means on tokens, with the same seeds
    """
    listed = ", ".join(f"{points([100 * (one - other) for one, other in zip(values, floor)])} points ({name})"
                       for name, values in scored.items())
    seeds = "one seed, which does not establish a difference" if len(floor) == 1 else f"{len(floor)} seeds"
    return (f"Compared with k-means on tokens, the recipe `alive` changes mIoU by {listed}. These are the same "
            f"pictures and {seeds}.")


def ends(told: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each quantity: at its first update, its last, and of how many.

    told: as `results/diagnosis.csv`, whose columns `KEY` are the index, without seed
    """
    each = told.sort_values("update", kind="stable").groupby(KEY, sort=False).agg(
        first=("value", "first"), last=("value", "last"), of=("of", "last"))
    return each.groupby([name for name in KEY if name != "seed"], sort=False).mean()


def concepts(found: pd.DataFrame) -> str:
    """A table of prototypes and of the pairs of step 2, as HTML; "" where there is none.

    found: as by `ends`
    """
    lines = []
    for (name, row), part in found.groupby(level=KEY[:2], sort=False):
        last, of = (part[column].droplevel(KEY[:2]) for column in ("last", "of"))
        own, pairs = last["prototypes"], last["pairs"]
        lines.append({
            "pictures": name, "recipe": row, "prototypes": of["prototypes", "winning"], "win a patch": own["winning"],
            "effective": own["effective"], "with a gradient": own["reached"], "purity (%)": 100 * own["purity"],
            "by chance (%)": 100 * own["purity_by_chance"], "AMI (%)": 100 * own["ami"], "median D_M": pairs["median"]}
            | {f"{each} (%)": 100 * pairs[each] / pairs["others"] for each in ("positives", "negatives")}
            | {"alone (%)": 100 * pairs["lonely"]})
    caption = ("Means over seeds, after step 1: prototypes that win a patch of the test pictures, their effective "
               "number, and those with a gradient in one batch; then the other patches of a batch, by relation to an "
               "anchor of step 2. Alone: anchors without a positive.")
    formats = dict.fromkeys(lines[0], "{:.1f}") | {"prototypes": "{:.0f}", "median D_M": "{:.2f}"} if lines else {}
    return sortable(lines, list(lines[0]), formats=formats, caption=caption) if lines else ""


def probes(found: pd.DataFrame) -> str:
    """A table of centroids before and after training, as HTML; "" where there is none.

    found: as by `ends`
    """
    lines = []
    for (name, row, subject), part in found.groupby(level=[*KEY[:2], "subject"], sort=False):
        if subject.startswith("centroids"):
            part = part.droplevel([*KEY[:2], "subject"])
            lines.append({"pictures": name, "head of": row, "start": subject.removeprefix("centroids from ")})
            for column, quantity, form, scale in (
                    ("in use", "winning", "{:.1f}", 1), ("H", "H", "{:.4f}", 1),
                    ("mIoU of patches (%)", "miou", "{:.1f}", 100), ("accuracy of patches (%)", "pacc", "{:.1f}", 100)):
                both = [scale * part.loc[quantity, when] for when in ("first", "last")]
                lines[-1][column] = Cell(" \N{RIGHTWARDS ARROW} ".join(map(form.format, both)), both[1])
                if quantity == "winning":
                    lines[-1]["of"] = part.loc["winning", "of"]
    return sortable(lines, list(lines[0]), formats={"of": "{:.0f}"}, caption=(
        "Centroids before and after training by modularity, from three starts; means over seeds. The classes: the mean "
        "feature of each true class, which needs labels.")) if lines else ""
