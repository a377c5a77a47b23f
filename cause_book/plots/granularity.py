"""Chapter 11: relations of parts, their merging as phi+ falls, and agreement at every level."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from scipy.cluster.hierarchy import dendrogram

from cause_book.plots.style import (CYCLE, MARKERS, PALETTE, RELATION, SMALL, as_array, as_picture, bare, in_style,
                                    new_axes, panels, row_of_axes)


@in_style
def relation_columns(tables: dict, names, *, title="Pairs of different parts of one object", axes=None):
    """Which share of each object's pairs is positive, ignored, negative: a column a table, a bar an object.

    tables: a dict name -> counts (o, 3) in that order
    names: o objects; an object without a pair has no bar
    """
    names = list(names)
    axes = row_of_axes(axes, len(tables), (3.3 * len(tables) + 1.0, 0.34 * len(names) + 1.5), sharey=True)
    for ax, (name, counts) in zip(axes, tables.items()):
        counts = as_array(counts).astype(float)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (o, 3)
        starts = shares.cumsum(1) - shares
        for kind, (relation, color) in enumerate(RELATION.items()):
            ax.barh(range(len(names)), shares[:, kind], 0.74, left=starts[:, kind], color=color, edgecolor="white",
                    label=relation)
            for y in np.flatnonzero(shares[:, kind] >= 9):
                ax.text(starts[y, kind] + shares[y, kind] / 2, y, f"{shares[y, kind]:.0f}", ha="center", va="center",
                        fontsize=SMALL, color="white" if relation == "positive" else "black")
        ax.set(title=name, xlabel="pairs of patches (%)", xlim=(0, 100), xticks=range(0, 100, 25),
               yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].figure.suptitle(title, fontweight="bold")
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return axes


@in_style
def merging_rows(rows: int, stages, *, height: float = 1.75) -> np.ndarray:
    """Axes (rows, len(stages) + 2) of a new figure with a `merging_row` an object; stages: values of phi+."""
    axes = panels(rows, len(stages) + 2, figsize=(1.25 * len(stages) + 4.6, height * rows + 0.4),
                  width_ratios=[1.0] * (len(stages) + 1) + [2.3])
    axes[0, 0].figure.suptitle(r"Merging of parts as $\phi^+$ falls", fontweight="bold")
    return axes


@in_style
def merging_row(image, label, parts: dict, tree, stages: dict, *, alone=None, rival="", title="", axes=None):
    """One object as phi+ falls: its picture, its parts recoloured by segment, and the tree of their merging.

    A segment has the colour of its first part. Returns an array of len(stages) + 2 Axes.

    image: (3, h, w)
    label: (h, w) ids of parts
    parts: a dict id -> name of the object's own p parts
    tree: linkage (p - 1, 4) with heights 1 - phi+
    stages: a dict phi+ -> (p,) numbers of segments
    alone, rival: below which phi+ the object is tied to another, and to which
    """
    label, names = as_array(label), list(parts.values())
    if axes is None:
        axes = merging_rows(1, stages)[0]
    picture = as_picture(image)
    bare(axes[0]).imshow(picture)
    axes[0].set_ylabel(title, fontweight="bold")
    place = np.full(max(label.max(), *parts) + 1, -1)
    place[list(parts)] = range(len(parts))
    own = place[label]  # (h, w), -1 for everything else
    light = picture.mean(-1, keepdims=True)
    for ax, (threshold, numbers) in zip(axes[1:], stages.items()):
        numbers = as_array(numbers).tolist()
        leaders = np.array([numbers.index(number) for number in numbers])  # (p,) the first part of each segment
        segment = np.where(own >= 0, leaders[own], -1)
        colors = np.array([to_rgb(color) for color in CYCLE])[segment]
        painted = np.where((own >= 0)[..., None], (0.6 + 0.4 * light) * (0.85 * colors + 0.15), 0.78 + 0.2 * light)
        border = np.zeros(own.shape, bool)
        border[:, 1:] |= segment[:, 1:] != segment[:, :-1]
        border[1:] |= segment[1:] != segment[:-1]
        painted[border] = 1.0
        bare(ax).imshow(painted)
        many = "one segment" if len(set(numbers)) == 1 else f"{len(set(numbers))} segments"
        ax.set_xlabel(f"$\\phi^+$ = {threshold:g}\n{many}", fontsize=SMALL)
    _merging_tree(axes[-1], names, as_array(tree), list(stages), alone, rival)
    return np.asarray(axes)


def _merging_tree(ax, names, tree, thresholds, alone, rival) -> None:
    """Parts as lines that meet where they merge; phi+ falls from left to right."""
    end = min([-0.25, min(thresholds) - 0.1])
    order = dendrogram(tree, no_plot=True)["leaves"] if len(names) > 1 else [0]
    tips = {part: (float(order.index(part)), 1.08, part) for part in range(len(names))}  # height, from where, colour
    for number, (left, right, distance, _) in enumerate(tree):
        pair, meet = [tips.pop(int(left)), tips.pop(int(right))], max(1.0 - distance, end)
        for y, start, leader in pair:
            ax.plot([start, meet], [y, y], color=CYCLE[leader], linewidth=3.2, solid_capstyle="round")
        first = min(leader for _, _, leader in pair)
        if 1.0 - distance > end:
            ax.plot([meet, meet], [pair[0][0], pair[1][0]], color=CYCLE[first], linewidth=3.2, solid_capstyle="round")
            tips[len(names) + number] = ((pair[0][0] + pair[1][0]) / 2, meet, first)
        else:  # beyond the end of the axis: both go on alone
            tips[len(names) + number] = (pair[0][0], end, first)
    for y, start, leader in tips.values():
        ax.plot([start, end], [y, y], color=CYCLE[leader], linewidth=3.2, solid_capstyle="round")
    for threshold in thresholds:
        ax.axvline(threshold, color="#555555", linewidth=1.0, linestyle=":", zorder=0)
    if alone is not None and alone > end:
        ax.axvspan(alone, end, facecolor="#F3F3F3", edgecolor="#CCCCCC", hatch="//", linewidth=0, zorder=-1)
        ax.set_title(f"hatched: tied to {rival}", loc="right", fontsize=SMALL, fontweight="normal")
    ax.set(xlabel=r"$\phi^+$ (cosine, no unit)", xlim=(1.1, end), ylim=(len(names) - 0.4, -0.6),
           yticks=range(len(names)), xticks=[1.0, *thresholds])
    ax.set_yticklabels([names[part] for part in order])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


@in_style
def windows(columns: dict, names, *, title="", axes=None):
    """For which phi+ an object is whole and alone: a column a dict entry, a line an object.

    A blue bar where there is such a window, a thin dashed line where the object is tied to another before it is whole.

    columns: a dict name -> for each object None or a dict with `whole` and `alone`, see granularity.windows
    names: the objects
    """
    names = list(names)
    axes = row_of_axes(axes, len(columns), (3.9 * len(columns) + 1.2, 0.32 * len(names) + 1.6), sharey=True)
    low = max(-0.6, min((value for found in columns.values() for window in found if window
                         for value in (window["whole"], window["alone"])), default=0.0) - 0.05)
    for ax, (name, found) in zip(axes, columns.items()):
        for y, window in enumerate(found):
            if window is None:
                continue
            whole, alone = max(window["whole"], low), max(window["alone"], low)
            opens = whole > alone
            ax.plot([alone, whole], [y, y], color=PALETTE["blue"] if opens else "#999999", zorder=2,
                    linewidth=6 if opens else 1.2, linestyle="-" if opens else (0, (3, 2)), solid_capstyle="butt")
            ax.scatter(whole, y, s=42, color=PALETTE["blue"], zorder=3)
            ax.scatter(alone, y, s=46, marker="D", color=PALETTE["orange"], edgecolors="white", zorder=3)
        ax.set(title=name, xlabel=r"$\phi^+$ (cosine, no unit)", xlim=(1.05, low - 0.05), yticks=range(len(names)),
               yticklabels=names)
    axes[0].invert_yaxis()
    if title:
        axes[0].figure.suptitle(title, fontweight="bold")
    handles = [plt.Line2D([], [], linestyle="none", marker=marker, color=PALETTE[color], label=f"below it: {name}")
               for marker, color, name in (("o", "blue", "one segment"), ("D", "orange", "tied to another"))]
    handles += [plt.Line2D([], [], linewidth=6, color=PALETTE["blue"], label="one segment, tied to no other")]
    axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return axes


@in_style
def across_levels(rows: dict, levels, *, ideals: dict | None = None, spans: dict | None = None,
                  rings: dict | None = None, ylabel, title="", ax=None):
    """Numbers at every level, a line a method.

    rows, ideals: a dict name -> one fraction a level; `ideals` are drawn faint and dashed
    levels: their names
    spans: name -> (lowest, highest) a level, drawn as bars
    rings: name -> the level that has a ring, or None; unless given, the largest has
    """
    ax = new_axes(ax, (5.6, 3.8))
    for marker, (name, values) in zip("^sv", (ideals or {}).items()):
        ax.plot(range(len(levels)), 100 * np.asarray(values, float), color="#999999", linestyle=(0, (4, 2)),
                linewidth=1.1, marker=marker, markersize=5, label=name)
    for place, (name, values) in enumerate(rows.items()):
        values, color = 100 * np.asarray(values, float), CYCLE[place % 8]
        x = np.arange(len(levels)) + (0.08 * (place - (len(rows) - 1) / 2) if spans else 0.0)  # bars side by side
        ax.plot(x, values, color=color, marker=MARKERS[place % 8], markersize=6, label=name, zorder=3)
        if spans:
            ax.vlines(x, *(100 * np.asarray(spans[name], float).T), color=color, linewidth=1.6, zorder=2)
        if (level := levels[values.argmax()] if rings is None else rings[name]) is not None:
            ringed = list(levels).index(level)
            ax.scatter(x[ringed], values[ringed], s=190, facecolor="none", edgecolor=color, linewidths=1.6, zorder=4)
    ax.set(title=title, ylabel=ylabel, xticks=range(len(levels)), xticklabels=levels, xlim=(-0.3, len(levels) - 0.7))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    return ax
