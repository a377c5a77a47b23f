"""Chapters 4 and 7, the bundled backbone: patches, tokens, cosines between them, and features as colours."""

from __future__ import annotations

import numpy as np

from cause_book.plots.style import (BESIDE, CYCLE, LABEL, PALETTE, RELATION, SIGNED, SMALL, as_array, as_picture, bare,
                                    frame, in_style, new_axes, picture_grid, row_of_axes)


@in_style
def patches_and_token(image, token, patch_size: int, patch: int, *, axes=None):
    """A picture cut into patches, one patch on its own, and its token. Returns an array of three Axes.

    image: (3, h, w)
    token: (d,)
    patch_size: side of a patch in pixels
    patch: its number, counted row by row
    """
    picture, token = as_picture(image), as_array(token)
    height, width = picture.shape[:2]
    row, column = divmod(patch, width // patch_size)
    axes = row_of_axes(axes, 3, (9.4, 3.4), width_ratios=(1, 0.55, 1.25))
    bare(axes[0], f"{height // patch_size} x {width // patch_size} patches").imshow(picture)
    for length, draw in ((height, axes[0].axhline), (width, axes[0].axvline)):
        for place in range(patch_size, length, patch_size):
            draw(place - 0.5, color="white", linewidth=0.4, alpha=0.7)
    frame(axes[0], (column * patch_size - 0.5, row * patch_size - 0.5), patch_size, PALETTE["vermillion"], 1.6, 3.2)
    bare(axes[1], f"patch {patch}").imshow(_crop(picture, row, column, patch_size))
    axes[2].plot(np.arange(1, len(token) + 1), token, color=PALETTE["vermillion"], linewidth=0.8)
    axes[2].set(title="its token", xlabel=f"entry (1 to {len(token)})", ylabel="value (no unit)")
    return axes


@in_style
def similarity_maps(image, similarity, grid, anchors, *, axes=None):
    """Cosines of every patch of a picture with each of a few anchors. Returns an array of 1 + a Axes.

    image: (3, h, w)
    similarity: (a, n) cosines in [-1, 1]
    grid: (rows, columns) of the n patches
    anchors: (a,) patch numbers, starred on the picture and on their own map
    """
    return _anchor_maps(image, similarity, grid, anchors, "anchor {}", "cosine (no unit)", axes,
                        cmap=SIGNED, vmin=-1, vmax=1)


@in_style
def attention_maps(image, attention, grid, anchors, *, axes=None):
    """Attention of a few anchors to every patch, in multiples of a uniform share. Returns an array of 1 + a Axes.

    Colours end at the 99th percentile of all.

    image: (3, h, w)
    attention: (a, n), at least 0
    grid: (rows, columns) of the n patches
    anchors: (a,) patch numbers, starred
    """
    times = as_array(attention) * grid[0] * grid[1]
    return _anchor_maps(image, times, grid, anchors, "anchor {}", "attention (multiples\nof an even share)", axes,
                        cmap="viridis", vmin=0, vmax=float(np.percentile(times, 99)))


def _anchor_maps(image, values, grid, anchors, name, label, axes, **colors) -> np.ndarray:
    values, picture = as_array(values), as_picture(image)
    axes = row_of_axes(axes, 1 + len(anchors), (2.0 * (1 + len(anchors)) + 0.6, 2.5))
    extent = (-0.5, grid[1] - 0.5, grid[0] - 0.5, -0.5)
    bare(axes[0], "image").imshow(picture, extent=extent)
    for number, (anchor, one, ax) in enumerate(zip(anchors, values, axes[1:]), start=1):
        row, column = divmod(int(anchor), grid[1])
        drawn = bare(ax, name.format(number)).imshow(one.reshape(grid), **colors)
        for where in (axes[0], ax):
            where.scatter(column, row, s=130, marker="*", color=PALETTE["yellow"], edgecolors="black", zorder=3)
        left = column > grid[1] * 0.8  # keep the number on the picture
        axes[0].annotate(str(number), (column, row), xytext=(-9 if left else 9, 0), textcoords="offset points",
                         ha="right" if left else "left", va="center", fontsize=SMALL, bbox=LABEL)
    axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.75, label=label)
    return axes


@in_style
def nearest_patches(images, places, cosines, patch_size: int, *, context: int = 2, axes=None):
    """Anchors in the first column; beside each, the patches nearest to it, with their cosines. Returns (a, m) Axes.

    images: (g, 3, h, w)
    places: (a, m, 2) integers, (picture, patch number), the anchor itself first
    cosines: (a, m)
    context: how many patches of surroundings are shown on each side of the framed patch
    """
    images, places, cosines = as_array(images), as_array(places), as_array(cosines)
    axes = picture_grid(*cosines.shape, size=1.35) if axes is None else axes
    columns = images.shape[-1] // patch_size
    for anchor in range(len(places)):
        for rank, (number, patch) in enumerate(places[anchor]):
            row, column = divmod(int(patch), columns)
            title = f"anchor {anchor + 1}" if rank == 0 else f"{cosines[anchor, rank]:.2f}"
            ax = bare(axes[anchor, rank], title)
            ax.imshow(_crop(as_picture(images[number]), row, column, patch_size, context))
            frame(ax, (context * patch_size - 0.5,) * 2, patch_size, PALETTE["vermillion"], 1.6, 3.2)
    return axes


def _crop(picture: np.ndarray, row: int, column: int, patch_size: int, context: int = 0) -> np.ndarray:
    """One patch of (h, w, 3) with `context` patches around it; grey where the picture ends."""
    margin = context * patch_size
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=0.82)
    side = patch_size + 2 * margin
    return padded[row * patch_size:row * patch_size + side, column * patch_size:column * patch_size + side]


@in_style
def cosine_histogram(parts: dict, thresholds=(), *, title="", xlabel="cosine of two patches (no unit)", ax=None):
    """Densities of cosines, one outline a name, with thresholds as upright lines.

    parts: a dict name -> 1-d array of cosines; `positive`, `ignored` and `negative` have their own colours
    thresholds: pairs (text, value)
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
    ax.set(title=title, xlabel=xlabel, ylabel="density (area 1)", xlim=(-1, 1), xticks=np.linspace(-1, 1, 5))
    ax.legend(**BESIDE)
    return ax


@in_style
def position_grids(positions: dict, *, axes=None):
    """Position embeddings along the first principal component of the first grid, on one scale of colours.

    positions: a dict name -> (rows, columns, d)
    """
    grids = [as_array(values).astype(np.float64) for values in positions.values()]
    axes = row_of_axes(axes, len(grids), (3.4 * len(grids) + 0.6, 3.2),
                       width_ratios=[values.shape[1] for values in grids])
    first = grids[0].reshape(-1, grids[0].shape[-1])
    direction = np.linalg.svd(first - first.mean(0), full_matrices=False)[2][0]
    seen = [(values - first.mean(0)) @ direction for values in grids]
    limit = np.abs(seen[0]).max() or 1.0
    for ax, name, values in zip(axes, positions, seen):
        drawn = ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit)
        ax.grid(False)
        ax.set(title=name, xlabel="patch column (number)", ylabel="patch row (number)")
    axes[0].figure.colorbar(drawn, ax=list(axes), shrink=0.8, label="first component (no unit)")
    return axes


def principal_colors(features) -> np.ndarray:
    """The first three principal components of features (m, d) as colours (m, 3), cut at percentiles 2 and 98."""
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

    The components are those of all pictures together: a colour means the same along a row, but not from row to row.

    images: (g, 3, h, w)
    rows: a dict name -> features (g, n, d)
    grid: (rows, columns) of the n patches
    """
    images = as_array(images)
    shape = (1 + len(rows), len(images))
    axes = picture_grid(*shape) if axes is None else axes
    for column, image in enumerate(images):
        bare(axes[0, column]).imshow(as_picture(image))
    for row, features in enumerate(rows.values(), start=1):
        features = as_array(features)
        colors = principal_colors(features.reshape(-1, features.shape[-1])).reshape(len(images), *grid, 3)
        for column in range(len(images)):
            bare(axes[row, column]).imshow(colors[column])
    for ax, name in zip(axes[:, 0], ("image", *rows)):
        ax.set_ylabel(name, fontweight="bold")
    return axes
