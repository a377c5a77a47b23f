"""Every chart of the book, as a function that takes plain arrays and returns its Axes; diagrams are in diagrams.py.

A white ground; the palette of Okabe and Ito (2008, "Color universal design") for categories, cividis for amounts and a
blue-to-orange diverging map for signed values: all three can be told apart with colour blindness and in grey. Pictures
have no ticks; charts have a title, axis labels with their units, and a legend.

A function draws into the `ax` it is given, or makes a figure of its own, and returns it (an array of Axes where it has
several); it never calls `plt.show()`. Arrays may be numpy arrays or torch tensors on any device. Axis letters are those
of the whole library: `n` patches, `k` concepts, `c` classes, `h` `w` height and width in pixels, `g` pictures.
"""

from __future__ import annotations

import importlib
from typing import Any

_THEMES = {
    "style": "AMOUNT CYCLE PALETTE RELATION SIGNED STYLE VOID VOID_STRIPE as_array as_picture bare panels "
             "shared_legend side_by_side",
    "features": "attention_maps cosine_histogram feature_rows nearest_patches patches_and_token position_grids "
                "principal_colors similarity_maps",
    "concepts": "anchor_relations concept_colors concept_map graph modularity_matrices similarity_histogram "
                "usage_by_rank",
    "curves": "compare_curves training_history", "data": "dataset_report",
    "masks": "class_legend confusion_matrix crf_comparison gallery matching paint",
    "results": "category_bars change_points class_iou results_points",
    "frontdoor": "intervention_bars kinds_and_segments views_and_names",
    "granularity": "across_levels merging_row merging_rows relation_columns windows",
    "performance": "bank_tiles lattice_passes stacked_bars winning_products",
}
_THEME_OF = {name: theme for theme, names in _THEMES.items() for name in names.split()}
__all__ = list(_THEME_OF)


def __getattr__(name: str) -> Any:
    if name not in _THEME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_THEME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
