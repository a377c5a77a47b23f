"""The page on speed: what the argmax kernel, the tiled bank and the lattice compute, and times."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from cause_book.plots.concepts import concept_colors
from cause_book.plots.style import (AMOUNT, BESIDE, CYCLE, HATCHES, PALETTE, SMALL, as_array, bare, in_style,
                                    new_axes, row_of_axes)


@in_style
def winning_products(affinity, winner, *, axes=None):
    """C_ik C_jk of all pairs of patches, a panel a concept; then the largest product and its concept: k + 2 Axes.

    affinity: C, (n, k), at least 0
    winner: (n, n) the concept with the largest product at each pair, drawn where that product is above 0
    """
    affinity, winner = as_array(affinity), as_array(winner)
    products = affinity.T[:, :, None] * affinity.T[:, None]  # (k, n, n)
    largest, colors = products.max(0), concept_colors(len(products))
    axes = row_of_axes(axes, len(products) + 2, (2.1 * len(products) + 4.6, 2.5))
    for concept, (ax, values) in enumerate(zip(axes, [*products, largest])):
        name = "maximum" if concept == len(products) else f"concept {concept}"
        drawn = bare(ax, name).imshow(values, vmin=0.0, vmax=largest.max())
    axes[0].figure.colorbar(drawn, ax=list(axes[:-1]), shrink=0.8, label="$C_{ik}\\,C_{jk}$ (no unit)")
    bare(axes[-1], "its concept").imshow(np.where(largest[..., None] > 0, colors[winner], 1.0))
    handles = [plt.Rectangle((0, 0), 1, 1, color=color, label=f"concept {i}") for i, color in enumerate(colors)]
    axes[0].figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))
    for ax in axes:
        ax.set_xlabel("patch $j$")
    axes[0].set_ylabel("patch $i$")
    return axes


@in_style
def bank_tiles(anchors: int, bank: int, tile: int, *, axes=None):
    """A drawing, not to scale: all logits of anchors by bank at once, or a strip of them that moves along the bank.

    anchors, bank, tile: how many of each there are; they set the bytes in the titles, for float32
    """
    axes = row_of_axes(axes, 2, (9.2, 3.1), width_ratios=(1.04, 1.32))
    stored = {"facecolor": PALETTE["orange"], "edgecolor": "#555555", "hatch": "//"}
    titles = (f"at once: {4e-6 * anchors * bank:,.0f} MB", f"tile by tile: {4e-6 * anchors * tile:,.1f} MB")
    for ax, title, right in zip(axes, titles, (1.02, 1.3)):
        bare(ax, title).set(xlim=(-0.02, right), ylim=(-0.02, 1.02), ylabel=f"{anchors:,} anchors")
        ax.set_xlabel(f"bank: {bank:,} projections", x=0.52 / (right + 0.02))
    axes[0].add_patch(plt.Rectangle((0, 0), 1, 1, label="stored logits", **stored))
    axes[1].add_patch(plt.Rectangle((0, 0), 0.52, 1, facecolor="#E8E8E8", label="computed, discarded"))
    axes[1].add_patch(plt.Rectangle((0, 0), 1, 1, fill=False, edgecolor="#777777", linestyle=(0, (4, 3))))
    axes[1].add_patch(plt.Rectangle((0.52, 0), 0.08, 1, **stored))
    axes[1].annotate("", (0.86, 0.5), (0.64, 0.5), arrowprops={"arrowstyle": "-|>", "linewidth": 1.6})
    for place, name in enumerate(("maximum", "sum", "mean")):
        column = plt.Rectangle((1.06 + 0.08 * place, 0), 0.05, 1, facecolor=PALETTE["sky"], edgecolor="#555555",
                               label="" if place else "kept for each anchor")
        axes[1].add_patch(column)
        axes[1].text(1.085 + 0.08 * place, 0.5, name, rotation=90, ha="center", va="center", fontsize=SMALL)
    handles = [handle for ax in axes for handle in ax.get_legend_handles_labels()[0]]
    axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return axes


@in_style
def lattice_passes(points, values, corners, shares, splatted, blurred, sliced, *, axes=None):
    """A Gaussian sum over points of a plane, by way of a triangular lattice: splat, blur, slice. Three Axes.

    Areas and colours are amounts, on a scale for each panel; points are squares, corners are discs.

    points: (n, 2)
    values, sliced: (n,), at least 0, the input and the output
    corners: (m, 2) of the lattice
    shares: (n, m) barycentric weights
    splatted, blurred: (m,), amounts at the corners
    """
    points, corners, shares = as_array(points), as_array(corners), as_array(shares)
    axes = row_of_axes(axes, 3, (10.4, 3.2))
    gaps = np.linalg.norm(corners[:, None] - corners, axis=-1)  # (m, m)
    edges = np.argwhere(np.triu(gaps < 1.1 * gaps[gaps > 1e-6].min(), 1))
    low, high = points.min(0) - 1.3, points.max(0) + 1.3
    steps = (("splat: to the three corners", values, splatted), ("blur: along three axes", None, blurred),
             ("slice: back to the points", sliced, blurred))
    for ax, (title, *amounts) in zip(axes, steps):
        at_points, at_corners = (None if each is None else as_array(each) for each in amounts)
        most = max(at_corners.max(), 0.0 if at_points is None else at_points.max())
        bare(ax, title).set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal",
                            xlabel="feature 1 (standard deviations)")
        ax.plot(*corners[edges].transpose(2, 1, 0), color="#CCCCCC", linewidth=0.8, zorder=1)
        drawn = _amounts(ax, corners, at_corners / most, "o")
        if at_points is not None:
            _amounts(ax, points, at_points / most, "s")
            for i, corner in np.argwhere(shares > 0):
                ax.plot(*np.stack([points[i], corners[corner]], 1), color="#222222", linewidth=2.5 * shares[i, corner],
                        zorder=2)
    axes[0].set_ylabel("feature 2 (standard deviations)")
    axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.8, label="amount (1 = largest of the panel)")
    return axes


def _amounts(ax, places, amounts, marker: str):
    """Markers at places (m, 2) whose area and colour are amounts (m,) in [0, 1]; 0 is a small white one."""
    least = 14 if marker == "o" else 45
    return ax.scatter(*places.T, s=least + 200 * amounts, c=np.where(amounts > 0, amounts, np.nan), vmin=0.0, vmax=1.0,
                      plotnonfinite=True, cmap=plt.get_cmap(AMOUNT).with_extremes(bad="white"), marker=marker,
                      edgecolors="#555555", linewidths=0.8, zorder=3)


@in_style
def stacked_bars(rows: dict, *, xlabel, title="", ax=None):
    """One bar a row, from top to bottom, put together of parts; its whole length stands at its end.

    rows: a dict name -> (a dict part -> number, at least 0)
    """
    ax = new_axes(ax, (7.2, 0.5 * len(rows) + 1.5))
    starts = np.zeros(len(rows))
    for place, part in enumerate(dict.fromkeys(part for parts in rows.values() for part in parts)):
        widths = np.array([parts.get(part, 0.0) for parts in rows.values()])
        ax.barh(range(len(rows)), widths, 0.6, left=starts, color=CYCLE[place % 8], edgecolor="white",
                hatch=HATCHES[place % 4], label=part)
        starts = starts + widths
    for y, length in enumerate(starts):
        ax.text(length, y, f" {length:.3g}", va="center")
    ax.margins(x=0.1)
    ax.set(title=title, xlabel=xlabel, yticks=range(len(rows)), yticklabels=list(rows))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(**BESIDE)
    return ax
