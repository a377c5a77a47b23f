"""Chapters 5, 7 and 6: concepts on pictures, their usage, their similarity, and modularity."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.patches import Patch

from cause_book.plots.style import (AMOUNT, BESIDE, CYCLE, LABEL, MARKERS, PALETTE, RELATION, SIGNED, SMALL, as_array,
                                    as_picture, bare, in_style, new_axes, row_of_axes)
from cause_lib.errors import InputError


def concept_colors(num_concepts: int) -> np.ndarray:
    """(k, 3) colours in [0, 1] that depend on the concept's number alone.

    The first eight are the palette; further ones step the hue by the golden ratio and cycle through lightness and
    saturation.
    """
    k = np.arange(num_concepts)
    hue = (0.12 + k * 0.6180339887498949) % 1.0
    colors = hsv_to_rgb(np.stack([hue, np.take([0.85, 0.45, 0.65], k % 3), np.take([0.95, 0.55, 0.8, 0.4], k % 4)], -1))
    first = np.array([to_rgb(color) for color in CYCLE])[:num_concepts]
    colors[: len(first)] = first
    return colors  # (k, 3)


@in_style
def concept_map(concepts, grid, *, order=None, image=None, numbered: int = 6,
                title="Nearest concept of each patch", ax=None):
    """The nearest concept of every patch of a picture. The `numbered` largest concepts carry their id.

    concepts: (n,) integer ids
    grid: (rows, columns) with rows * columns = n
    order: the ids in the order in which they get colours, or None for the ids' own order
    image: an optional picture below the colours

    Raises ValueError if the grid does not hold n patches, or an id is missing from `order`.
    """
    concepts = as_array(concepts).reshape(-1)
    rows, columns = grid
    if rows * columns != len(concepts):
        raise InputError(f"a grid of {rows} x {columns} patches cannot hold {len(concepts)} concepts")
    order = np.arange(concepts.max() + 1) if order is None else as_array(order)
    position = {int(concept): place for place, concept in enumerate(order)}
    missing = sorted(set(concepts.tolist()) - set(position))
    if missing:
        raise InputError(f"concept {missing[0]} is on the map but not in `order`, so it has no colour")
    colors = concept_colors(len(order))
    painted = colors[[position[int(concept)] for concept in concepts]].reshape(rows, columns, 3)
    ax = bare(new_axes(ax, (3.4, 3.4)), title)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    if image is not None:
        ax.imshow(as_picture(image), extent=extent)
    ax.imshow(painted, extent=extent, alpha=1.0 if image is None else 0.6)
    ids, sizes = np.unique(concepts, return_counts=True)
    board, taken = concepts.reshape(rows, columns), []
    for concept in ids[np.argsort(-sizes, kind="stable")][:numbered]:
        places = np.argwhere(board == concept)
        place = places[np.abs(places - places.mean(0)).sum(1).argmin()]  # the member nearest the middle of its region
        if any(np.abs(place - other).max() < rows / 5 for other in taken):
            continue  # a number on top of another cannot be read
        taken.append(place)
        y, x = place
        ax.text(x, y, str(int(concept)), ha="center", va="center", fontsize=SMALL, bbox=LABEL)
    return ax


@in_style
def usage_by_rank(counts, *, title="Patches of each concept", ax=None):
    """Rank against frequency of the concepts, both on logarithmic axes; the legend counts the unused ones.

    counts: (k,) how many patches each concept is nearest to
    """
    counts = np.sort(as_array(counts).reshape(-1))[::-1]
    used = counts[counts > 0]
    ax = new_axes(ax)
    ax.loglog(np.arange(1, len(used) + 1), used, marker="o", markersize=4, label=f"{len(used)} concepts in use")
    ax.plot([], [], " ", label=f"{len(counts) - len(used)} of {len(counts)} without a patch")
    ax.set(title=title, xlabel="rank of the concept (1 = most used)", ylabel="patches of the concept (count)")
    ax.legend()
    return ax


@in_style
def graph(adjacency, positions, communities=None, *, names=None, title="", ax=None):
    """A weighted undirected graph. A thicker line is a heavier edge; a community has its own colour and marker.

    adjacency: (n, n) symmetric, non-negative
    positions: (n, 2)
    communities: (n,) integers or None
    names: n short texts
    """
    adjacency, positions = as_array(adjacency), as_array(positions)
    communities = np.zeros(len(adjacency), int) if communities is None else as_array(communities)
    ax = bare(new_axes(ax, (4.2, 3.2)), title)
    heaviest = adjacency.max() or 1.0
    for i, j in np.argwhere(np.triu(adjacency, 1) > 0):
        ax.plot(*positions[[i, j]].T, color="#888888", linewidth=2.2 * adjacency[i, j] / heaviest, zorder=1)
    for place, community in enumerate(np.unique(communities)):
        members = communities == community
        ax.scatter(*positions[members].T, s=190, color=CYCLE[place % 8], marker=MARKERS[place % 8], zorder=2,
                   edgecolors="white", label=f"community {int(community)}")
    for point, name in zip(positions, names if names is not None else range(len(positions))):
        ax.text(*point, str(name), ha="center", va="center", color="white", fontsize=SMALL, zorder=3)
    ax.margins(0.12)
    if len(np.unique(communities)) > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    return ax


@in_style
def modularity_matrices(modularity, together, *, node="patch", axes=None):
    """Side by side: W of Eq. 3 for each pair of patches, and delta of their concepts. Returns two Axes.

    modularity: (n, n) W of Eq. 3, signed, summing to zero
    together: (n, n) delta in [0, 1]
    node: what a row is
    """
    modularity, together = as_array(modularity), as_array(together)
    axes = row_of_axes(axes, 2, (8.0, 3.7))
    limit = np.abs(modularity).max() or 1.0
    left = axes[0].imshow(modularity, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    right = axes[1].imshow(together, cmap=AMOUNT, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes[0].set_title("$W$: similarity above chance")
    axes[1].set_title(r"$\delta$: concept in common")
    for ax, drawn, unit in zip(axes, (left, right), ("share of all edge weight", "0 none, 1 the same")):
        ax.grid(False)
        ax.set(xlabel=f"{node} $j$ (number)", ylabel=f"{node} $i$ (number)")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label=unit)
    return axes


@in_style
def similarity_histogram(similarity, positive_threshold=0.3, negative_threshold=0.1, *,
                         title="Similarity of the concepts", ax=None):
    """Histogram of D_M off its diagonal, cut by the thresholds into positive, ignored and negative pairs.

    similarity: (k, k) cosines in [-1, 1]; ValueError for fewer than two concepts
    """
    similarity = as_array(similarity)
    if similarity.ndim != 2 or len(similarity) < 2:
        raise InputError(f"pairs of concepts need a (k, k) similarity with k of 2 or more, not {similarity.shape}")
    pairs = similarity[np.triu_indices(len(similarity), 1)]
    heights, edges = np.histogram(pairs, bins=np.linspace(-1.0, 1.0, 81))
    middle = (edges[1:] + edges[:-1]) / 2
    parts = {"positive": middle > positive_threshold, "negative": middle < negative_threshold}
    parts["ignored"] = ~(parts["positive"] | parts["negative"])
    shares = {"positive": float((pairs > positive_threshold).mean()),
              "negative": float((pairs < negative_threshold).mean())}
    shares["ignored"] = 1.0 - shares["positive"] - shares["negative"]
    ax = new_axes(ax, (6.4, 3.4))
    for name in ("negative", "ignored", "positive"):
        ax.bar(middle[parts[name]], heights[parts[name]], width=edges[1] - edges[0], color=RELATION[name],
               label=f"{name}: {100 * shares[name]:.1f} %")
    for threshold, sign, line in ((positive_threshold, "+", "--"), (negative_threshold, "-", ":")):
        ax.axvline(threshold, color="#222222", linestyle=line, linewidth=1.4, label=f"$\\phi^{sign}$ = {threshold:g}")
    ax.set(title=title, xlabel="cosine of two prototypes (no unit)", ylabel="pairs of concepts (count)", xlim=(-1, 1))
    ax.legend(**BESIDE)
    return ax


@in_style
def anchor_relations(image, relation, grid, anchor: int, *, title="Relations of one anchor", ax=None):
    """An anchor patch on its picture, with its positive, ignored and negative patches.

    Positives carry a plus and negatives a minus; the legend counts them without the anchor itself.

    image: (3, h, w)
    relation: (n,) 1 positive, 0 ignored, -1 negative
    grid: (rows, columns)
    anchor: a patch number
    """
    rows, columns = grid
    relation = as_array(relation).reshape(rows, columns)
    kinds = {1: "positive", 0: "ignored", -1: "negative"}
    signs = {1: " (+)", 0: "", -1: " (−)"}
    colors = np.array([to_rgb(RELATION[kind]) for kind in kinds.values()])[1 - relation]  # (rows, columns, 3)
    ax = bare(new_axes(ax, (4.6, 3.8)), title)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    ax.imshow(as_picture(image), extent=extent)
    ax.imshow(colors, extent=extent, alpha=0.5)
    size = min(60.0, 3000.0 / max(rows, columns) ** 1.6)
    for value, marker in ((1, "+"), (-1, "_")):
        y, x = np.nonzero(relation == value)
        ax.scatter(x, y, s=size, marker=marker, color="white", linewidths=1.0)
    ax.scatter(anchor % columns, anchor // columns, s=160, marker="*", color=PALETTE["yellow"], edgecolors="black",
               zorder=3)
    star = plt.Line2D([], [], linestyle="none", marker="*", markersize=12, color=PALETTE["yellow"],
                      markeredgecolor="black", label="anchor")
    others = np.delete(relation.reshape(-1), anchor)
    patches = [Patch(color=RELATION[kind], label=f"{kind}{signs[value]}: {int((others == value).sum())}")
               for value, kind in kinds.items()]
    ax.legend(handles=[star, *patches], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
