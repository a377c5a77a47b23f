"""Curves over updates or any other axis, in every chapter."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import LogFormatter

from cause_book.plots.style import CYCLE, as_array, in_style, new_axes


@in_style
def training_history(steps, curves, *, ylabel="loss (no unit)", title="Training", ax=None):
    """Curves over training updates. Above 60 values: drawn faint, with a running mean over a twentieth of the run.

    steps: (s,) update numbers
    curves: a dict name -> (s,) values, or (s,) values alone
    """
    steps = as_array(steps)
    curves = curves if isinstance(curves, dict) else {"": curves}
    ax = new_axes(ax)
    for place, (name, values) in enumerate(curves.items()):
        values, color = as_array(values).astype(float), CYCLE[place % 8]
        window = max(1, len(values) // 20) if len(values) > 60 else 1
        if window == 1:
            ax.plot(steps, values, color=color, label=name or None)
            continue
        ax.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        ax.plot(steps[window - 1:], smooth, color=color, label=f"{name} (mean of {window} updates)".strip())
    ax.set(title=title, xlabel="update (number)", ylabel=ylabel)
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


@in_style
def compare_curves(x, rows: dict, *, xlabel, ylabel, title="", xscale="linear", yscale="linear", guide=(), ax=None):
    """A line a name over common places x, told apart by colour, marker and dashes together.

    x: (s,)
    rows: a dict name -> (s,), NaN where there is nothing to draw
    guide: names drawn broad and pale below the others
    xscale, yscale: as in matplotlib
    """
    ax = new_axes(ax, (5.0, 3.5))
    style = zip(CYCLE, "osD^vP*X", ("-", "--", "-.", ":") * 2)
    for name, values in rows.items():
        if name in guide:
            ax.plot(x, as_array(values), color="#BBBBBB", linewidth=7.0, alpha=0.7, zorder=1, label=name)
            continue
        color, marker, dashes = next(style)
        ax.plot(x, as_array(values), color=color, marker=marker, markersize=5, linestyle=dashes, label=name)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale)
    if yscale == "log" and ax.get_ylim()[1] < 100 * ax.get_ylim()[0]:  # a short axis names places between the powers
        ax.yaxis.set_major_formatter(LogFormatter())  # 20 instead of 2 x 10^1
        ax.yaxis.set_minor_formatter(LogFormatter())
    ax.legend()
    return ax
