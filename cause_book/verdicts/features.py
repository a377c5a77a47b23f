"""Chapter 4: what the colours of tokens show, and how similar two patches are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cause_book.verdicts.words import shares, table

ONE, TWO = "patches of one class", "patches of two classes"


def height(rows_of: Mapping[str, Tensor], grid: tuple[int, int]) -> str:
    """How much of the variance of tokens rows of patches explain.

    rows_of: name of a network -> its tokens (g, n, d); the first is the network of the chapter, the others controls
    grid: rows and columns of patches, n in all
    """
    (_, own), *others = [(name, shares(tokens, grid)["row"]) for name, tokens in rows_of.items()]
    if own != own:
        return "All tokens are equal, so there is no variance to explain."
    beside = "".join(f" ({name}: {share:.0%})" for name, share in others)
    said = f"Of the variance of these tokens, {own:.0%} is the same for every patch of a row, in all pictures{beside}. "
    if own <= 0.25:
        return said + "So most of it is not the height of the patch in the picture."
    return said + ("**The colours are horizontal bands.** The stripes in the figures of later chapters come from the "
                   "tokens, not from the clustering.")


def pairs(cosines: Mapping[str, Tensor], width: int, negative: float, positive: float) -> str:
    """The two thresholds beside the cosines of random directions, and the pairs of patches that they divide.

    cosines: kind of pair -> (m,) cosines; the kinds of labelled pictures are `ONE` and `TWO`
    width: d, the entries of a token
    negative: phi-
    positive: phi+
    """
    spread = width**-0.5
    rows = []
    cosines = {name: values for name, values in cosines.items() if len(values)}  # one class alone has no pairs of two
    for name, values in cosines.items():
        above, below = (float(hit.double().mean()) for hit in (values > positive, values < negative))
        rows.append({"pairs": name, r"above $\phi^+$": f"{above:.0%}", "between": f"{1 - above - below:.0%}",
                     r"below $\phi^-$": f"{below:.0%}"})
    said = (rf"Random directions have the standard deviation $1/\sqrt{{{width}}} = {spread:.3f}$. "
            rf"$\phi^- = {negative:g}$ is {negative / spread:.1f} of these, $\phi^+ = {positive:g}$ is "
            f"{positive / spread:.1f}.\n\n{table(rows)}")
    if ONE in cosines and TWO in cosines:
        missed, false = (float(hit.double().mean()) for hit in (cosines[ONE] < negative, cosines[TWO] > positive))
        said += (f"\n\nCompared with the labels, the two thresholds would make {missed:.0%} of the pairs of *one* "
                 f"class negatives, and {false:.0%} of the pairs of *two* classes positives.")
    return said
