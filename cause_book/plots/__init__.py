"""Every chart of the book, as a function that takes plain arrays and returns its Axes; diagrams are in diagrams.py.

A white ground; the palette of Okabe and Ito (2008, "Color universal design") for categories, cividis for amounts and a
blue-to-orange diverging map for signed values: all three can be told apart with colour blindness and in grey. Pictures
have no ticks; charts have a title, axis labels with their units, and a legend.

A function draws into the `ax` it is given, or makes a figure of its own, and returns it (an array of Axes where it has
several); it never calls `plt.show()`. Arrays may be numpy arrays or torch tensors on any device. Axis letters are those
of the whole library: `n` patches, `k` concepts, `c` classes, `h` `w` height and width in pixels, `g` pictures.
"""

from cause_book.plots.concepts import (
    anchor_relations, concept_colors, concept_map, graph, modularity_matrices, similarity_histogram, usage_by_rank,
)
from cause_book.plots.curves import compare_curves, training_history
from cause_book.plots.features import (
    attention_maps, cosine_histogram, feature_rows, nearest_patches, patches_and_token, position_grids,
    principal_colors, similarity_maps,
)
from cause_book.plots.frontdoor import intervention_bars, kinds_and_segments, views_and_names
from cause_book.plots.granularity import across_levels, merging_row, merging_rows, relation_columns, windows
from cause_book.plots.masks import class_legend, confusion_matrix, crf_comparison, gallery, matching, paint
from cause_book.plots.performance import bank_tiles, lattice_passes, stacked_bars, winning_products
from cause_book.plots.results import category_bars, change_points, class_iou, results_points
from cause_book.plots.style import (
    AMOUNT, CYCLE, PALETTE, RELATION, SIGNED, STYLE, VOID, VOID_STRIPE, as_array, as_picture, bare, panels,
    shared_legend, side_by_side,
)

__all__ = [
    # style
    "AMOUNT", "CYCLE", "PALETTE", "RELATION", "SIGNED", "STYLE", "VOID", "VOID_STRIPE", "as_array", "as_picture",
    "bare", "panels", "shared_legend", "side_by_side",
    # features
    "attention_maps", "cosine_histogram", "feature_rows", "nearest_patches", "patches_and_token", "position_grids",
    "principal_colors", "similarity_maps",
    # concepts
    "anchor_relations", "concept_colors", "concept_map", "graph", "modularity_matrices", "similarity_histogram",
    "usage_by_rank",
    # curves
    "compare_curves", "training_history",
    # masks
    "class_legend", "confusion_matrix", "crf_comparison", "gallery", "matching", "paint",
    # results
    "category_bars", "change_points", "class_iou", "results_points",
    # frontdoor
    "intervention_bars", "kinds_and_segments", "views_and_names",
    # granularity
    "across_levels", "merging_row", "merging_rows", "relation_columns", "windows",
    # performance
    "bank_tiles", "lattice_passes", "stacked_bars", "winning_products",
]
