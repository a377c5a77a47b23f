"""Chapters 12 and 13: answers to an intervention, and the views of several photographers."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cause_book.plots.masks import paint
from cause_book.plots.style import (BESIDE, CYCLE, HATCHES, LABEL, SMALL, as_array, as_picture, bare, frame,
                                    in_style, new_axes, panels)


@in_style
def intervention_bars(answers: dict, treatments, *, ylabel="probability of the outcome (%)", title="", ax=None):
    """A group of bars an answer, one bar a treatment: the probability of the outcome by each answer.

    answers: a dict name -> (t,) probabilities in [0, 1]
    treatments: t names
    """
    ax = new_axes(ax, (6.8, 3.5))
    width = 0.8 / len(treatments)
    for t, name in enumerate(treatments):
        heights = 100 * np.array([as_array(values)[t] for values in answers.values()])
        bars = ax.bar(np.arange(len(answers)) - 0.4 + (t + 0.5) * width, heights, 0.94 * width, color=CYCLE[t % 8],
                      hatch=HATCHES[t % 4], edgecolor="white", label=name)
        ax.bar_label(bars, fmt="%.1f", fontsize=SMALL, padding=2)
    ax.margins(y=0.1)
    ax.set(title=title, ylabel=ylabel, xticks=range(len(answers)), xticklabels=list(answers))
    ax.grid(axis="x", visible=False)
    ax.legend(**BESIDE)
    return ax


@in_style
def views_and_names(views, masks, classes, colors, titles, *, frames=(), axes=None):
    """Views of one scene on top, framed in the colour of their photographer; below, the names of what they show.

    Names stand on regions of a fortieth of the mask or more. Returns an array of Axes (2, v).

    views: v pictures
    masks: v (h, w) class ids
    classes, colors: v lists of names and v (c, 3) uint8, one for each mask
    titles: v texts
    frames: (top, left, side) of views 0, 1, ..., as fractions of the last view, drawn on it
    """
    axes = panels(2, len(views), figsize=(3.0 * len(views), 6.3)) if axes is None else axes
    for place, (top, bottom) in enumerate(axes.T):
        mask = as_array(masks[place])
        bare(top, titles[place]).imshow(as_picture(views[place]), extent=(0, 1, 1, 0))
        top.title.set_color(CYCLE[place])
        frame(top, (0, 0), 1, CYCLE[place], 2.6, clip_on=False)
        bare(bottom).imshow(paint(mask, colors[place]), extent=(0, 1, 1, 0))
        for name in np.unique(mask):
            regions, number = ndimage.label(mask == name)
            sizes = np.bincount(regions.ravel(), minlength=number + 1)[1:]
            if sizes.max() < mask.size / 40:
                continue
            depth = ndimage.distance_transform_edt(np.pad(regions == sizes.argmax() + 1, 1))[1:-1, 1:-1]
            y, x = np.divmod(depth.argmax(), mask.shape[1]) / np.array(mask.shape)  # where most room is around it
            bottom.text(np.clip(x, 0.12, 0.88), y, classes[place][name], ha="center", va="center", fontsize=SMALL,
                        bbox=LABEL)
    for place, (top, left, side) in enumerate(frames):
        frame(axes[0, -1], (left, top), side, CYCLE[place], 2.6, clip_on=False)
    return axes


@in_style
def kinds_and_segments(shares: dict, rows: dict, kinds, colors, *, ylabel, titles=("", ""), axes=None):
    """Above, the parts of each kind's total as stacked bars; below, the kinds' segments, one row a grouping.

    A segment has the colour of the member that numbers it; white lines part segments. Returns two Axes.

    shares: a dict name -> (t,) fractions that sum to 1 over the names
    rows: a dict name -> (t,) integers, the segment of each kind, as the number of one of its members
    kinds: t names
    colors: (t, 3) uint8
    titles: of the two Axes
    """
    if axes is None:
        shape, heights = (8.4, 4.2 + 0.3 * len(rows)), (2.0, 0.36 * len(rows))
        axes = panels(2, 1, figsize=shape, sharex=True, height_ratios=heights)[:, 0]
    places, colors = np.arange(len(kinds)), as_array(colors) / 255.0
    below = np.zeros(len(kinds))
    for number, (name, values) in enumerate(shares.items()):
        values = 100 * as_array(values)
        axes[0].bar(places, values, 0.86, bottom=below, color=CYCLE[number % 8], edgecolor="white", linewidth=0.5,
                    hatch=HATCHES[number % 4], label=name)
        below = below + values
    axes[0].set(title=titles[0], ylabel=ylabel, ylim=(0, 100))
    axes[0].grid(axis="x", visible=False)
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(shares))
    groupings = [as_array(values) for values in rows.values()]
    axes[1].imshow(colors[np.stack(groupings)], aspect="auto")
    for height, grouping in enumerate(groupings):
        for place in np.flatnonzero(grouping[1:] != grouping[:-1]):
            axes[1].plot([place + 0.5] * 2, [height - 0.5, height + 0.5], color="white", linewidth=2.5)
        axes[1].text(len(kinds) - 0.3, height, f"{len(np.unique(grouping))} segments", va="center")
        axes[1].axhline(height - 0.5, color="white", linewidth=4)
    axes[1].grid(False)
    axes[1].set(title=titles[1], xticks=places, yticks=range(len(rows)), xlim=(-0.6, len(kinds) - 0.4))
    axes[1].set_xticklabels(kinds, rotation=90)
    axes[1].set_yticklabels(list(rows))
    axes[1].tick_params(length=0)
    axes[1].spines[:].set_visible(False)
    return np.asarray(axes)
