"""Numbers in words, for all chapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from cause_book.tables import change

LEVEL = 0.5  # points of mIoU; a smaller difference is called level


def points(changes: Sequence[float]) -> str:
    """Changes in points: the mean with its sign, and where there are several seeds, each in brackets."""
    shown = change(changes).shown
    return shown if len(changes) > 1 else shown.split(" ")[0]


def compared(difference: float) -> str:
    """A difference of one run in points: "1.2 points above", or "level with" where it would be shown as 0.0."""
    if difference != difference:
        return "not comparable with"
    if abs(difference) < 0.05:
        return "level with"
    return f"{abs(difference):.1f} points {'above' if difference > 0 else 'below'}"


def direction(changes: Sequence[float], level: float = LEVEL) -> str:
    """Of changes, one a seed: "above", "below" or "level" if all seeds agree, else "undecided".

    changes: in points
    level: a smaller difference is called level
    """
    changes = np.asarray(changes, dtype=float)
    if (changes > level).all():
        return "above"
    if (changes < -level).all():
        return "below"
    return "level" if (abs(changes) <= level).all() else "undecided"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows with the same columns, given as text."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shares(tokens: Tensor, grid: tuple[int, int]) -> dict[str, float]:
    """How much of the variance of tokens is common to a picture, and to a row of patches over all pictures.

    tokens: (g, n, d) floating
    grid: rows and columns of patches, n in all

    Returns picture, row: in [0, 1], NaN where all tokens are equal.
    """
    x = (tokens - tokens.mean(dim=(0, 1))).unflatten(1, grid)  # (g, rows, columns, d)
    total = x.square().mean()
    return {"picture": float(x.mean(dim=(1, 2)).square().mean() / total),
            "row": float(x.mean(dim=(0, 2)).square().mean() / total)}
