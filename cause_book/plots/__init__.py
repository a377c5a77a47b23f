"""Every chart of the book, as a function that takes plain arrays and returns its Axes; diagrams are in diagrams.py.

One visual language for all chapters: a white ground, the palette of Okabe and Ito (2008, "Color universal design") for
categories, cividis for amounts and a blue-to-orange diverging map for signed values, all three made to survive colour
blindness and a grey-scale print. Pictures carry no ticks; charts carry a title, axis labels with their units, a legend.

A function draws into the `ax` it is given, or makes a figure of its own; it never calls `plt.show()`. Arrays may be
numpy arrays or torch tensors on any device. Axis letters are those of the whole library: `n` patches, `k` concepts,
`c` classes, `h` `w` height and width in pixels, `g` pictures of a gallery.
"""

from __future__ import annotations

import functools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, hsv_to_rgb, to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter
from scipy import ndimage
from scipy.cluster.hierarchy import dendrogram

from cause_lib.errors import InputError

# Okabe and Ito's eight colours by name; the order of CYCLE puts the two easiest to tell apart first.
PALETTE = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermillion": "#D55E00",
    "purple": "#CC79A7", "sky": "#56B4E9", "yellow": "#F0E442", "black": "#000000",
}
CYCLE = [PALETTE[name] for name in ("blue", "orange", "green", "vermillion", "purple", "sky", "black", "yellow")]
AMOUNT = "cividis"
SIGNED = LinearSegmentedColormap.from_list("cause_signed", [PALETTE["blue"], "#FFFFFF", PALETTE["vermillion"]])
VOID = (0.62, 0.62, 0.62)
VOID_STRIPE = (0.86, 0.86, 0.86)
RELATION = {"positive": PALETTE["blue"], "ignored": "#BBBBBB", "negative": PALETTE["orange"]}

STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110,
    "text.color": "#222222", "axes.labelcolor": "#222222", "axes.edgecolor": "#555555",
    "xtick.color": "#444444", "ytick.color": "#444444", "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.8,
    "axes.prop_cycle": plt.cycler(color=CYCLE), "image.cmap": AMOUNT, "image.interpolation": "antialiased",  # patches and cells, drawn three times as large or more, keep their edges
}


def in_style(function):
    """Draw `function`'s figure in STYLE and leave the reader's own matplotlib settings as they were."""

    @functools.wraps(function)
    def styled(*args, **kwargs):
        # not rc_context: it would also undo the switch to inline figures that a notebook's first figure makes
        before = {key: plt.rcParams[key] for key in STYLE}
        plt.rcParams.update(STYLE)
        try:
            return function(*args, **kwargs)
        finally:
            plt.rcParams.update(before)

    return styled


def as_array(values) -> np.ndarray:
    """A numpy array from an array, a list or a torch tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def as_picture(image) -> np.ndarray:
    """An image (3, h, w) or (h, w, 3), uint8 or float in [0, 1], as (h, w, 3) float in [0, 1]."""
    image = as_array(image)
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[-1] != 3:
        image = image.transpose(1, 2, 0)  # (h, w, 3)
    return image / 255.0 if image.dtype == np.uint8 else np.clip(image.astype(float), 0.0, 1.0)


def new_axes(ax=None, figsize=(5.0, 3.4)):
    """`ax` itself, or the Axes of a new figure."""
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


@in_style
def panels(rows: int, columns: int, *, figsize, **options) -> np.ndarray:
    """An array (rows, columns) of the Axes of a new figure, in STYLE, for functions that draw into an `ax`."""
    return plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained", **options)[1]


def bare(ax, title: str = ""):
    """An Axes for a picture: no ticks, no frame, no grid."""
    ax.set(xticks=[], yticks=[], title=title)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


# --- concepts ---


def concept_colors(num_concepts: int) -> np.ndarray:
    """(k, 3) colours in [0, 1] that depend on the concept's number alone, so that a concept looks the same everywhere.

    The first eight are the palette; further ones step the hue by the golden ratio (the most even way to keep adding
    hues) and cycle through lightness and saturation, which is what the eye has left where hues fail it.
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
    """Which concept every patch of a picture is nearest to.

    concepts: (n,) integer ids; grid: (rows, columns) with rows * columns = n; order: the ids in the order in which they
    get colours (most used first, say, and the same order for every picture), or None for the ids' own order; image:
    an optional picture to shine through. The `numbered` largest concepts carry their id. Returns the Axes.
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
        ax.text(x, y, str(int(concept)), ha="center", va="center", fontsize=8,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})
    return ax


@in_style
def usage_by_rank(counts, *, title="How many patches each concept wins", ax=None):
    """Rank against frequency of the concepts, both on logarithmic axes.

    counts: (k,) how many patches each concept is nearest to. Concepts that never win cannot stand on a logarithmic
    axis; the legend counts them. Returns the Axes.
    """
    counts = np.sort(as_array(counts).reshape(-1))[::-1]
    wins = counts[counts > 0]
    ax = new_axes(ax)
    ax.loglog(np.arange(1, len(wins) + 1), wins, marker="o", markersize=4, label=f"{len(wins)} concepts that win")
    ax.plot([], [], " ", label=f"{len(counts) - len(wins)} of {len(counts)} never win")
    ax.set(title=title, xlabel="rank of the concept (1 = most used)", ylabel="patches won (count)")
    ax.legend()
    return ax


@in_style
def graph(adjacency, positions, communities=None, *, names=None, title="", ax=None):
    """A weighted undirected graph drawn where `positions` says.

    adjacency: (n, n) symmetric, non-negative; positions: (n, 2); communities: (n,) integers or None; names: n short
    texts. A thicker line is a heavier edge; a community has a colour and a marker of its own. Returns the Axes.
    """
    adjacency, positions = as_array(adjacency), as_array(positions)
    communities = np.zeros(len(adjacency), int) if communities is None else as_array(communities)
    ax = bare(new_axes(ax, (4.2, 3.2)), title)
    heaviest = adjacency.max() or 1.0
    for i, j in np.argwhere(np.triu(adjacency, 1) > 0):
        ax.plot(*positions[[i, j]].T, color="#888888", linewidth=2.2 * adjacency[i, j] / heaviest, zorder=1)
    for place, community in enumerate(np.unique(communities)):
        members = communities == community
        ax.scatter(*positions[members].T, s=190, color=CYCLE[place % 8], marker="osD^vPX*"[place % 8], zorder=2,
                   edgecolors="white", label=f"community {int(community)}")
    for point, name in zip(positions, names if names is not None else range(len(positions))):
        ax.text(*point, str(name), ha="center", va="center", color="white", fontsize=8, zorder=3)
    ax.margins(0.12)
    if len(np.unique(communities)) > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    return ax


@in_style
def modularity_matrices(modularity, together, *, node="patch", axes=None):
    """Side by side: what the graph of patches says about each pair, and what the concepts say.

    modularity: (n, n) W of Eq. 3, signed, summing to zero; together: (n, n) delta in [0, 1]; node: what a row is.
    Returns an array of two Axes.
    """
    modularity, together = as_array(modularity), as_array(together)
    axes = plt.subplots(1, 2, figsize=(8.0, 3.7), layout="constrained")[1] if axes is None else axes
    limit = np.abs(modularity).max() or 1.0
    left = axes[0].imshow(modularity, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    right = axes[1].imshow(together, cmap=AMOUNT, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes[0].set_title("$W$: more alike than chance")
    axes[1].set_title(r"$\delta$: together in a concept")
    for ax, drawn, unit in zip(axes, (left, right), ("share of all edge weight", "0 apart, 1 together")):
        ax.grid(False)
        ax.set(xlabel=f"{node} $j$ (number)", ylabel=f"{node} $i$ (number)")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label=unit)
    return np.asarray(axes)


@in_style
def training_history(steps, curves, *, ylabel="loss (no unit)", title="Training", ax=None):
    """Curves over training updates.

    steps: (s,) update numbers; curves: a dict name -> (s,) values, or (s,) values alone. With more than 60 values a
    curve is drawn faint, with its running mean over a twentieth of the run on top. Returns the Axes.
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


def relation_shares(similarity, positive_threshold=0.3, negative_threshold=0.1) -> dict[str, float]:
    """Shares (they sum to 1) of concept pairs (k, k) that are positive, ignored and negative, the diagonal left out."""
    pairs = _off_diagonal(similarity)
    positive, negative = float((pairs > positive_threshold).mean()), float((pairs < negative_threshold).mean())
    return {"positive": positive, "ignored": 1.0 - positive - negative, "negative": negative}


def _off_diagonal(similarity) -> np.ndarray:
    similarity = as_array(similarity)
    if similarity.ndim != 2 or len(similarity) < 2:
        raise InputError(f"pairs of concepts need a (k, k) similarity with k of 2 or more, not {similarity.shape}")
    return similarity[np.triu_indices(len(similarity), 1)]


@in_style
def similarity_histogram(similarity, positive_threshold=0.3, negative_threshold=0.1, *,
                         title="How alike the concepts are", ax=None):
    """Histogram of D_M off its diagonal, cut by the two thresholds into positives, ignored pairs and negatives.

    similarity: (k, k) cosines in [-1, 1]. The legend gives each part's share. Returns the Axes.
    Raises ValueError for fewer than two concepts.
    """
    shares = relation_shares(similarity, positive_threshold, negative_threshold)
    heights, edges = np.histogram(_off_diagonal(similarity), bins=np.linspace(-1.0, 1.0, 81))
    middle = (edges[1:] + edges[:-1]) / 2
    parts = {"positive": middle > positive_threshold, "negative": middle < negative_threshold}
    parts["ignored"] = ~(parts["positive"] | parts["negative"])
    ax = new_axes(ax, (6.4, 3.4))
    for name in ("negative", "ignored", "positive"):
        ax.bar(middle[parts[name]], heights[parts[name]], width=edges[1] - edges[0], color=RELATION[name],
               label=f"{name}: {100 * shares[name]:.1f} %")
    for threshold, sign, line in ((positive_threshold, "+", "--"), (negative_threshold, "-", ":")):
        ax.axvline(threshold, color="#222222", linestyle=line, linewidth=1.4, label=f"$\\phi^{sign}$ = {threshold:g}")
    ax.set(title=title, xlabel="cosine of two prototypes (no unit)", ylabel="pairs of concepts (count)", xlim=(-1, 1))
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


# --- heads ---

@in_style
def anchor_relations(image, relation, grid, anchor: int, *,
                     title="What one anchor compares itself with", ax=None):
    """An anchor patch on its picture, with the patches it attracts, ignores and pushes away.

    image: (3, h, w); relation: (n,) 1 positive, 0 ignored, -1 negative; grid: (rows, columns); anchor: a patch number.
    Positives carry a plus and negatives a minus, for eyes and printers without colour; the legend counts them without
    the anchor itself. Returns the Axes.
    """
    rows, columns = grid
    relation = as_array(relation).reshape(rows, columns)
    paint = {1: RELATION["positive"], 0: RELATION["ignored"], -1: RELATION["negative"]}
    colors = np.array([[to_rgb(paint[int(value)]) for value in row] for row in relation])
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
    names = {1: "positive (+)", 0: "ignored", -1: "negative (−)"}
    others = np.delete(relation.reshape(-1), anchor)
    patches = [Patch(color=paint[v], label=f"{name}: {int((others == v).sum())}") for v, name in names.items()]
    ax.legend(handles=[star, *patches], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def principal_colors(features) -> np.ndarray:
    """The first three principal components (m, 3) of features (m, d), as colours in [0, 1].

    Each component is stretched between its 2nd and its 98th percentile.
    """
    features = as_array(features).astype(np.float64)
    features = features - features.mean(0)
    _, _, directions = np.linalg.svd(features, full_matrices=False)
    parts = features @ directions[:3].T  # (m, 3)
    parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))
    low, high = np.percentile(parts, [2, 98], axis=0)
    return np.clip((parts - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)  # (m, 3)


@in_style
def feature_rows(images, rows: dict, grid, *, axes=None):
    """Pictures on top; below, a row of patch features a name, three principal components as red, green and blue.

    images: (g, 3, h, w); rows: a dict name -> features (g, n, d); grid: (rows, columns) of the n patches. The
    components are those of all g pictures together, so a colour means the same along a row (but not from row to row).
    Returns an array of Axes (1 + len(rows), g).
    """
    images = as_array(images)
    shape = (1 + len(rows), len(images))
    axes = _picture_grid(*shape) if axes is None else axes
    for column, image in enumerate(images):
        bare(axes[0, column]).imshow(as_picture(image))
    for row, features in enumerate(rows.values(), start=1):
        features = as_array(features)
        colors = principal_colors(features.reshape(-1, features.shape[-1])).reshape(len(images), *grid, 3)
        for column in range(len(images)):
            bare(axes[row, column]).imshow(colors[column])
    for ax, name in zip(axes[:, 0], ("image", *rows)):
        _row_name(ax, name)
    return axes


def _picture_grid(rows: int, columns: int, size: float = 1.7) -> np.ndarray:
    return panels(rows, columns, figsize=(size * columns + 0.4, size * rows))


def _row_name(ax, name: str) -> None:
    ax.set_ylabel(name, fontweight="bold")


# --- masks and numbers ---


def paint(mask, colors) -> np.ndarray:
    """A mask (h, w) of class ids as colours (h, w, 3) in [0, 1]; void (-1) becomes grey with diagonal stripes.

    colors: (c, 3) uint8. Raises ValueError for an id that has no colour.
    """
    mask, colors = as_array(mask), as_array(colors)
    if mask.max(initial=-1) >= len(colors):
        raise InputError(f"the mask holds class {int(mask.max())}, but `colors` is for {len(colors)} classes only")
    h, w = mask.shape
    period = max(4, h // 32)
    stripe = ((np.arange(h)[:, None] + np.arange(w)[None, :]) // period) % 2 == 1  # (h, w)
    void = np.where(stripe[..., None], VOID_STRIPE, VOID)
    return np.where((mask < 0)[..., None], void, colors[np.maximum(mask, 0)] / 255.0)  # (h, w, 3)


def class_legend(figure, classes, colors, *, void: bool = True, present=None):
    """A legend of the classes under a figure; `present` keeps those ids only. Returns the Legend."""
    colors = as_array(colors) / 255.0
    ids = range(len(classes)) if present is None else sorted(int(i) for i in present if i >= 0)
    handles = [Patch(facecolor=colors[i], edgecolor="#555555", linewidth=0.5, label=classes[i]) for i in ids]
    if void:
        handles.append(Patch(facecolor=VOID, edgecolor="white", hatch="////", label="void"))
    return figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=9)


@in_style
def gallery(columns: dict, classes, colors, *, legend: bool = True, axes=None):
    """One picture a row, and one way of seeing it a column, with one legend of classes.

    columns: a dict name -> g pictures (3, h, w) or g masks (h, w) of class ids, -1 void; classes: c names; colors:
    (c, 3) uint8. Returns an array of Axes (g, len(columns)). Raises ValueError if the columns are of different lengths.
    """
    lengths = {name: len(items) for name, items in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the gallery's columns hold different numbers of pictures: {lengths}")
    axes = _picture_grid(next(iter(lengths.values())), len(columns)) if axes is None else axes
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
    """A picture, its mask before the CRF and after it, and the pixels that changed. Returns an array of four Axes.

    image: (3, h, w); before, after: (h, w) class ids; classes, colors: as in `gallery`.
    """
    before, after = as_array(before), as_array(after)
    axes = plt.subplots(1, 4, figsize=(9.2, 2.9), layout="constrained")[1] if axes is None else axes
    changed = before != after
    dim = as_picture(image).mean(-1, keepdims=True).repeat(3, -1) * 0.5 + 0.5
    drawn = (as_picture(image), paint(before, colors), paint(after, colors),
             np.where(changed[..., None], to_rgb(PALETTE["vermillion"]), dim))
    titles = ("image", "before the CRF", "after the CRF", f"changed: {100 * changed.mean():.1f} % of pixels")
    for ax, picture, title in zip(axes, drawn, titles):
        bare(ax, title).imshow(picture)
    present = set(np.unique(before)) | set(np.unique(after))
    class_legend(axes[0].figure, classes, colors, void=-1 in present, present=present)
    return np.asarray(axes)


@in_style
def confusion_matrix(counts, classes, *, title="What the clusters were matched to", ax=None):
    """Pixels of each true class (rows) by predicted class (columns), each row in per cent of the true class.

    counts: (c, c) pixel counts after matching, rows the labels. Empty rows stay white. Returns the Axes.
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
        ax.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=8,
                color="black" if shares[i, j] > 55 else "white")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.75, label="share of the true class (%)")
    return ax


@in_style
def matching(counts, assignment, row_names, column_names, *, title="Clusters matched to classes", ax=None):
    """A small table of pixel counts, clusters by classes, with the chosen cell of every cluster framed.

    counts: (clusters, classes); assignment: the class of each cluster (-1 for none). Returns the Axes.
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
            for width, shade in ((5.0, "white"), (2.5, PALETTE["vermillion"])):  # a rim, so that it shows on any ground
                frame = {"fill": False, "linewidth": width, "edgecolor": shade}
                ax.add_patch(plt.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, **frame))
    ax.figure.colorbar(drawn, ax=ax, shrink=0.85, label="pixels (count)")
    return ax


@in_style
def class_iou(rows: dict, classes, *, title="IoU of each class", ax=None):
    """Horizontal bars: one group a class, one bar a method.

    rows: a dict method -> c IoUs as fractions, None or NaN where a class does not occur. Returns the Axes.
    """
    ax = new_axes(ax, (6.0, max(2.6, 0.17 * len(classes) * (len(rows) + 1) + 1.0)))
    thick = 0.8 / len(rows)
    for place, (name, values) in enumerate(rows.items()):
        values = 100 * np.array([np.nan if value is None else float(value) for value in values])
        heights = np.arange(len(classes)) - 0.4 + (place + 0.5) * thick
        mean = f"mean {np.nanmean(values):.1f} %" if np.isfinite(values).any() else "no class occurs"
        ax.barh(heights, np.nan_to_num(values), thick * 0.92, color=CYCLE[place % 8], label=f"{name}: {mean}")
    ax.set(title=title, xlabel="intersection over union (%)", yticks=range(len(classes)), xlim=(0, 100))
    ax.set_yticklabels(classes)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=9)
    return ax


@in_style
def results_points(groups: dict, *, xlabel="mean IoU (%)", title="Every run, its mean and its range", baseline=None,
                   ax=None):
    """One line a method: a point a seed, a bar from the lowest to the highest, a stroke at the mean; neither for one seed.

    groups: a dict name -> fractions, one a run. baseline: a fraction that gets a dotted line across. Returns the Axes.
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
    ax.margins(y=0.12)
    return _line_each(ax, groups, title, xlabel)


@in_style
def category_bars(rows: dict, classes, *, title="IoU by category", ax=None):
    """Upright bars: a group a category, one bar a method, the categories in the order of the last method's IoU.

    rows: a dict method -> c IoUs as fractions, None or NaN where a class does not occur. Returns the Axes.
    """
    ax = new_axes(ax, (max(5.5, 0.2 * len(classes) * (len(rows) + 1) + 1.0), 3.6))
    percent = {name: 100 * np.array([np.nan if value is None else float(value) for value in values])
               for name, values in rows.items()}
    places = np.argsort(-np.nan_to_num(list(percent.values())[-1], nan=-1.0), kind="stable")
    thick, highest = 0.8 / len(rows), max(np.nan_to_num(values).max() for values in percent.values())
    for which, (name, values) in enumerate(percent.items()):
        mean = f"mean {np.nanmean(values):.1f} %" if np.isfinite(values).any() else "no class occurs"
        ax.bar(np.arange(len(classes)) - 0.4 + (which + 0.5) * thick, np.nan_to_num(values[places]), thick * 0.92,
               color=CYCLE[which % 8], label=f"{name}: {mean}")
    ax.set(title=title, ylabel="intersection over union (%)", xticks=range(len(classes)),
           ylim=(0, min(100, 1.25 * highest or 100)))  # room for the legend
    ax.set_xticklabels([classes[place] for place in places], rotation=55, ha="right", rotation_mode="anchor")
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=9)
    return ax


@in_style
def change_points(items: dict, *, xlabel="change of mIoU (points)", title="", ax=None):
    """What each of several changes did: a line a change, a point a run, a stroke at the mean, nothing changed at zero.

    items: a dict change -> a dict of series (such as the read-out) -> changes, one a run. Series differ in colour and
    in the shape of their points. Returns the Axes.
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
    """Axes whose lines, from the top, are what `names` says; the legend beside them. Returns the Axes."""
    ax.set(title=title, xlabel=xlabel, yticks=range(len(names)))
    ax.set_yticklabels(list(names))
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return ax


# --- front-door ---

@in_style
def side_by_side(number: int = 2, *, height: float = 3.5, sharey: bool = False):
    """An array of `number` Axes in a row, for figures that are compared; `height` in inches."""
    return plt.subplots(1, number, figsize=(4.8 * number, height), sharey=sharey, layout="constrained")[1]


@in_style
def intervention_bars(answers: dict, treatments, *, ylabel="probability of the outcome (%)", title="", ax=None):
    """One group of bars an answer, one bar a treatment: how likely each answer holds the outcome to be.

    answers: a dict name -> (t,) probabilities in [0, 1]; treatments: t names. Returns the Axes.
    """
    ax = new_axes(ax, (6.8, 3.5))
    width = 0.8 / len(treatments)
    for t, name in enumerate(treatments):
        heights = 100 * np.array([as_array(values)[t] for values in answers.values()])
        bars = ax.bar(np.arange(len(answers)) - 0.4 + (t + 0.5) * width, heights, 0.94 * width, color=CYCLE[t % 8],
                      hatch=("", "///", "...", "xxx")[t % 4], edgecolor="white", label=name)
        ax.bar_label(bars, fmt="%.1f", fontsize=9, padding=2)
    ax.margins(y=0.1)
    ax.set(title=title, ylabel=ylabel, xticks=range(len(answers)))
    ax.set_xticklabels(list(answers))
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


@in_style
def compare_curves(x, rows: dict, *, xlabel, ylabel, title="", xscale="linear", yscale="linear", guide=(), ax=None):
    """A line a name over common places x, told apart by colour, marker and dashes together.

    x: (s,); rows: a dict name -> (s,), NaN where there is nothing to draw; guide: names drawn broad and pale below the
    others, to hold them against; xscale, yscale: as in matplotlib. Returns the Axes.
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
    ax.legend(fontsize=9)
    return ax


@in_style
def shared_legend(axes, *, ncols: int = 3):
    """One legend below the figure, of every name on its panels, in place of each panel's own."""
    named = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels())}
    axes[0].figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=ncols)
    for ax in axes:
        ax.get_legend().remove()


@in_style
def views_and_names(views, masks, classes, colors, titles, *, frames=(), axes=None):
    """Views of one scene on top, each in the colour of its photographer; below, the names that its photographer gives.

    views: v pictures; masks: v (h, w) class ids; classes, colors: v lists of names and v (c, 3) uint8, one for each
    mask; titles: v texts; frames: (top, left, side) of views 0, 1, ..., as fractions of the last view, drawn on it.
    Names stand on regions of a fortieth of the mask or more. Returns an array of Axes (2, v).
    """
    axes = panels(2, len(views), figsize=(3.0 * len(views), 6.3)) if axes is None else axes
    for place, (top, bottom) in enumerate(axes.T):
        mask = as_array(masks[place])
        bare(top, titles[place]).imshow(as_picture(views[place]), extent=(0, 1, 1, 0))
        top.title.set_color(CYCLE[place])
        _border(top, 0, 0, 1, CYCLE[place])
        bare(bottom).imshow(paint(mask, colors[place]), extent=(0, 1, 1, 0))
        for name in np.unique(mask):
            regions, number = ndimage.label(mask == name)
            sizes = np.bincount(regions.ravel(), minlength=number + 1)[1:]
            if sizes.max() < mask.size / 40:
                continue
            depth = ndimage.distance_transform_edt(np.pad(regions == sizes.argmax() + 1, 1))[1:-1, 1:-1]
            y, x = np.divmod(depth.argmax(), mask.shape[1]) / np.array(mask.shape)  # where most room is around it
            bottom.text(np.clip(x, 0.12, 0.88), y, classes[place][name], ha="center", va="center", fontsize=8,
                        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})
    for place, frame in enumerate(frames):
        _border(axes[0, -1], *frame, CYCLE[place])
    return axes


def _border(ax, top, left, side, color):
    """A square frame with a white rim, wholly visible at the edge of its Axes."""
    for width, shade in ((5.0, "white"), (2.6, color)):
        frame = {"fill": False, "linewidth": width, "edgecolor": shade, "clip_on": False}
        ax.add_patch(plt.Rectangle((left, top), side, side, **frame))


@in_style
def kinds_and_segments(shares: dict, rows: dict, kinds, colors, *, ylabel, titles=("", ""), axes=None):
    """Above, what each kind's total is made of, as stacked bars; below, which kinds go together, one row a grouping.

    shares: a dict name -> (t,) fractions that sum to 1 over the names; rows: a dict name -> (t,) integers, the segment
    of each kind, as the number of one of its members; kinds: t names; colors: (t, 3) uint8, a segment has the colour of
    that member; titles: of the two. Lines part neighbours of unlike segments. Returns an array of two Axes.
    """
    if axes is None:
        axes = plt.subplots(2, 1, figsize=(8.4, 4.2 + 0.3 * len(rows)), sharex=True, layout="constrained",
                            height_ratios=(2.0, 0.36 * len(rows)))[1]
    places, colors = np.arange(len(kinds)), as_array(colors) / 255.0
    below = np.zeros(len(kinds))
    for number, (name, values) in enumerate(shares.items()):
        values = 100 * as_array(values)
        axes[0].bar(places, values, 0.86, bottom=below, color=CYCLE[number % 8], edgecolor="white", linewidth=0.5,
                    hatch=("", "///", "...", "xxx")[number % 4], label=name)
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
    for spine in axes[1].spines.values():
        spine.set_visible(False)
    return np.asarray(axes)


# --- features ---

@in_style
def patches_and_token(image, token, patch_size: int, patch: int, *, axes=None):
    """A picture cut into patches, one patch on its own, and the token that stands for it.

    image: (3, h, w); token: (d,); patch_size: side of a patch in pixels; patch: its number, counted row by row.
    Returns an array of three Axes.
    """
    picture, token = as_picture(image), as_array(token)
    height, width = picture.shape[:2]
    row, column = divmod(patch, width // patch_size)
    axes = plt.subplots(1, 3, figsize=(9.4, 3.4), layout="constrained", width_ratios=(1, 0.55, 1.25))[1] \
        if axes is None else axes
    bare(axes[0], f"{height // patch_size} x {width // patch_size} patches").imshow(picture)
    for place in range(patch_size, height, patch_size):
        axes[0].axhline(place - 0.5, color="white", linewidth=0.4, alpha=0.7)
    for place in range(patch_size, width, patch_size):
        axes[0].axvline(place - 0.5, color="white", linewidth=0.4, alpha=0.7)
    _outline(axes[0], row, column, patch_size, PALETTE["vermillion"])
    bare(axes[1], f"patch {patch}").imshow(_crop(picture, row, column, patch_size))
    axes[2].plot(np.arange(1, len(token) + 1), token, color=PALETTE["vermillion"], linewidth=0.8)
    axes[2].set(title="its token", xlabel=f"entry (1 to {len(token)})", ylabel="value (no unit)")
    return np.asarray(axes)


@in_style
def similarity_maps(image, similarity, grid, anchors, *, axes=None):
    """How alike every patch of a picture is to each of a few anchors.

    image: (3, h, w); similarity: (a, n) cosines in [-1, 1]; grid: (rows, columns) of the n patches; anchors: (a,) patch
    numbers, starred on the picture and on their own map. Returns an array of 1 + a Axes.
    """
    return _anchor_maps(image, similarity, grid, anchors, "like anchor {}", "cosine (no unit)", axes,
                        cmap=SIGNED, vmin=-1, vmax=1)


@in_style
def attention_maps(image, attention, grid, anchors, *, axes=None):
    """Where each of a few anchors looks: its attention to every patch, as a multiple of what an even share would be.

    image: (3, h, w); attention: (a, n), at least 0; grid: (rows, columns) of the n patches; anchors: (a,) patch
    numbers, starred. Colours end at the 99th percentile of all. Returns an array of 1 + a Axes.
    """
    times = as_array(attention) * grid[0] * grid[1]
    return _anchor_maps(image, times, grid, anchors, "anchor {} looks", "attention (multiples\nof an even share)", axes,
                        cmap="viridis", vmin=0, vmax=float(np.percentile(times, 99)))


def _anchor_maps(image, values, grid, anchors, name, label, axes, **colors) -> np.ndarray:
    values, picture = as_array(values), as_picture(image)
    if axes is None:
        axes = plt.subplots(1, 1 + len(anchors), figsize=(2.0 * (1 + len(anchors)) + 0.6, 2.5), layout="constrained")[1]
    extent = (-0.5, grid[1] - 0.5, grid[0] - 0.5, -0.5)
    bare(axes[0], "image").imshow(picture, extent=extent)
    for number, (anchor, one, ax) in enumerate(zip(anchors, values, axes[1:]), start=1):
        row, column = divmod(int(anchor), grid[1])
        drawn = bare(ax, name.format(number)).imshow(one.reshape(grid), **colors)
        for where in (axes[0], ax):
            where.scatter(column, row, s=130, marker="*", color=PALETTE["yellow"], edgecolors="black", zorder=3)
        left = column > grid[1] * 0.8  # keep the number on the picture
        axes[0].annotate(str(number), (column, row), xytext=(-9 if left else 9, 0), textcoords="offset points",
                         ha="right" if left else "left", va="center", fontsize=9,
                         bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})
    axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.75, label=label)
    return np.asarray(axes)


@in_style
def nearest_patches(images, places, cosines, patch_size: int, *, context: int = 2, axes=None):
    """Anchors in the first column; beside each, the patches nearest to it, with their cosines.

    images: (g, 3, h, w); places: (a, m, 2) integers, (picture, patch number), the anchor itself first; cosines: (a, m);
    context: how many patches of surroundings are shown on each side of the framed patch. Returns (a, m) Axes.
    """
    images, places, cosines = as_array(images), as_array(places), as_array(cosines)
    axes = _picture_grid(*cosines.shape, size=1.35) if axes is None else axes
    columns = images.shape[-1] // patch_size
    for anchor in range(len(places)):
        for rank, (number, patch) in enumerate(places[anchor]):
            row, column = divmod(int(patch), columns)
            title = f"anchor {anchor + 1}" if rank == 0 else f"{cosines[anchor, rank]:.2f}"
            ax = bare(axes[anchor, rank])
            ax.set_title(title, fontsize=9)
            ax.imshow(_crop(as_picture(images[number]), row, column, patch_size, context))
            _outline(ax, context, context, patch_size, PALETTE["vermillion"])
    return axes


@in_style
def cosine_histogram(parts: dict, thresholds=(), *, title="", xlabel="cosine of two patches (no unit)", ax=None):
    """Densities of cosines, one outline a name, with thresholds as upright lines.

    parts: a dict name -> 1-d array of cosines in [-1, 1], `positive`, `ignored` and `negative` ones in their colours
    (the grey darker, since a line is thinner than an area); thresholds: pairs (text, value). Returns the Axes.
    """
    ax = new_axes(ax, (6.4, 3.6))
    colors = RELATION | {"ignored": "#888888"}
    bins = np.linspace(-1.0, 1.0, 101)
    for place, (name, values) in enumerate(parts.items()):
        values = as_array(values).reshape(-1)
        ax.hist(values, bins=bins, density=True, histtype="step", linewidth=1.8,
                color=colors.get(name, CYCLE[place % 8]), linestyle=("-", "--", "-.", ":")[place % 4],
                label=f"{name} (median {np.median(values):.2f})")
    for place, (name, value) in enumerate(thresholds):
        dots = (0, (1, 1 + 2 * place))
        ax.axvline(value, color="#555555", linewidth=1.2, linestyle=dots, label=f"{name} = {value:g}")
    ax.set(title=title, xlabel=xlabel, ylabel="density (area 1)", xlim=(-1, 1))
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


@in_style
def position_grids(positions: dict, *, axes=None):
    """Position embeddings seen along their first principal component, that of the first grid given.

    positions: a dict name -> (rows, columns, d). Colours mean the same value on every panel. Returns an array of Axes.
    """
    grids = [as_array(values).astype(np.float64) for values in positions.values()]
    axes = plt.subplots(1, len(grids), figsize=(3.4 * len(grids) + 0.6, 3.2), squeeze=False, layout="constrained",
                        width_ratios=[values.shape[1] for values in grids])[1][0] if axes is None else axes
    first = grids[0].reshape(-1, grids[0].shape[-1])
    direction = np.linalg.svd(first - first.mean(0), full_matrices=False)[2][0]
    seen = [(values - first.mean(0)) @ direction for values in grids]
    limit = np.abs(seen[0]).max() or 1.0
    for ax, name, values in zip(axes, positions, seen):
        drawn = ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit)
        ax.grid(False)
        ax.set(title=name, xlabel="patch column (number)", ylabel="patch row (number)")
    axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.8, label="first component (no unit)")
    return np.asarray(axes)


def _crop(picture: np.ndarray, row: int, column: int, patch_size: int, context: int = 0) -> np.ndarray:
    """One patch of (h, w, 3) with `context` patches around it; grey where the picture ends."""
    margin = context * patch_size
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=0.82)
    side = patch_size + 2 * margin
    return padded[row * patch_size:row * patch_size + side, column * patch_size:column * patch_size + side]


def _outline(ax, row: int, column: int, patch_size: int, color) -> None:
    corner = (column * patch_size - 0.5, row * patch_size - 0.5)
    for width, shade in ((3.2, "white"), (1.6, color)):  # a light rim, so that the frame shows on any ground
        ax.add_patch(plt.Rectangle(corner, patch_size, patch_size, fill=False, edgecolor=shade, linewidth=width))


# --- speed ---

@in_style
def winning_products(affinity, winner, *, axes=None):
    """The product C_ik C_jk of all pairs of patches, a panel a concept; then the largest product, and whose it is.

    affinity: C, (n, k), at least 0; winner: (n, n) the concept with the largest product at each pair, which stays white
    where that product is 0. Returns an array of k + 2 Axes.
    """
    affinity, winner = as_array(affinity), as_array(winner)
    products = affinity.T[:, :, None] * affinity.T[:, None]  # (k, n, n)
    largest, colors = products.max(0), concept_colors(len(products))
    axes = plt.subplots(1, len(products) + 2, figsize=(2.1 * len(products) + 4.6, 2.5), layout="constrained")[1] \
        if axes is None else axes
    for concept, (ax, values) in enumerate(zip(axes, [*products, largest])):
        name = "the largest" if concept == len(products) else f"concept {concept}"
        drawn = bare(ax, name).imshow(values, vmin=0.0, vmax=largest.max())
    axes[0].figure.colorbar(drawn, ax=list(axes[:-1]), shrink=0.8, label="$C_{ik}\\,C_{jk}$ (no unit)")
    bare(axes[-1], "whose it is").imshow(np.where(largest[..., None] > 0, colors[winner], 1.0))
    for i, j in np.argwhere(largest > 0) if len(winner) <= 14 else ():
        dark = colors[winner[i, j]] @ (0.3, 0.59, 0.11) < 0.5
        axes[-1].text(j, i, str(winner[i, j]), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    for ax in axes:
        ax.set_xlabel("patch $j$")
    axes[0].set_ylabel("patch $i$")
    return np.asarray(axes)


@in_style
def bank_tiles(anchors: int, bank: int, tile: int, *, axes=None):
    """A drawing, not to scale: all logits of anchors by bank at once, and a strip of them that moves along the bank.

    anchors, bank, tile: how many of each there are; they set the bytes in the titles, for float32. Returns two Axes.
    """
    axes = plt.subplots(1, 2, figsize=(9.2, 3.1), layout="constrained", width_ratios=(1.04, 1.32))[1] \
        if axes is None else axes
    stored = {"facecolor": PALETTE["orange"], "edgecolor": "#555555", "hatch": "//"}
    titles = (f"at once: {4e-6 * anchors * bank:,.0f} MB", f"tile by tile: {4e-6 * anchors * tile:,.1f} MB")
    for ax, title, right in zip(axes, titles, (1.02, 1.3)):
        bare(ax, title).set(xlim=(-0.02, right), ylim=(-0.02, 1.02), ylabel=f"{anchors:,} anchors")
        ax.set_xlabel(f"bank: {bank:,} projections", x=0.52 / (right + 0.02))
    axes[0].add_patch(plt.Rectangle((0, 0), 1, 1, label="logits that are stored", **stored))
    axes[1].add_patch(plt.Rectangle((0, 0), 0.52, 1, facecolor="#E8E8E8", label="seen and forgotten"))
    axes[1].add_patch(plt.Rectangle((0, 0), 1, 1, fill=False, edgecolor="#777777", linestyle=(0, (4, 3))))
    axes[1].add_patch(plt.Rectangle((0.52, 0), 0.08, 1, **stored))
    axes[1].annotate("", (0.86, 0.5), (0.64, 0.5), arrowprops={"arrowstyle": "-|>", "linewidth": 1.6})
    for place, name in enumerate(("maximum", "sum", "mean")):
        column = plt.Rectangle((1.06 + 0.08 * place, 0), 0.05, 1, facecolor=PALETTE["sky"], edgecolor="#555555",
                               label="" if place else "kept of each anchor")
        axes[1].add_patch(column)
        axes[1].text(1.085 + 0.08 * place, 0.5, name, rotation=90, ha="center", va="center", fontsize=9)
    handles = [handle for ax in axes for handle in ax.get_legend_handles_labels()[0]]
    axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return np.asarray(axes)


@in_style
def lattice_passes(points, values, corners, shares, splatted, blurred, sliced, *, axes=None):
    """A Gaussian sum over points of a plane, by way of a triangular lattice: splat, blur, slice.

    points: (n, 2); values, sliced: (n,), at least 0, what goes in and what comes out; corners: (m, 2) of the lattice;
    shares: (n, m) barycentric weights; splatted, blurred: (m,), what the corners hold. Areas and colours are amounts;
    points are squares and corners are discs; each panel has its own scale. Returns an array of three Axes.
    """
    points, corners, shares = as_array(points), as_array(corners), as_array(shares)
    axes = plt.subplots(1, 3, figsize=(10.4, 3.2), layout="constrained")[1] if axes is None else axes
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
    return np.asarray(axes)


def _amounts(ax, places, amounts, marker: str):
    """Markers at places (m, 2) whose area and colour are amounts (m,) in [0, 1]; nought is a small white one."""
    least = 14 if marker == "o" else 45
    return ax.scatter(*places.T, s=least + 200 * amounts, c=np.where(amounts > 0, amounts, np.nan), vmin=0.0, vmax=1.0,
                      plotnonfinite=True, cmap=plt.get_cmap(AMOUNT).with_extremes(bad="white"), marker=marker,
                      edgecolors="#555555", linewidths=0.8, zorder=3)


@in_style
def stacked_bars(rows: dict, *, xlabel, title="", ax=None):
    """One bar a row, from top to bottom, put together of parts; its whole length stands at its end.

    rows: a dict name -> (a dict part -> number, at least 0). Returns the Axes.
    """
    ax = new_axes(ax, (7.2, 0.5 * len(rows) + 1.5))
    starts = np.zeros(len(rows))
    for place, part in enumerate(dict.fromkeys(part for parts in rows.values() for part in parts)):
        widths = np.array([parts.get(part, 0.0) for parts in rows.values()])
        ax.barh(range(len(rows)), widths, 0.6, left=starts, color=CYCLE[place % 8], edgecolor="white",
                hatch=("", "///", "...", "xxx")[place % 4], label=part)
        starts = starts + widths
    for y, length in enumerate(starts):
        ax.text(length, y, f" {length:.3g}", va="center")
    ax.margins(x=0.1)
    ax.set(title=title, xlabel=xlabel, yticks=range(len(rows)))
    ax.set_yticklabels(list(rows))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


# --- granularity ---


@in_style
def relation_columns(tables: dict, names, *, title="Pairs of two different parts of one object", axes=None):
    """A column of bars a table, a bar an object: which share of its pairs is positive, ignored, negative.

    tables: a dict name -> counts (o, 3) in that order; names: o objects; an object without a pair has no bar. The
    numbers are percentages of pairs. Returns an array of Axes, one a table.
    """
    names = list(names)
    if axes is None:
        axes = panels(1, len(tables), figsize=(3.3 * len(tables) + 1.0, 0.34 * len(names) + 1.5), sharey=True)[0]
    for ax, (name, counts) in zip(axes, tables.items()):
        counts = as_array(counts).astype(float)
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (o, 3)
        starts = shares.cumsum(1) - shares
        for kind, (relation, color) in enumerate(RELATION.items()):
            ax.barh(range(len(names)), shares[:, kind], 0.74, left=starts[:, kind], color=color, edgecolor="white",
                    label=relation)
            for y in np.flatnonzero(shares[:, kind] >= 9):
                ax.text(starts[y, kind] + shares[y, kind] / 2, y, f"{shares[y, kind]:.0f}", ha="center", va="center",
                        fontsize=8, color="white" if relation == "positive" else "black")
        ax.set(title=name, xlabel="pairs of patches (%)", xlim=(0, 100), xticks=range(0, 100, 25),
               yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        ax.set_yticklabels(names)
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    axes[0].figure.suptitle(title, fontweight="bold")
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return np.asarray(axes)


@in_style
def merging_rows(rows: int, stages, *, height: float = 1.75) -> np.ndarray:
    """Axes (rows, len(stages) + 2) of a new figure with a `merging_row` an object; stages: values of phi+."""
    axes = panels(rows, len(stages) + 2, figsize=(1.25 * len(stages) + 4.6, height * rows + 0.4),
                  width_ratios=[1.0] * (len(stages) + 1) + [2.3])
    axes[0, 0].figure.suptitle(r"Parts become one segment as $\phi^+$ falls", fontweight="bold")
    return axes


@in_style
def merging_row(image, label, parts: dict, tree, stages: dict, *, alone=None, rival="", title="", axes=None):
    """One object as phi+ falls: its picture, its parts recoloured by segment, and the tree of their merging.

    image: (3, h, w); label: (h, w) ids of parts; parts: a dict id -> name of the object's own p parts; tree: linkage
    (p - 1, 4) with heights 1 - phi+; stages: a dict phi+ -> (p,) numbers of segments; alone, rival: below which phi+
    the object is tied to another, and to which. A segment has the colour of its first part. Returns an array of Axes,
    len(stages) + 2 of them.
    """
    label, names = as_array(label), list(parts.values())
    if axes is None:
        axes = merging_rows(1, stages)[0]
    picture = as_picture(image)
    bare(axes[0]).imshow(picture)
    _row_name(axes[0], title)
    place = np.full(max(label.max(), *parts) + 1, -1)
    place[list(parts)] = range(len(parts))
    own = place[label]  # (h, w), -1 for everything else
    light = picture.mean(-1, keepdims=True)
    for ax, (threshold, numbers) in zip(axes[1:], stages.items()):
        leaders = _leaders(numbers)
        segment = np.where(own >= 0, leaders[own], -1)
        colors = np.array([to_rgb(color) for color in CYCLE])[segment]
        painted = np.where((own >= 0)[..., None], (0.6 + 0.4 * light) * (0.85 * colors + 0.15), 0.78 + 0.2 * light)
        border = np.zeros(own.shape, bool)
        border[:, 1:] |= segment[:, 1:] != segment[:, :-1]
        border[1:] |= segment[1:] != segment[:-1]
        painted[border] = 1.0
        many = len(set(numbers))
        bare(ax).imshow(painted)
        ax.set_xlabel(f"$\\phi^+$ = {threshold:g}\n" + ("one segment" if many == 1 else f"{many} segments"), fontsize=8)
    _merging_tree(axes[-1], names, as_array(tree), list(stages), alone, rival)
    return np.asarray(axes)


def _leaders(numbers) -> np.ndarray:
    """For each part the first part of its segment: (p,) numbers of segments -> (p,)."""
    numbers = as_array(numbers)
    return np.array([np.flatnonzero(numbers == number)[0] for number in numbers])


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
        ax.set_title(f"hatched: tied to {rival} too", loc="right", fontsize=9, fontweight="normal")
    ax.set(xlabel=r"$\phi^+$ (cosine, no unit)", xlim=(1.1, end), ylim=(len(names) - 0.4, -0.6),
           yticks=range(len(names)), xticks=[1.0, *thresholds])
    ax.set_yticklabels([names[part] for part in order])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


@in_style
def windows(columns: dict, names, *, title="", axes=None):
    """For which phi+ an object is whole and alone: a column a dict entry, a line an object.

    columns: a dict name -> for each object None or a dict with `whole` and `alone`, see granularity.windows; names:
    the objects. A blue bar where there is such a window, a thin dashed line where the object is tied to another one
    before it is whole. Returns an array of Axes.
    """
    names = list(names)
    if axes is None:
        axes = panels(1, len(columns), figsize=(3.9 * len(columns) + 1.2, 0.32 * len(names) + 1.6), sharey=True)[0]
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
        ax.set(title=name, xlabel=r"$\phi^+$ (cosine, no unit)", xlim=(1.05, low - 0.05), yticks=range(len(names)))
        ax.set_yticklabels(names)
    axes[0].invert_yaxis()
    if title:
        axes[0].figure.suptitle(title, fontweight="bold")
    handles = [plt.Line2D([], [], linestyle="none", marker="o", color=PALETTE["blue"], label="below: in one piece"),
               plt.Line2D([], [], linestyle="none", marker="D", color=PALETTE["orange"],
                          label="below: tied to another"),
               plt.Line2D([], [], linewidth=6, color=PALETTE["blue"], label="in one piece and by itself")]
    axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return np.asarray(axes)


@in_style
def across_levels(rows: dict, levels, *, ideals: dict | None = None, spans: dict | None = None,
                  rings: dict | None = None, ylabel, title="", ax=None):
    """Numbers at every level, a line a method; `ideals` are drawn faint and dashed, for comparison.

    rows, ideals: a dict name -> one fraction a level; levels: their names. spans: name -> (lowest, highest) a level,
    drawn as bars. rings: name -> the level that has a ring, or None; unless given, the largest has. Returns the Axes.
    """
    ax = new_axes(ax, (5.6, 3.8))
    for marker, (name, values) in zip("^sv", (ideals or {}).items()):
        ax.plot(range(len(levels)), 100 * np.asarray(values, float), color="#999999", linestyle=(0, (4, 2)),
                linewidth=1.1, marker=marker, markersize=5, label=name)
    for place, (name, values) in enumerate(rows.items()):
        values, color = 100 * np.asarray(values, float), CYCLE[place % 8]
        x = np.arange(len(levels)) + (0.08 * (place - (len(rows) - 1) / 2) if spans else 0.0)  # bars side by side
        ax.plot(x, values, color=color, marker="osD^vPX*"[place % 8], markersize=6, label=name, zorder=3)
        if spans:
            ax.vlines(x, *(100 * np.asarray(spans[name], float).T), color=color, linewidth=1.6, zorder=2)
        if (level := levels[values.argmax()] if rings is None else rings[name]) is not None:
            ringed = list(levels).index(level)
            ax.scatter(x[ringed], values[ringed], s=190, facecolor="none", edgecolor=color, linewidths=1.6, zorder=4)
    ax.set(title=title, ylabel=ylabel, xticks=range(len(levels)), xlim=(-0.3, len(levels) - 0.7))
    ax.set_xticklabels(levels)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    return ax
