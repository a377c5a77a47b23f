"""The recipe `alive`: what it sets, what its parts compute, and that it, too, never sees a label."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, draw_folder
from test_stages import bits

from cause_lib import stages
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import RECIPES, STAGE_FIELDS, Experiment
from cause_lib.probes import concept_kmeans, cosine_kmeans, smooth
from cause_lib.runs.store import load_tensors, read_record
from cause_lib.segmenter import Segmenter

SMALL = {name: value for name, value in TINY.items() if name != "concept_steps"} | dict(concept_readout=9)


def test_a_recipe_says_what_is_left_open_and_published_changes_no_name():
    alive = Experiment(recipe="alive", dataset="camvid", backbone="dino_vits16")
    assert {name: getattr(alive, name) for name in RECIPES["alive"]} == RECIPES["alive"]
    assert Experiment(recipe="alive", num_concepts=64).num_concepts == 64
    back = alive.replace(recipe="published")
    assert back.num_concepts == 2048 and back.bank_capacity == 100 and back.smoothing == 0
    late = {"prototype_start", "positive_quantile", "negative_quantile", "probe_start", "concept_readout", "smoothing"}
    for stage in STAGE_FIELDS:
        assert not (late | {"recipe"}) & set(Experiment().key(stage))
    assert late <= set(alive.key("evaluation"))


def test_earlier_is_alive_on_other_tokens_of_whole_pictures():
    alive, earlier = (Experiment(recipe=recipe, dataset="camvid", backbone="dino_vits16") for recipe in ("alive", "earlier"))
    assert RECIPES["earlier"] == RECIPES["alive"] | {"facet": "normed", "crops": "none"}
    assert (alive.facet, alive.crops) == ("token", "five")
    assert alive.replace(recipe="earlier") == earlier and earlier.replace(recipe="alive") == alive
    for stage in STAGE_FIELDS:  # and so it finds what `alive` with these settings left
        assert earlier.key(stage) == alive.replace(facet="normed", crops="none").key(stage)
    assert Experiment(recipe="earlier", facet="key").facet == "key"


@pytest.mark.parametrize("wrong, said", [
    (dict(recipe="undead"), "recipe must be one of published, alive, earlier"),
    (dict(positive_quantile=0.9), "positive_quantile and negative_quantile go together"),
    (dict(positive_quantile=0.5, negative_quantile=0.9), "must not be above"),
])
def test_what_the_recipe_and_its_parts_may_be(wrong, said):
    with pytest.raises(ValueError, match=said):
        Experiment(**wrong)


def test_thresholds_leave_their_shares_of_pairs_outside():
    book = Clusterbook(torch.randn(40, 7, generator=torch.Generator().manual_seed(0)))
    high, low = book.thresholds(0.9, 0.25)
    pairs = [float(book.similarity[i, j]) for i in range(40) for j in range(40) if i != j]
    assert sum(value > high for value in pairs) / len(pairs) == pytest.approx(0.1, abs=0.005)
    assert sum(value < low for value in pairs) / len(pairs) == pytest.approx(0.25, abs=0.005)
    assert Clusterbook(torch.ones(1, 3)).thresholds(0.9, 0.2) == (1.0, -1.0)


def test_smoothing_is_the_textbook_average():
    x = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    smoothed = smooth(x, 0.2)
    for b in range(2):
        for i in range(5):
            weights = [math.exp(float(F.cosine_similarity(x[b, i], x[b, j], dim=0)) / 0.2) for j in range(5)]
            mean = sum(weight * x[b, j] for j, weight in enumerate(weights)) / sum(weights)
            assert torch.allclose(smoothed[b, i], mean, atol=1e-12)
    assert torch.equal(smooth(x, 0.0), x)


def test_weights_of_points_are_copies_of_them():
    points = F.normalize(torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=-1)
    copies = torch.randint(1, 5, (30,), generator=torch.Generator().manual_seed(2))

    def inertia(centroids):
        return float((copies * (1 - (points @ centroids.T).amax(dim=1))).sum())

    weighted = cosine_kmeans(points, 3, restarts=60, weights=copies, generator=torch.Generator().manual_seed(3))
    copied = cosine_kmeans(points.repeat_interleave(copies, dim=0), 3, restarts=60,
                           generator=torch.Generator().manual_seed(4))
    assert inertia(weighted) == pytest.approx(inertia(copied), rel=1e-6)
    generator = torch.Generator().manual_seed(3)
    assert not torch.allclose(cosine_kmeans(points, 3, restarts=60, weights=torch.ones(30), generator=generator), weighted)


def test_a_rare_kind_gets_a_cluster_of_its_own():
    """Two kinds that fill everything, spread out, and a rare one: points give the rare one no cluster, concepts do."""
    g = torch.Generator().manual_seed(0)
    axes = torch.eye(6, dtype=torch.float64)
    parts = [axes[i] + scale * torch.randn(size, 6, dtype=torch.float64, generator=g)
             for i, size, scale in ((0, 3000, 0.12), (1, 3000, 0.12), (2, 20, 0.05))]
    points, kind = torch.cat(parts), torch.repeat_interleave(torch.arange(3), torch.tensor([3000, 3000, 20]))

    def rare_is_alone(centroids):
        own = (F.normalize(points, dim=-1) @ centroids.T).argmax(dim=1)
        clusters = own[kind == 2].unique()
        return len(clusters) == 1 and bool((kind[own == clusters] == 2).double().mean() > 0.5)

    wins = {"points": 0, "concepts": 0}
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        wins["points"] += rare_is_alone(cosine_kmeans(points, 3, generator=generator))
        wins["concepts"] += rare_is_alone(concept_kmeans(points, 3, 100, generator=generator))
    assert wins["concepts"] > wins["points"] and wins["concepts"] >= 4


@pytest.mark.parametrize("head", ["mlp", "tr"])
def test_labels_of_noise_leave_an_alive_run_as_it_is(tmp_path, head):
    folders = [draw_folder(tmp_path / "true"), draw_folder(tmp_path / "noise", label_seed=7)]
    runs = [Experiment(recipe="alive", dataset="folder", folder=str(folder), run_dir=str(folder / "runs"), head=head,
                       **SMALL) for folder in folders]
    true, noise = ([bits(stage(run)) for stage in (stages.fit_clusterbook, stages.fit_head, stages.fit_probe)]
                   for run in runs)
    assert true == noise


def test_an_alive_run_has_its_prototypes_in_use_and_three_readouts(tmp_path):
    folder = draw_folder(tmp_path / "data")
    run = Experiment(recipe="alive", dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), head="mlp",
                     **SMALL)
    notes = read_record(stages.fit_clusterbook(run))["notes"]
    assert notes["prototypes_used"] == notes["num_concepts"] == SMALL["num_concepts"]
    results = read_record(stages.evaluate(run))["results"]
    assert [result["readout"] for result in results] == ["modularity", "kmeans", "concepts"]
    probes = load_tensors(stages.fit_probe(run) / "probe.safetensors")
    untrained = load_tensors(stages.fit_probe(run.replace(probe_steps=0)) / "probe.safetensors")
    assert torch.equal(untrained["modularity"], untrained["kmeans"])
    assert torch.equal(untrained["kmeans"], probes["kmeans"])
    assert not torch.equal(probes["modularity"], probes["kmeans"])

    segment = Segmenter.load(stages.evaluate(run), readout="concepts")
    assert segment.smoothing == run.smoothing == 0.1
    again = Segmenter.from_pretrained(segment.save_pretrained(tmp_path / "given"))
    picture = folder / "val/images/0.png"
    assert torch.equal(segment(picture), again(picture)) and again.smoothing == 0.1
