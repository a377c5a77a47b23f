"""Usage: every number against its definition written as loops, and the watched training against the stages'."""

import math

import pytest
import torch
import torch.nn.functional as F

from cause_book.usage import class_means, modularity, neighbours, reached, seen_by, watch, wins
from cause_lib import stages
from cause_lib.clusterbook import initial_prototypes, modularity_loss, modularity_matrix
from cause_lib.metrics import effective_number
from cause_lib.probes import ClusterProbe
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import generator_for, seed_for, session
from cause_lib.runs.store import load_tensors


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_wins_are_counted_one_by_one():
    points, prototypes = randn(3, 20, 4), randn(9, 4, seed=1)
    counts = [0] * 9
    for point in points.flatten(0, 1):
        counts[max(range(9), key=lambda k: float(F.cosine_similarity(point, prototypes[k], dim=0)))] += 1
    assert wins(points, prototypes).tolist() == counts and sum(counts) == 60


def test_effective_number_of_equal_and_of_one():
    assert effective_number(torch.tensor([5, 5, 0, 5])) == pytest.approx(3)
    assert effective_number(torch.tensor([0, 7])) == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_number(torch.tensor([3, 1])) == pytest.approx(math.exp(entropy))
    with pytest.raises(ValueError, match="at least one count above 0"):
        effective_number(torch.zeros(4))


def test_the_gradient_reaches_winners_of_pairs_alone():
    """By the definition: k is reached if it wins some pair with a weight that is not nought."""
    tokens, prototypes, tau = randn(2, 3, 5) + 0.5, randn(30, 5, seed=1), 0.1
    winners = set()
    for picture, weights in zip(tokens, modularity_matrix(tokens)):
        affinity = (F.normalize(picture, dim=-1) @ F.normalize(prototypes, dim=-1).T).clamp(min=0)  # (n, k)
        for i in range(3):
            for j in range(3):
                products = affinity[i] * affinity[j]
                if products.max() > 0 and weights[i, j] != 0:
                    winners.add(int(products.argmax()))
    assert set(reached(tokens, prototypes, tau).nonzero().flatten().tolist()) == winners
    assert 0 < len(winners) < 30


def test_positives_and_negatives_pair_by_pair():
    concepts = torch.randint(7, (3, 10), generator=torch.Generator().manual_seed(0))
    unit = F.normalize(randn(7, 4), dim=-1)
    similarity = unit @ unit.T
    for high, low in ((0.3, 0.1), (1.1, -0.5), (-0.2, -0.2)):  # once nobody is positive, not even oneself
        positives, negatives = neighbours(concepts, similarity, high, low)
        everyone = concepts.flatten()
        for a, own in enumerate(everyone):
            others = [similarity[own, everyone[x]] for x in range(30) if x != a]
            assert positives.flatten()[a] == sum(bool(value > high) for value in others)
            assert negatives.flatten()[a] == sum(bool(value < low) for value in others)


def test_modularity_is_the_mean_over_pictures():
    tokens, prototypes = randn(5, 8, 4), randn(6, 4, seed=1)
    whole = -float(modularity_loss(tokens, prototypes))
    assert modularity(tokens, prototypes, batch=2) == pytest.approx(whole, abs=1e-12)
    alone = [-float(modularity_loss(picture[None], prototypes)) for picture in tokens]
    assert sum(alone) / 5 == pytest.approx(whole, abs=1e-12)


def test_class_means_point_where_the_classes_are():
    features = torch.tensor([[[2.0, 0.0], [4.0, 3.0], [0.0, 5.0], [9.0, 9.0]]])  # (1, n, r)
    means = class_means(features, torch.tensor([[0, 0, 1, -1]]), 3)
    first = torch.tensor([1 + 0.8, 0.6])
    assert torch.allclose(means[:2], torch.stack([first / first.norm(), torch.tensor([0.0, 1.0])]))
    assert (means[2] == 0).all()  # nobody has this class


def test_watching_keeps_start_and_end():
    start, batches = randn(4, 3), [randn(2, 5, 3, seed=seed) for seed in range(5)]
    updates, kept = watch(start, batches, every=2)
    assert updates == [0, 2, 4, 5] and kept.shape == (4, 4, 3) and torch.equal(kept[0], start)
    assert torch.equal(watch(start, batches[:4])[1][-1], kept[2])
    assert watch(start, [])[0] == [0]


def test_what_is_watched_is_what_the_stages_train(tiny):
    """Same start, same batches, same bits: prototypes of step 1, and the probe's centroids from both starts."""
    for run in (tiny(head="mlp"), tiny(head="mlp", recipe="alive", concept_readout=5)):
        with session(run) as accelerator:
            if run.concept_steps:
                tokens = FrozenFeatures(run, "train", run.image_size, accelerator)
                start = stages.first_prototypes(run, tokens)
                if run.prototype_start == "uniform":
                    assert torch.equal(start, initial_prototypes(run.num_concepts, tokens.dim,
                                                                 generator_for(run, "prototypes")))
                stream = seen_by(run, "clusterbook", tokens, run.concept_steps)
                made = load_tensors(stages.fit_clusterbook(run) / "clusterbook.safetensors")["prototypes"]
                assert torch.equal(watch(start, stream)[1][-1], made)

            views = FrozenFeatures(run, "train", run.train_size, accelerator)
            probes, head = load_tensors(stages.fit_probe(run) / "probe.safetensors"), stages.load_head(
                stages.fit_probe(run))
            torch.manual_seed(seed_for(run, "probe"))
            start = probes["kmeans"] if run.probe_start == "kmeans" else None
            start = ClusterProbe(views.dataset.num_classes, run.reduced_dim, start).centroids
            stream = seen_by(run, "probe", views, run.probe_steps, head)
            assert torch.equal(watch(start, stream)[1][-1], probes["modularity"])
