"""Chapter 11: the grain of concepts, pairs and masks, beyond chance and beyond the layout that pictures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cause_book.granularity import Above, Pairs, at_level, leading, relations, segments
from cause_lib.data.scenes import LEVELS, OBJECTS, PARTS

KINDS = ("positive", "ignored", "negative")


def parts_of(thing: str) -> list[int]:
    """The numbers of an object's parts."""
    return [number for number, part in enumerate(PARTS) if part.split()[0] == thing]


def world() -> pd.DataFrame:
    """Groups, their objects, and the parts of those."""
    groups, owners = LEVELS["group"]
    return pd.DataFrame([
        {"group": group, "object": thing, "parts": ", ".join(PARTS[part].split()[1] for part in parts_of(thing))}
        for number, group in enumerate(groups) for thing in OBJECTS if owners[parts_of(thing)[0]] == number])


def patches(parts: Tensor, labels: Tensor, grid: tuple[int, int]) -> str:
    """How many pixels have the label of their patch, at each level: the upper bound of a purity of patches.

    parts: (b, h, w) int64, -1 void
    labels: (b, n) int64, the parts of patches
    grid: rows and columns of patches, n in all
    """
    b, h, w = parts.shape
    of_patches = labels.unflatten(1, grid).repeat_interleave(h // grid[0], 1).repeat_interleave(w // grid[1], 2)
    same = {level: float((at_level(parts, level) == at_level(of_patches, level)).double().mean()) for level in LEVELS}
    return (f"Of all pixels, {same['part']:.0%} have the part of their patch, {same['object']:.0%} its object and "
            f"{same['group']:.0%} its group. This is an upper bound of the purity of concepts of whole patches, "
            "counted in pixels. From here on patches are counted.")


def grain_of(left: Mapping[str, Above]) -> str:
    """The level that leads in nearly all resamples, in words; left: level -> AMI above the layout."""
    level = leading(left)
    rest = ", ".join(f"{100 * each.above:.1f} at {name}s" for name, each in left.items())
    return f"{f'nearest to the **{level}**' if level else '**not decided** between levels'} ({rest})"


def _layout(left: Sequence[Above]) -> list[float]:
    """The shares of AMI that another picture's mask reaches; of an AMI that is not above 0 there is none."""
    return [max(0.0, each.layout / each.own) for each in left if each.own > 0]


def beside(left: Mapping[str, Above], level: str) -> dict[str, str]:
    """Columns of a table: AMI at a level, that of the next picture, and what is left with its interval."""
    each = left[level]
    low, high = (100 * value for value in each.interval())
    return {"AMI (%)": f"{100 * each.own:.1f}", "next picture's (%)": f"{100 * each.layout:.1f}",
            "left (points)": f"{100 * each.above:.1f}", "95 % of draws": f"{low:.1f} to {high:.1f}"}


def concepts(table: Tensor, numbers: Mapping[str, Mapping[str, float]], left: Mapping[str, Above]) -> str:
    """The grain of concepts: purity above chance, bits, and AMI above the layout.

    table: (k, p) int64, patches of concept and part
    numbers: level -> as by `granularity.grain`
    left: level -> AMI above the layout
    """
    above = ", ".join(f"{100 * (each['purity'] - each['purity_by_chance']):.0f} points for {level}s"
                      for level, each in numbers.items())
    bits = " and ".join(f"{numbers[level]['information']:.2f} of the {numbers[level]['label_entropy']:.2f} bits of "
                        f"the {level}" for level in ("part", "object"))
    said = (f"{int((table.sum(1) > 0).sum())} of {len(table)} concepts win a patch of these pictures. Purity exceeds "
            f"chance by {above}. The concept contains {bits}; its own entropy is "
            f"{numbers['part']['concept_entropy']:.2f} bits.\n\n")
    if share := _layout(left.values()):
        said += f"**At least {min(share):.0%} of each AMI is layout**, which another picture's concepts reach too. "
    return said + f"By what is left, in points of AMI, the grain of the concepts is {grain_of(left)}."


def strangers(pairs: Pairs, positive: float, negative: float) -> Tensor:
    """Positive, ignored and negative pairs of patches of two different objects, (3,) int64; pairs: of parts."""
    objects = Pairs(pairs.cosine, at_level(pairs.first, "object"), at_level(pairs.second, "object"))
    i, j = torch.triu_indices(len(OBJECTS), len(OBJECTS), 1)
    return relations(objects, len(OBJECTS), positive, negative)[i, j].sum(0)


def kinds(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> pd.DataFrame:
    """A table of pairs: before, after: which pairs -> how many are positive, ignored and negative, (3,) each."""
    return pd.DataFrame([
        {"pairs of patches": name, "pairs": f"{int(before[name].sum()):,}"}
        | {f"{kind}, {when}": f"{float(each / counts[name].sum()):.0%}" if counts[name].sum() else "-"
           for when, counts in (("before", before), ("after", after)) for kind, each in zip(KINDS, counts[name])}
        for name in before])


def drawn_anew(values: Tensor, draws: int = 1000) -> tuple[float, float, float]:
    """The mean of one number a picture (b,), and the ends of its 95 % bootstrap interval; NaN is left out."""
    values = values[~values.isnan()]
    if not len(values):
        return (float("nan"),) * 3
    chosen = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = values[chosen].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return float(values.mean()), low, high


def separation(auc: Mapping[str, Tensor], within: Sequence[Tensor], across: Sequence[Tensor]) -> str:
    """Whether the head separates parts of one object from different objects better than the concepts and the tokens.

    auc: concepts, features of the head, tokens, in this order -> (b,), one a picture
    within: before and after the head, pairs of one object: positive, ignored, negative, (3,) each
    across: the same of different objects
    """
    taught, learned, given = auc.values()
    means = "; ".join(f"{name}, {100 * drawn_anew(each)[0]:.1f} %" for name, each in auc.items())
    than_taught, than_given = _against(learned - taught), _against(learned - given)
    excess = [100 * float(own[0] / own.sum() - far[0] / far.sum()) for own, far in zip(within, across)]
    return (f"AUC, mean over pictures: {means}. The features of the head separate parts of one object from different "
            f"objects {than_taught} than the concepts do. Compared with the tokens, they do so {than_given}. In "
            "brackets: points, and 95 % of resamples of the pictures, for one training.\n\n"
            "By the thresholds, pairs of one object are more often positive than pairs of different objects by "
            f"{excess[0]:.0f} points before and {excess[1]:.0f} after. This difference depends on the thresholds, the "
            "AUC only on the order of the cosines.")


def _against(differences: Tensor) -> str:
    mean, low, high = drawn_anew(differences)
    word = "better" if low > 0 else "worse" if high < 0 else "not measurably better or worse"
    return f"{word} ({100 * mean:+.1f}, {100 * low:+.1f} to {100 * high:+.1f})"


def cuts(medians: Mapping[str, Tensor], found: Mapping[str, Sequence[Any]], things: Sequence[str],
         falling: Sequence[float]) -> pd.DataFrame:
    """A table of the segments of objects at several phi+, and of their windows; objects without a window are left out.

    medians: "before", "after" -> (p, p), between parts
    found: "before", "after" -> of each object its window
    things: the objects
    falling: values of phi+
    """
    lines = []
    for word, windows in found.items():
        for thing in things:
            own, window = parts_of(thing), windows[OBJECTS.index(thing)]
            if window is not None:
                m, rival = medians[word][own][:, own], window["rival"]
                lines.append({"": word, "object": thing, "parts": len(own)}
                             | {f"segments at {phi:g}": len(set(segments(m, phi))) for phi in falling}
                             | {"in one piece below": window["whole"], "tied to another below": window["alone"],
                                "which": "none" if rival is None else OBJECTS[rival]})
    return pd.DataFrame(lines)


def windows(found: Mapping[str, Sequence[Any]], phi: float) -> str:
    """How many objects have a suitable phi+, how many one value serves, and how many that of this run.

    found: "before", "after" -> of each object its window, as by `granularity.windows`
    phi: phi+ of this run
    """
    def serves(word: str, value: float) -> int:
        return sum(each is not None and each["whole"] > value >= each["alone"] for each in found[word])

    said = []
    for word, each in found.items():
        opened = [thing for thing, window in zip(OBJECTS, each) if window and window["whole"] > window["alone"]]
        best = max(np.linspace(-0.2, 1, 121), key=lambda value: serves(word, value))
        said.append(f"{word.capitalize()} the head, there is such a window for {len(opened)} of {len(OBJECTS)} objects "
                    f"({', '.join(opened) or 'none'}). No single value serves more than {serves(word, best)} of them "
                    f"(at {best:.2f}); the $\\phi^+$ of this run, {phi:g}, serves {serves(word, phi)}.")
    return " ".join(said)


def masks(left: Mapping[str, Mapping[str, Above]], grains: Mapping[str, Mapping[str, Any]],
          scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The grain of each mask.

    left: mask -> level -> AMI above the layout
    grains: mask -> level -> as by `granularity.grain`
    scores: mask -> level -> as by `granularity.scores_at_levels`
    """
    shares = _layout([each for levels in left.values() for each in levels.values()])
    said = (f"**{min(shares):.0%} to {max(shares):.0%} of the AMI is reached by the mask of another picture.** "
            if shares else "") + "By what is left, the grains of the masks are:\n"
    for name, levels in left.items():
        most = max(LEVELS, key=lambda level: grains[name][level]["ami"])
        part = scores[name]["part"]
        said += (f"\n- {name}: {grain_of(levels)}. With the layout, the largest AMI is that of {most}s. "
                 f"{part['matched']} of {part['classes']} parts are matched to a cluster that overlaps them.")
    return said + ("\n\nThe resamples are of pictures. Head and read-out were trained once, so the variation between "
                   "trainings is not in them.")


def numbers(levels: Sequence[str | None]) -> str:
    """Whether the number of clusters determines the grain; levels: the leading one for each number, None: undecided."""
    if None in levels and len(set(levels) - {None}) < 2:
        return ("The level is not decided for each number of clusters. Whether the number determines the grain stays "
                "open here.")
    if len(set(levels)) == 1:
        return "The level is the same for all numbers of clusters, so the number does not determine it."
    return "The level changes with the number of clusters, so the choice of this number influences the grain."


def questions(answers: Mapping[str, float], bands: Mapping[str, float]) -> str:
    """Which of the three questions the modularity read-out answers, beside bands of equal height.

    answers, bands: "group", "object", "part" -> the share told, at most 1
    """
    group, thing, part = (answers[level] for level in ("group", "object", "part"))
    said = ("A perfect mask of objects answers the first two questions and not the third. The modularity read-out "
            f"answers {group:.0%} of the first, {thing:.0%} of the second and {part:.0%} of the third. Bands of "
            f"height answer {bands['group']:.0%}, {bands['object']:.0%} and {bands['part']:.0%}.")
    if group < thing and bands["group"] < bands["object"]:
        said += (" Both answer the second better than the first. The definition of the groups may be the reason: *sky "
                 "and water* and *ground* each combine objects at different heights.")
    if all(bands[level] >= answers[level] for level in answers):
        said += " **This read-out answers no question better than the bands.**"
    return said
