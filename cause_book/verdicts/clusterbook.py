"""Chapter 5: the modularity that was reached, what concepts encode, and where unused prototypes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cause_book.verdicts.words import table


def training(losses: Sequence[float], reached: Mapping[str, tuple[float, float]]) -> str:
    """The rise of modularity over the updates, and for several sets of graphs what is reached and could be.

    losses: of each update, minus the modularity
    reached: set of graphs -> its modularity and the upper bound; NaN: the end of the training
    """
    tenth = max(1, len(losses) // 10)
    first, last = -np.mean(losses[:tenth]), -np.mean(losses[-tenth:])
    if not np.isfinite([first, last]).all():
        return "**The training has diverged:** some of its losses are not finite numbers."
    rows = [{"graphs": name, "modularity": f"{last if own != own else own:.2f}", "upper bound": f"{most:.2f}"}
            for name, (own, most) in reached.items()]
    return (f"The mean modularity was {first:.4f} over the first tenth of the updates and {last:.4f} over the last. "
            "An upper bound is the sum of the positive entries of $W$. It is reached only if $\\delta$ is 1 on all of "
            f"these and 0 on all others.\n\n{table(rows)}\n\nCompare modularities only on the same set of graphs.")


def explained(concepts: Tensor, place: Tensor) -> float:
    """The share of the variance of places that concepts explain, NaN where all places are equal.

    concepts: (g, n) int64
    place: (n,), the same in each picture
    """
    concept, place = concepts.flatten(), place.expand_as(concepts).flatten().double()
    size = torch.bincount(concept).clamp(min=1)
    mean = torch.zeros(len(size), dtype=torch.float64).index_add_(0, concept, place) / size  # (k,)
    return float(1 - (place - mean[concept]).square().mean() / (place - place.mean()).square().mean())


def height(concepts: Tensor, grid: tuple[int, int]) -> str:
    """How much the concept of a patch tells of its place in the picture.

    concepts: (g, n) int64
    grid: rows and columns of patches, n in all
    """
    if min(grid) < 2:
        return "With a single row or column of patches there are no places to compare."
    patch = torch.arange(concepts.shape[1])
    rows = patch // grid[1]
    by_row, by_column = explained(concepts, rows), explained(concepts, patch % grid[1])
    above = 1 - rows.expand_as(concepts) / (grid[0] - 1)  # 0 at the lower edge, 1 at the upper
    largest = concepts.flatten().bincount().argsort(descending=True)[:3].tolist()
    heights = ", ".join(f"{float(above[concepts == k].mean()):.0%} ({k})" for k in largest if (concepts == k).any())
    said = (f"The concept of a patch explains {by_row:.0%} of the variance of its height in the picture, and "
            f"{by_column:.0%} of the variance of its horizontal position. The mean heights of the largest concepts "
            f"are, as a share of the height of a picture, {heights}. ")
    if by_row > 0.3 and by_row > 2 * by_column:
        return said + ("**So these concepts encode height more than horizontal position.** The bands in the maps are "
                       "in the tokens already. [Chapter 4](04_features.ipynb) shows them, and [the card of the "
                       "backbone](backbone.ipynb) measures them.")
    return said + "So height alone does not determine the concepts here."


def unused(start: Tensor, trained: Tensor, used: Tensor, views: Tensor, whole: Tensor) -> str:
    """Whether unused prototypes have turned away from the mean direction of the tokens that they were trained on.

    start, trained: (k, d), of length one
    used: (k,) bool
    views: (m, d), tokens of the training views, of length one
    whole: (m', d), tokens of whole pictures, of length one
    """
    if used.all() or not used.any():
        return "All prototypes are used, or all are unused, so there is nothing to compare."
    common, rows, found = F.normalize(views.mean(0), dim=0), [], {}
    for name, which in (("unused", ~used), ("used", used)):
        both = start[which], trained[which]
        cosine = [float((ways @ common).mean()) for ways in both]
        negative = [float((views @ ways.T < 0).double().mean()) for ways in both]
        found[name] = cosine, negative
        own = float((start[which] * trained[which]).sum(-1).mean())
        rows.append({"prototypes": name, "cosine with the mean token": f"{cosine[0]:.2f}, then {cosine[1]:.2f}",
                     "negative cosines with tokens": f"{negative[0]:.0%}, then {negative[1]:.0%}",
                     "cosine with their own start": f"{own:.2f}"})
    said = (f"The mean of these tokens, each of length one, has length {float(views.mean(0).norm()):.2f} (1 if all "
            "were equal, 0 if they had no common direction). The table has means before and after training.\n\n"
            f"{table(rows)}\n\n")
    (before, after), (negative_before, negative_after) = found["unused"]
    if after >= before - 0.1 or negative_after <= negative_before + 0.1:
        return said + ("The data do not support this explanation: by at least one of the two measures, unused "
                       "prototypes have not turned away by a tenth. They are unused all the same, since only winners "
                       "get a gradient.")
    said += ("The data support this explanation for these tokens: unused prototypes have turned away from the mean "
             "direction of the training views.")
    negative_whole = float((whole @ trained[~used].T < 0).double().mean())
    if abs(negative_whole - 0.5) < 0.15:
        said += (f" With tokens of *whole* pictures, however, {negative_whole:.0%} of their cosines are negative, "
                 "about as for random directions. The views of training are crops, with another mean direction.")
    return said


def alike(start: Tensor, trained: Tensor, used: Tensor, views: Tensor) -> str:
    """Whether unused prototypes are similar because they moved in one direction, and whether that is the mean token's.

    start, trained: (k, d), of length one
    used: (k,) bool
    views: (m, d), tokens of the training views, of length one
    """
    if min(int(used.sum()), int((~used).sum())) < 2:
        return "There are fewer than two used or two unused prototypes here."
    before, after, winners = (_mean_pair(ways) for ways in (start[~used], trained[~used], trained[used]))
    by_mean = float((trained[~used] @ F.normalize(views.mean(0), dim=0)).mean()) ** 2
    said = (f"The mean cosine of two unused prototypes was {before:.2f} at the start and is {after:.2f} after "
            f"training; of two used ones it is {winners:.2f}. ")
    if after < before + 0.1:
        return said + "So training has hardly changed how similar unused prototypes are."
    said += (f"So training has moved them in a common direction. A common cosine with the mean token alone would give "
             f"its square, {by_mean:.2f}. ")
    return said + (f"That is {'more' if by_mean > after / 2 else 'less'} than half of the {after:.2f}.")


def _mean_pair(ways: Tensor) -> float:
    """The mean cosine of two of (m, d), m at least 2."""
    m = len(ways)
    return float(((ways @ ways.T).sum() - m) / (m * (m - 1)))
