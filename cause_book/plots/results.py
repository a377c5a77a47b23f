"""Chapters 8, 9 and 10: IoU by class, and all runs of a table."""

from __future__ import annotations

import numpy as np

from cause_book.plots.style import BESIDE, CYCLE, PALETTE, WIDE, as_array, in_style, new_axes


@in_style
def class_iou(rows: dict, classes, *, title="IoU of each class", ax=None):
    """Horizontal bars: one group a class, one bar a method.

    rows: a dict method -> c IoUs as fractions, None or NaN where neither label nor mask has the class
    """
    ax = new_axes(ax, (6.0, max(2.6, 0.17 * len(classes) * (len(rows) + 1) + 1.0)))
    thick = 0.8 / len(rows)
    for place, (label, values) in enumerate(_percent(rows).items()):
        heights = np.arange(len(classes)) - 0.4 + (place + 0.5) * thick
        ax.barh(heights, np.nan_to_num(values), thick * 0.92, color=CYCLE[place % 8], label=label)
    ax.set(title=title, xlabel="intersection over union (%)", yticks=range(len(classes)), xlim=(0, 100))
    ax.set_yticklabels(classes)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend()
    return ax


@in_style
def category_bars(rows: dict, classes, *, title="IoU by category", ax=None):
    """Upright bars: a group a category, one bar a method, in the order of the last method's IoU.

    rows: a dict method -> c IoUs as fractions, None or NaN where neither label nor mask has the class
    """
    ax = new_axes(ax, (np.clip(0.2 * len(classes) * (len(rows) + 1) + 1.0, 5.5, WIDE), 3.6))
    percent = _percent(rows)
    places = np.argsort(-np.nan_to_num(list(percent.values())[-1], nan=-1.0), kind="stable")
    thick, highest = 0.8 / len(rows), max(np.nan_to_num(values).max() for values in percent.values())
    for which, (label, values) in enumerate(percent.items()):
        ax.bar(np.arange(len(classes)) - 0.4 + (which + 0.5) * thick, np.nan_to_num(values[places]), thick * 0.92,
               color=CYCLE[which % 8], label=label)
    ax.set(title=title, ylabel="intersection over union (%)", xticks=range(len(classes)),
           ylim=(0, min(100, 1.25 * highest or 100)))  # room for the legend
    ax.set_xticklabels([classes[place] for place in places], rotation=55, ha="right", rotation_mode="anchor")
    ax.grid(axis="x", visible=False)
    ax.legend()
    return ax


def _percent(rows: dict) -> dict[str, np.ndarray]:
    """IoUs in per cent, NaN for None: a dict "method: mean" -> (c,)."""
    percent = {}
    for name, values in rows.items():
        values = 100 * np.array([np.nan if value is None else float(value) for value in values])
        mean = f"mean {np.nanmean(values):.1f} %" if np.isfinite(values).any() else "no class occurs"
        percent[f"{name}: {mean}"] = values
    return percent


@in_style
def results_points(groups: dict, *, xlabel="mean IoU (%)", title="Runs, mean and range", baseline=None, ax=None):
    """One line a method: a point a seed, a bar over their range and a stroke at their mean (for two or more seeds).

    groups: a dict name -> fractions, one a run
    baseline: a fraction that gets a dotted line across
    """
    ax = new_axes(ax, (6.4, 0.36 * len(groups) + 1.3))
    if baseline is not None:
        ax.axvline(100 * baseline, color="#555555", linestyle=":", zorder=1)
    most = max(groups, key=lambda name: len(groups[name]), default=None)
    for height, (name, values) in enumerate(groups.items()):
        values = 100 * as_array(values).astype(float)
        ax.scatter(values, np.full(len(values), height), s=34, color=PALETTE["blue"], zorder=3,
                   label="one run (seed)" if height == 0 else None)
        if len(values) > 1:
            ax.plot([values.min(), values.max()], [height, height], color="#999999", linewidth=5, alpha=0.5)
            ax.scatter(values.mean(), height, s=260, marker="|", linewidths=2.4, color=PALETTE["vermillion"], zorder=4,
                       label="mean over runs" if name == most else None)
    return _line_each(ax, groups, title, xlabel)


@in_style
def change_points(items: dict, *, xlabel="change of mIoU (points)", title="", ax=None):
    """Effects of several changes: a line a change, a point a run, a stroke at the mean; no effect is zero.

    items: a dict change -> a dict of series (such as the read-out) -> changes, one a run
    """
    series = list(dict.fromkeys(name for parts in items.values() for name in parts))
    ax = new_axes(ax, (6.8, (0.16 + 0.2 * len(series)) * len(items) + 1.2))
    ax.axvline(0.0, color="#555555", linewidth=1.2, zorder=1)
    for which, name in enumerate(series):
        color, marker = CYCLE[which % 8], "osD^v"[which % 5]
        lines = [(place + 0.5 * (which + 0.5) / len(series) - 0.25, as_array(parts[name]).astype(float))
                 for place, parts in enumerate(items.values()) if name in parts]
        for i, (height, values) in enumerate(lines):
            ax.scatter(values, np.full(len(values), height), s=30, color=color, marker=marker, alpha=0.75, zorder=3,
                       label=f"{name}, one run" if i == 0 else None)
            ax.scatter(values.mean(), height, s=190, marker="|", linewidths=2.6, color=color, zorder=4,
                       label=f"{name}, mean" if i == 0 else None)
    ax.margins(x=0.08)
    return _line_each(ax, items, title, xlabel)


def _line_each(ax, names, title: str, xlabel: str):
    """Axes with a line for each of `names`, from the top, and the legend beside them."""
    ax.set(title=title, xlabel=xlabel, yticks=range(len(names)), yticklabels=list(names), ylim=(len(names) - 0.5, -0.5))
    ax.legend(**BESIDE)
    return ax
