"""The figures' common look: colours, settings, panels, and what arrays they take."""

from __future__ import annotations

import functools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

# Okabe and Ito's eight colours by name; the order of CYCLE puts the two easiest to tell apart first.
PALETTE = {"blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "vermillion": "#D55E00",
           "purple": "#CC79A7", "sky": "#56B4E9", "yellow": "#F0E442", "black": "#000000"}
CYCLE = [PALETTE[name] for name in ("blue", "orange", "green", "vermillion", "purple", "sky", "black", "yellow")]
AMOUNT = "cividis"
SIGNED = LinearSegmentedColormap.from_list("cause_signed", [PALETTE["blue"], "#FFFFFF", PALETTE["vermillion"]])
VOID, VOID_STRIPE = (0.62, 0.62, 0.62), (0.86, 0.86, 0.86)
MARKERS, HATCHES = "osD^vPX*", ("", "///", "...", "xxx")
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend right of its Axes
LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
WIDE, SMALL = 8.6, 9  # inches, points: in a column of 688 pixels the smallest text of the widest figure has 9.8
RELATION = {"positive": PALETTE["blue"], "ignored": "#BBBBBB", "negative": PALETTE["orange"]}

STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110,
    "text.color": "#222222", "axes.labelcolor": "#222222", "axes.edgecolor": "#555555",
    "xtick.color": "#444444", "ytick.color": "#444444", "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": SMALL, "lines.linewidth": 1.8,
    "axes.prop_cycle": plt.cycler(color=CYCLE), "image.cmap": AMOUNT,
    "image.interpolation": "antialiased",  # patches and cells, drawn three times as large or more, keep their edges
}


def in_style(function):
    """Draw `function`'s figure in STYLE and restore the reader's matplotlib settings afterwards."""

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
    return panels(1, 1, figsize=figsize)[0, 0] if ax is None else ax


@in_style
def panels(rows: int, columns: int, *, figsize, **options) -> np.ndarray:
    """An array (rows, columns) of the Axes of a new figure, in STYLE, for functions that draw into an `ax`.

    figsize: in inches; what is wider than WIDE shrinks to it, and its text does not
    """
    figsize = np.multiply(figsize, min(1.0, WIDE / figsize[0]))
    return plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained", **options)[1]


def row_of_axes(axes, number: int, figsize, **options) -> np.ndarray:
    """`axes` as an array, or a row of `number` Axes of a new figure."""
    return np.asarray(panels(1, number, figsize=figsize, **options)[0] if axes is None else axes)


def side_by_side(number: int = 2, *, height: float = 3.5, sharey: bool = False):
    """An array of `number` Axes in a row, for figures that are compared; `height` in inches."""
    return panels(1, number, figsize=(4.8 * number, height), sharey=sharey)[0]


def picture_grid(rows: int, columns: int, size: float = 1.7) -> np.ndarray:
    """Axes (rows, columns) for pictures, `size` inches each."""
    return panels(rows, columns, figsize=(size * columns + 0.4, size * rows))


@in_style
def bare(ax, title: str = ""):
    """An Axes for a picture: no ticks, no frame, no grid."""
    ax.set(xticks=[], yticks=[], title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def frame(ax, corner, side: float, color, width: float, rim: float = 5.0, **options) -> None:
    """A square frame with a white rim, visible on any ground; corner: (x, y) of its least values."""
    for linewidth, shade in ((rim, "white"), (width, color)):
        ax.add_patch(plt.Rectangle(corner, side, side, fill=False, linewidth=linewidth, edgecolor=shade, **options))


@in_style
def shared_legend(axes, *, ncols: int = 3):
    """One legend below the figure, of every name on its panels, in place of each panel's own."""
    named = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels())}
    axes[0].figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=ncols)
    for ax in axes:
        ax.get_legend().remove()
