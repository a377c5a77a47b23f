"""Figures: every function draws from plain arrays and tensors, says what it must, and refuses what it cannot draw."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from cause_book import plots  # noqa: E402

CLASSES = ["sky", "road", "tree"]
COLORS = np.array([[10, 20, 30], [100, 110, 120], [200, 210, 220]], dtype=np.uint8)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


COLUMN, LEAST = 688, 9.0  # width of a figure on a page that is 1280 pixels wide, and its smallest text there, in pixels


def smallest_text(figure) -> float:
    """Pixels of a figure's smallest text in the book, where a figure wider than the column shrinks; exponents not counted."""
    figure.canvas.draw()
    wide = figure.dpi * (figure.get_tightbbox().width + 2 * plt.rcParams["savefig.pad_inches"])  # as notebooks cut it out
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return min(sizes, default=99.0) * figure.dpi / 72 * min(1.0, COLUMN / wide)


def drawn(axes):
    """Renders the whole figure; what cannot be laid out, or read on a page, fails here."""
    figure = np.asarray(axes).ravel()[0].figure
    assert smallest_text(figure) >= LEAST
    return figure


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def unit_vectors(*shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --- style ---

def test_the_readers_settings_stay_as_they_were():
    before = {key: plt.rcParams[key] for key in plots.STYLE}
    drawn(plots.usage_by_rank([3, 2, 1]))
    assert {key: plt.rcParams[key] for key in plots.STYLE} == before


def test_a_wide_figure_keeps_the_size_of_its_text():
    many, masks = [f"class {i}" for i in range(27)], np.zeros((7, 4, 4), int)
    rows = {name: [0.5] * 27 for name in ("k-means", "MLP", "TR")}
    images, unit = torch.rand(7, 3, 16, 16), torch.rand(6, 16)
    for wide in (plots.panels(1, 6, figsize=(30, 3)), plots.category_bars(rows, many), plots.class_iou(rows, many),
                 plots.confusion_matrix(np.eye(27), many), plots.similarity_maps(images[0], unit, (4, 4), range(6)),
                 plots.gallery({name: list(masks) for name in "abcdefg"}, CLASSES, COLORS),
                 plots.nearest_patches(images, torch.zeros(6, 7, 2, dtype=int), unit[:, :7], 4),
                 plots.relation_columns(dict.fromkeys("abcd", np.ones((3, 3))), CLASSES)):
        assert drawn(wide).get_figwidth() <= plots.style.WIDE


def test_chapters_and_pages_leave_sizes_of_text_to_the_plots():
    root = Path(__file__).resolve().parents[2]
    sources = {path.name: path.read_text(encoding="utf8") for kind in ("notebooks/*.ipynb", "book/*.md")
               for path in root.glob(kind)}
    assert len(sources) > 20
    assert not [name for name, text in sources.items() if re.search(r"font_?size\s*=|plt\.(?:subplots|figure)\(", text)]


def test_an_axes_that_is_given_is_drawn_into_and_returned():
    ax = plots.panels(1, 2, figsize=(6, 3))[0, 1]
    assert plots.usage_by_rank([3, 2, 1], ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_tensors_lists_and_arrays_look_the_same():
    image = torch.rand(3, 4, 5)
    assert np.allclose(plots.as_picture(image), plots.as_picture(image.numpy()))
    assert np.allclose(plots.as_picture((image * 255).byte()), image.permute(1, 2, 0), atol=1 / 255)
    assert plots.as_picture(image.permute(1, 2, 0)).shape == (4, 5, 3)
    assert plots.as_array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


# --- concepts ---

def test_a_concept_keeps_its_colour():
    few, many = plots.concept_colors(5), plots.concept_colors(3000)
    assert np.array_equal(many[:5], few) and many.shape == (3000, 3)
    assert many.min() >= 0 and many.max() <= 1
    assert len(np.unique(many[:24].round(3), axis=0)) == 24


def test_concept_map_has_the_order_s_colours_and_the_largest_numbers():
    concepts = torch.tensor([[7, 7, 7], [7, 7, 7], [7, 2, 2], [9, 2, 2]])
    ax = plots.concept_map(concepts, (4, 3), order=[9, 7, 2], numbered=2)
    painted, colors = ax.images[0].get_array(), plots.concept_colors(3)
    assert np.allclose(painted[3, 0], colors[0]) and np.allclose(painted[0, 0], colors[1])
    assert {text.get_text() for text in ax.texts} == {"7", "2"}
    drawn(plots.concept_map(concepts.flatten(), (4, 3), image=torch.rand(3, 40, 30)))


def test_concept_map_refuses_a_grid_and_an_order_that_do_not_fit():
    with pytest.raises(ValueError, match="2 x 2 patches cannot hold 3 concepts"):
        plots.concept_map([0, 1, 2], (2, 2))
    with pytest.raises(ValueError, match="concept 5 is on the map"):
        plots.concept_map([0, 5], (1, 2), order=[0, 1])


def test_usage_counts_concepts_without_a_patch():
    ax = plots.usage_by_rank(torch.tensor([0, 5, 0, 1, 9]))
    assert ax.lines[0].get_ydata().tolist() == [9, 5, 1]
    assert legend(ax) == ["3 concepts in use", "2 of 5 without a patch"]
    drawn(ax)


def test_graph_draws_every_edge_once():
    adjacency = np.array([[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]])
    ax = plots.graph(adjacency, [[0, 0], [1, 0], [0, 1]], [0, 0, 4])
    assert len(ax.lines) == 2 and legend(ax) == ["community 0", "community 4"]
    drawn(ax)
    drawn(plots.graph(np.zeros((2, 2)), [[0, 0], [1, 0]]))


def test_modularity_matrices_are_centred_on_nought():
    axes = plots.modularity_matrices(torch.tensor([[-2.0, 1.0], [1.0, 0.0]]), torch.eye(2), node="person")
    assert axes[0].images[0].get_clim() == (-2, 2) and axes[1].images[0].get_clim() == (0, 1)
    assert axes[1].get_xlabel() == "person $j$ (number)"
    drawn(axes)


def test_history_smooths_only_what_is_long():
    short = plots.training_history([1, 2, 3], [3.0, 2.0, 1.0])
    assert len(short.lines) == 1 and short.get_legend() is None
    steps = np.arange(1, 101)
    long = plots.training_history(steps, {"loss": steps * 2.0}, ylabel="loss (nats)")
    faint, smooth = long.lines
    assert faint.get_alpha() < 1 and legend(long) == ["loss (mean of 5 updates)"]
    assert smooth.get_xdata()[0] == 5 and smooth.get_ydata()[0] == np.mean(steps[:5] * 2)
    drawn(long)


def test_similarity_histogram_shows_shares_and_thresholds():
    vectors = unit_vectors(30, 4)
    pairs = [float(vectors[i] @ vectors[j]) for i in range(30) for j in range(30) if i != j]
    ax = plots.similarity_histogram(torch.from_numpy(vectors @ vectors.T), 0.5, -0.2)
    positive, negative = np.mean([value > 0.5 for value in pairs]), np.mean([value < -0.2 for value in pairs])
    assert {f"positive: {100 * positive:.1f} %", f"negative: {100 * negative:.1f} %",
            f"ignored: {100 * (1 - positive - negative):.1f} %"} < set(legend(ax))
    assert {line.get_xdata()[0] for line in ax.lines} == {0.5, -0.2}
    assert sum("%" in text for text in legend(ax)) == 3
    assert sum(bar.get_height() for bar in ax.patches) == 30 * 29 / 2
    drawn(ax)
    with pytest.raises(ValueError, match="k of 2 or more"):
        plots.similarity_histogram(np.ones((1, 1)))


# --- heads ---

def test_anchor_relations_counts_and_stars():
    relation = torch.tensor([1, 1, 0, -1, -1, -1])
    ax = plots.anchor_relations(torch.rand(3, 20, 30), relation, (2, 3), 4)
    assert legend(ax) == ["anchor", "positive (+): 2", "ignored: 1", "negative (−): 2"]
    assert ax.collections[-1].get_offsets().tolist() == [[1, 1]]
    drawn(ax)


def test_principal_colors_follow_the_largest_spread():
    along = np.zeros((50, 6))
    along[:, 2] = np.linspace(-1, 1, 50)
    colors = plots.principal_colors(along + 7)
    assert colors.shape == (50, 3) and 0 <= colors.min() and colors.max() <= 1
    assert abs(np.corrcoef(colors[:, 0], along[:, 2])[0, 1]) > 0.99
    assert np.isfinite(plots.principal_colors(np.ones((4, 2)))).all()


def test_feature_rows_is_a_grid_of_pictures():
    rows = {"tokens": torch.rand(2, 6, 5), "features": torch.rand(2, 6, 3)}
    axes = plots.feature_rows(torch.rand(2, 3, 8, 12), rows, (2, 3))
    assert axes.shape == (3, 2) and [ax.get_ylabel() for ax in axes[:, 0]] == ["image", "tokens", "features"]
    drawn(axes)


# --- masks and numbers ---

def test_paint_gives_classes_their_colours_and_void_grey_stripes():
    mask = np.full((32, 32), -1)
    mask[:16] = 2
    painted = plots.paint(torch.from_numpy(mask), COLORS)
    assert np.allclose(painted[:16] * 255, COLORS[2])
    assert {tuple(color) for color in painted[16:].reshape(-1, 3)} == {plots.VOID, plots.VOID_STRIPE}
    with pytest.raises(ValueError, match="holds class 3"):
        plots.paint(np.array([[3]]), COLORS)


def test_gallery_has_one_legend_of_what_is_seen():
    masks = torch.tensor([[[0, 0], [2, -1]], [[2, 2], [2, 2]]])
    axes = plots.gallery({"image": torch.zeros(2, 3, 2, 2, dtype=torch.uint8), "mask": masks}, CLASSES, COLORS)
    figure = drawn(axes)
    assert axes.shape == (2, 2) and [ax.get_title(loc="left") for ax in axes[0]] == ["image", "mask"]
    (found,) = figure.legends
    assert [text.get_text() for text in found.get_texts()] == ["sky", "tree", "void"]
    with pytest.raises(ValueError, match="different numbers"):
        plots.gallery({"a": masks, "b": masks[:1]}, CLASSES, COLORS)


def test_crf_comparison_counts_what_changed():
    before = torch.zeros(4, 5, dtype=torch.int64)
    after = before.clone()
    after[0] = 1
    axes = plots.crf_comparison(torch.rand(3, 4, 5), before, after, CLASSES, COLORS)
    assert axes[3].get_title(loc="left") == "changed: 25.0 % of pixels"
    drawn(axes)


def test_confusion_rows_are_shares_and_absent_classes_empty():
    ax = plots.confusion_matrix([[3, 1, 0], [0, 0, 0], [0, 0, 5]], CLASSES)
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.allclose(shown[0], [75, 25, 0]) and np.isnan(shown[1]).all() and shown[2, 2] == 100
    assert [text.get_text() for text in ax.texts] == ["75", "25", "100"]
    drawn(ax)


def test_matching_frames_one_cell_a_cluster():
    ax = plots.matching(torch.tensor([[5, 1], [2, 8], [0, 3]]), [0, 1, -1], "ABC", ["x", "y"])
    assert {(round(frame.get_x() + 0.45), round(frame.get_y() + 0.45)) for frame in ax.patches} == {(0, 0), (1, 1)}
    drawn(ax)


def test_class_iou_means_leave_absent_classes_out():
    ax = plots.class_iou({"k-means": [0.5, None, 0.1], "TR": [0.0, float("nan"), 1.0]}, CLASSES)
    assert legend(ax) == ["k-means: mean 30.0 %", "TR: mean 50.0 %"]
    assert len(ax.patches) == 6
    drawn(ax)
    assert legend(plots.class_iou({"none": [None] * 3}, CLASSES)) == ["none: no class occurs"]


def test_results_points_show_every_run_its_mean_and_range():
    ax = plots.results_points({"TR": torch.tensor([0.25]), "k-means": [0.2, 0.4]}, baseline=0.3)
    line, span = (line.get_xdata() for line in ax.lines)
    assert line == pytest.approx([30, 30]) and span == pytest.approx([20, 40])
    alone, runs, mean = (points.get_offsets()[:, 0].tolist() for points in ax.collections)  # one run has no mean
    assert (alone, runs, mean) == (pytest.approx([25]), pytest.approx([20, 40]), pytest.approx([30]))
    assert legend(ax) == ["one run (seed)", "mean over runs"]
    drawn(ax)


def test_category_bars_go_from_best_to_worst_of_the_last_method():
    ax = plots.category_bars({"k-means": [0.5, None, 0.1], "TR": [0.2, float("nan"), 0.9]}, CLASSES)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tree", "sky", "road"]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([10, 50, 0, 90, 20, 0])
    assert legend(ax) == ["k-means: mean 30.0 %", "TR: mean 55.0 %"]
    drawn(ax)
    assert legend(plots.category_bars({"none": [None] * 3}, CLASSES)) == ["none: no class occurs"]


def test_change_points_show_every_run_and_its_mean():
    items = {"labels": {"modularity": [1.0, 2.0, 6.0], "k-means": [0.5, 0.5, -1.0]}, "bank": {"k-means": [-3.0]}}
    ax = plots.change_points(items)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["labels", "bank"]
    drawn_points = [points.get_offsets() for points in ax.collections]
    assert [np.asarray(points)[:, 0].tolist() for points in drawn_points] == [
        [1, 2, 6], [3], [0.5, 0.5, -1], [0], [-3], [-3]]
    heights = [float(points[0, 1]) for points in drawn_points]
    assert all(abs(height - place) < 0.5 for height, place in zip(heights, [0, 0, 0, 0, 1, 1]))
    assert heights[0] != heights[2]
    assert legend(ax) == ["modularity, one run", "modularity, mean", "k-means, one run", "k-means, mean"]
    drawn(ax)


# --- front door ---

def test_intervention_bars_are_percentages():
    ax = plots.intervention_bars({"observational": [0.25, 0.5], "interventional": torch.tensor([0.125, 0.25])}, ["no", "yes"])
    assert sorted(bar.get_height() for bar in ax.patches) == [12.5, 25, 25, 50]
    assert legend(ax) == ["no", "yes"]
    drawn(ax)


def test_compare_curves_draws_every_row():
    ax = plots.compare_curves([1, 2, 3], {"a": [3, 2, 1], "b": [1, np.nan, 1], "slope": [1, 2, 3]}, guide=["slope"],
                              xlabel="x", ylabel="y", xscale="log")
    assert {"a", "b", "slope"} <= set(legend(ax)) and ax.get_xscale() == "log"
    drawn(ax)


def test_short_logarithmic_axes_name_numbers():
    ax = plots.compare_curves([1, 2], {"a": [19, 210]}, xlabel="x", ylabel="y", yscale="log")
    drawn(ax)
    named = {text.get_text() for text in ax.get_yticklabels(which="both")} - {""}
    assert named and all(name.isdigit() for name in named)


def test_panels_of_the_same_names_share_a_legend():
    axes = plots.panels(1, 2, figsize=(6, 3))[0]
    for ax in axes:
        plots.compare_curves([1, 2], {"a": [3, 2], "b": [1, 1]}, xlabel="x", ylabel="y", ax=ax)
    plots.shared_legend(axes)
    (found,) = axes[0].figure.legends
    assert [text.get_text() for text in found.get_texts()] == ["a", "b"]
    assert all(ax.get_legend() is None for ax in axes)
    drawn(axes)


def test_views_carry_names_and_frames():
    masks = [np.zeros((20, 20), int), np.tri(20, dtype=int), np.where(np.arange(400).reshape(20, 20) < 3, 2, 1)]
    axes = plots.views_and_names(np.full((3, 20, 20, 3), 0.5), masks, [CLASSES] * 3, [COLORS] * 3, "abc",
                                 frames=[(0.1, 0.2, 0.1), (0, 0, 0.5)])
    names = [[text.get_text() for text in ax.texts] for ax in axes[1]]
    assert names == [["sky"], ["sky", "road"], ["road"]]  # three pixels of tree are too few to be named
    assert [len(ax.patches) for ax in axes[0]] == [2, 2, 6]
    drawn(axes)


def test_kinds_stand_over_their_segments():
    shares = {"close": [0.5, 0.25, 1], "far": [0.5, 0.75, 0]}
    rows = {"naive": [0, 1, 1], "front door": [0, 0, 0]}
    above, below = plots.kinds_and_segments(shares, rows, CLASSES, COLORS, ylabel="views (%)", titles="ab")
    assert (above.get_title(loc="left"), below.get_title(loc="left")) == ("a", "b")
    assert [bar.get_height() for bar in above.patches] == [50, 25, 100, 50, 75, 0]
    np.testing.assert_allclose(below.images[0].get_array(), COLORS[[[0, 1, 1], [0, 0, 0]]] / 255)
    assert [text.get_text() for text in below.texts] == ["2 segments", "1 segments"]
    drawn(above)


# --- features ---

def test_patch_and_token():
    axes = plots.patches_and_token(torch.rand(3, 16, 24), torch.arange(5.0), 8, 4)
    assert [ax.get_title(loc="left") for ax in axes] == ["2 x 3 patches", "patch 4", "its token"]
    assert axes[1].images[0].get_array().shape == (8, 8, 3)
    drawn(axes)


def test_similarity_maps_and_nearest_patches():
    axes = plots.similarity_maps(torch.rand(3, 16, 24), torch.rand(2, 6), (2, 3), torch.tensor([0, 5]))
    assert len(axes) == 3 and axes[1].images[0].get_clim() == (-1, 1)
    drawn(axes)
    places = torch.tensor([[[0, 1], [1, 5], [1, 0]]])
    axes = plots.nearest_patches(torch.rand(2, 3, 16, 24), places, torch.tensor([[1.0, 0.5, 0.25]]), 8)
    assert [ax.get_title(loc="left") for ax in axes[0]] == ["anchor 1", "0.50", "0.25"]
    drawn(axes)


def test_cosine_histogram_tells_medians_and_thresholds():
    ax = plots.cosine_histogram({"all": torch.tensor([0.1, 0.2, 0.6])}, [("phi", 0.3)])
    assert {"all (median 0.20)", "phi = 0.3"} <= set(legend(ax))
    drawn(ax)
    ax = plots.cosine_histogram({name: torch.rand(9) for name in plots.RELATION})
    edges = [outline.get_edgecolor()[:3] for outline in ax.patches]
    assert edges[::2] == [to_rgb(plots.RELATION[name]) for name in ("positive", "negative")]


def test_position_grids_share_their_colours():
    axes = plots.position_grids({"stored": torch.rand(4, 4, 7), "resized": torch.rand(6, 3, 7)})
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim()
    drawn(axes)


# --- speed ---

def test_winning_products_show_each_concept_the_largest_and_its_owner():
    affinity = torch.tensor([[0.5, 0.0], [0.2, 0.6], [0.0, 0.0]])
    axes = plots.winning_products(affinity, torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]]))
    assert [ax.get_title(loc="left") for ax in axes] == ["concept 0", "concept 1", "maximum", "its concept"]
    products = [ax.images[0].get_array() for ax in axes[:3]]
    assert products[0][0, 1] == pytest.approx(0.1) and products[1][1, 1] == pytest.approx(0.36)
    assert np.array_equal(products[2], np.maximum(*products[:2]))
    painted = axes[3].images[0].get_array()
    assert np.allclose(painted[1, 1], plots.concept_colors(2)[1]) and np.all(painted[2] == 1)
    (found,) = drawn(axes).legends
    assert [text.get_text() for text in found.get_texts()] == ["concept 0", "concept 1"]


def test_bank_tiles_say_what_is_stored():
    axes = plots.bank_tiles(1600, 204_800, 1000)
    assert [ax.get_title(loc="left") for ax in axes] == ["at once: 1,311 MB", "tile by tile: 6.4 MB"]
    (found,) = drawn(axes).legends
    assert [text.get_text() for text in found.get_texts()] == ["stored logits", "computed, discarded", "kept for each anchor"]


def test_lattice_passes_draw_every_edge_and_share_once():
    corners = torch.tensor([[0, 0], [1, 0], [0.5, 0.75**0.5], [1.5, 0.75**0.5]])
    shares = torch.tensor([[0.5, 0.25, 0.25, 0]])
    axes = plots.lattice_passes(shares @ corners, [1.0], corners, shares, shares[0], [0.2, 0.3, 0.3, 0.1], [0.25])
    assert [len(ax.lines) for ax in axes] == [5 + 3, 5, 5 + 3]
    assert [len(ax.collections) for ax in axes] == [2, 1, 2]
    amounts = axes[0].collections[0].get_array()
    assert amounts.mask.tolist() == [False, False, False, True] and amounts[:3].tolist() == [0.5, 0.25, 0.25]
    drawn(axes)


def test_stacked_bars_end_to_end():
    ax = plots.stacked_bars({"both": {"first": 1.5, "second": 0.5}, "one": {"first": 1.25}}, xlabel="time (s)")
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 1.5), (0, 1.25), (1.5, 0.5), (1.25, 0)]
    assert legend(ax) == ["first", "second"] and [text.get_text() for text in ax.texts] == [" 2", " 1.25"]
    drawn(ax)


# --- granularity ---

def test_relation_columns_are_percentages_of_each_objects_pairs():
    counts = torch.tensor([[6, 3, 1], [0, 0, 0], [0, 1, 19]])
    axes = plots.relation_columns({"before": counts, "after": counts.flip(0)}, ["person", "sky", "car"])
    assert [ax.get_title(loc="left") for ax in axes] == ["before", "after"]
    widths = np.array([bar.get_width() for bar in axes[0].patches]).reshape(3, 3)  # (relations, objects)
    assert np.allclose(widths.T, [[60, 30, 10], [0, 0, 0], [0, 5, 95]])
    assert [text.get_text() for text in axes[0].texts] == ["60", "30", "10", "95"]  # 5 % is too narrow for a number
    (found,) = drawn(axes).legends
    assert [text.get_text() for text in found.get_texts()] == ["positive", "ignored", "negative"]


def test_merging_row_paints_each_segment_in_one_colour():
    label = torch.tensor([[7, 7, 9, 9], [7, 7, 9, 9], [4, 4, 0, 0], [4, 4, 0, 0]]).repeat_interleave(4, 0)
    label = label.repeat_interleave(4, 1)  # (16, 16)
    tree = np.array([[0, 1, 0.4, 2], [2, 3, 1.05, 3]])  # 4 and 7 at 0.6, 9 with them at -0.05
    stages = {0.7: [0, 1, 2], 0.3: [0, 0, 1], -0.1: [0, 0, 0]}
    axes = plots.merging_row(torch.full((3, 16, 16), 0.5), label, {4: "leg", 7: "head", 9: "arm"}, tree, stages,
                             title="person", alone=0.2, rival="tree")
    assert [ax.get_xlabel().splitlines()[1] for ax in axes[1:4]] == ["3 segments", "2 segments", "one segment"]
    painted = [ax.images[0].get_array() for ax in axes[1:4]]
    leg, head, arm, other = (14, 2), (2, 2), (2, 13), (14, 13)
    for picture, segments in zip(painted, stages.values()):
        colors = {place: tuple(picture[place]) for place in (leg, head, arm)}
        assert len(set(colors.values())) == len(set(segments))
        assert tuple(picture[other]) not in colors.values()
    assert tuple(painted[2][arm]) == tuple(painted[0][leg])  # the whole wears the colour of its first part
    names = [text.get_text() for text in axes[-1].get_yticklabels()]
    assert sorted(names) == ["arm", "head", "leg"] and "tree" in axes[-1].get_title(loc="right")
    joints = [line for line in axes[-1].lines if np.ptp(line.get_xdata()) == 0 and np.ptp(line.get_ydata()) > 0]
    assert {round(float(line.get_xdata()[0]), 2) for line in joints} >= {0.6, -0.05}
    drawn(axes)


def test_merging_row_of_parts_that_never_merge_and_of_one_alone():
    label = torch.tensor([[0, 1], [0, 1]])
    for parts, tree in (({0: "wall", 1: "roof"}, np.array([[0, 1, 3.0, 2]])), ({0: "wall"}, np.zeros((0, 4)))):
        axes = plots.merging_row(torch.rand(3, 2, 2), label, parts, tree, {0.5: list(range(len(parts)))})
        assert len(axes[-1].get_yticks()) == len(parts) and axes[-1].get_title(loc="right") == ""
        drawn(axes)


def test_windows_are_bars_where_they_open_and_dashes_where_they_do_not():
    found = [{"whole": 0.6, "alone": 0.2}, {"whole": 0.1, "alone": 0.4}, None, {"whole": -np.inf, "alone": -np.inf}]
    (ax,) = plots.windows({"before": found}, ["person", "car", "sky", "boat"], title="windows")
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[0.2, 0.6], [0.4, 0.1]]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "--"]
    drawn(ax)


def test_across_levels_rings_the_best():
    ax = plots.across_levels({"ours": [0.1, 0.3, 0.2]}, ["part", "object", "group"], ylabel="AMI (%)",
                             ideals={"perfect parts": [1.0, 0.9, 0.8]})
    assert ax.collections[0].get_offsets()[0].tolist() == pytest.approx([1, 30])
    assert ax.get_legend_handles_labels()[1] == ["perfect parts", "ours"]
    drawn(ax)


def test_across_levels_has_bars_and_rings_only_what_is_decided():
    spans = {"ours": [(0.05, 0.2), (0.2, 0.4), (0.1, 0.3)], "theirs": [(0.1, 0.2)] * 3}
    ax = plots.across_levels({"ours": [0.1, 0.3, 0.2], "theirs": [0.15] * 3}, ["part", "object", "group"],
                             spans=spans, rings={"ours": "object", "theirs": None}, ylabel="AMI (%)")
    bars, ring, others = ax.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx([5, 20]), pytest.approx([20, 40]), pytest.approx([10, 30])]
    assert ring.get_offsets()[0, 1] == pytest.approx(30) and len(others.get_segments()) == 3
    assert ax.lines[0].get_xdata()[0] < 0 < ax.lines[1].get_xdata()[0]  # side by side
    drawn(ax)
