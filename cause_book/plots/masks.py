"""Chapter 8: masks in the colours of their classes, and clusters matched to classes."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from cause_book.plots.style import (AMOUNT, PALETTE, SMALL, VOID, VOID_STRIPE, as_array, as_picture, bare, frame,
                                    in_style, new_axes, picture_grid, row_of_axes)
from cause_lib.errors import InputError


def paint(mask, colors) -> np.ndarray:
    """A mask (h, w) of class ids as colours (h, w, 3) in [0, 1]; void (-1) becomes grey with diagonal stripes.

    colors: (c, 3) uint8; ValueError for an id that has no colour
    """
    mask, colors = as_array(mask), as_array(colors)
    if mask.max(initial=-1) >= len(colors):
        raise InputError(f"the mask holds class {int(mask.max())}, but `colors` is for {len(colors)} classes only")
    h, w = mask.shape
    period = max(4, h // 32)
    stripe = ((np.arange(h)[:, None] + np.arange(w)[None, :]) // period) % 2 == 1  # (h, w)
    void = np.where(stripe[..., None], VOID_STRIPE, VOID)
    return np.where((mask < 0)[..., None], void, colors[np.maximum(mask, 0)] / 255.0)  # (h, w, 3)


@in_style
def class_legend(figure, classes, colors, *, void: bool = True, present=None):
    """A legend of the classes under a figure; `present` keeps those ids only. Returns the Legend."""
    colors = as_array(colors) / 255.0
    ids = range(len(classes)) if present is None else sorted(int(i) for i in present if i >= 0)
    handles = [Patch(facecolor=colors[i], edgecolor="#555555", linewidth=0.5, label=classes[i]) for i in ids]
    if void:
        handles.append(Patch(facecolor=VOID, edgecolor="white", hatch="////", label="void"))
    return figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))


@in_style
def gallery(columns: dict, classes, colors, *, legend: bool = True, axes=None):
    """A picture a row, a kind of image or mask a column, with one legend of classes. Returns Axes (g, len(columns)).

    columns: a dict name -> g pictures (3, h, w) or g masks (h, w) of class ids, -1 void; all of one length
    classes: c names
    colors: (c, 3) uint8
    """
    lengths = {name: len(items) for name, items in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the gallery's columns hold different numbers of pictures: {lengths}")
    axes = picture_grid(next(iter(lengths.values())), len(columns)) if axes is None else axes
    seen = set()
    for column, (name, items) in enumerate(columns.items()):
        for row, item in enumerate(items):
            item = as_array(item)
            drawn = paint(item, colors) if item.ndim == 2 else as_picture(item)
            seen |= set(np.unique(item).tolist()) if item.ndim == 2 else set()
            bare(axes[row, column], name if row == 0 else "").imshow(drawn)
    if legend and seen:
        class_legend(axes[0, 0].figure, classes, colors, void=-1 in seen, present=seen)
    return axes


@in_style
def crf_comparison(image, before, after, classes, colors, *, axes=None):
    """A picture, its mask before and after the CRF, and the pixels that changed. Returns an array of four Axes.

    image: (3, h, w)
    before, after: (h, w) class ids
    classes, colors: as in `gallery`
    """
    before, after = as_array(before), as_array(after)
    axes = row_of_axes(axes, 4, (9.2, 2.9))
    changed = before != after
    dim = as_picture(image).mean(-1, keepdims=True).repeat(3, -1) * 0.5 + 0.5
    drawn = (as_picture(image), paint(before, colors), paint(after, colors),
             np.where(changed[..., None], to_rgb(PALETTE["vermillion"]), dim))
    titles = ("image", "before the CRF", "after the CRF", f"changed: {100 * changed.mean():.1f} % of pixels")
    for ax, picture, title in zip(axes, drawn, titles):
        bare(ax, title).imshow(picture)
    present = set(np.unique(before)) | set(np.unique(after))
    class_legend(axes[0].figure, classes, colors, void=-1 in present, present=present)
    return axes


@in_style
def confusion_matrix(counts, classes, *, title="Confusion matrix of the matched clusters", ax=None):
    """Pixels of each true class (rows) by predicted class (columns), each row in per cent of the true class.

    counts: (c, c) pixel counts after matching, rows the labels; empty rows stay white
    """
    counts = as_array(counts).astype(float)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = max(4.2, 0.36 * len(classes) + 2.2)
    ax = new_axes(ax, (side + 0.8, side))
    drawn = ax.imshow(shares, cmap=AMOUNT, vmin=0.0, vmax=100.0)
    ax.grid(False)
    places = range(len(classes))
    ax.set(title=title, xlabel="predicted class", ylabel="true class", xticks=places, yticks=places)
    ax.set_xticklabels(classes, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(classes)
    for i, j in np.argwhere(shares >= 9.5) if len(classes) <= 12 else ():
        ax.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=SMALL,
                color="black" if shares[i, j] > 55 else "white")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.75, label="share of the true class (%)")
    return ax


@in_style
def matching(counts, assignment, row_names, column_names, *, title="Clusters matched to classes", ax=None):
    """A small table of pixel counts, clusters by classes, with the chosen cell of every cluster framed.

    counts: (clusters, classes)
    assignment: the class of each cluster, -1 for none
    """
    counts = as_array(counts)
    ax = new_axes(ax, (4.6, 3.4))
    drawn = ax.imshow(counts, cmap=AMOUNT, vmin=0)
    ax.grid(False)
    ax.set(title=title, xlabel="class", ylabel="cluster", xticks=range(counts.shape[1]), yticks=range(counts.shape[0]))
    ax.set_xticklabels(column_names)
    ax.set_yticklabels(row_names)
    for (i, j), count in np.ndenumerate(counts):
        ax.text(j, i, f"{count:g}", ha="center", va="center", color="black" if count > 0.6 * counts.max() else "white")
    for i, j in enumerate(as_array(assignment)):
        if j >= 0:
            frame(ax, (j - 0.45, i - 0.45), 0.9, PALETTE["vermillion"], 2.5)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.85, label="pixels (count)")
    return ax
