"""What a run says of itself: counts in metrics.json, warnings at their limits, kept with all that is made after."""

import json
import warnings

import pytest
import torch

from cause_lib import stages, steps
from cause_lib.probes import ClusterProbe
from cause_lib.runs import health
from cause_lib.runs.store import load_tensors, read_record


def test_use_is_counted_by_its_definition():
    found = health.in_use(torch.tensor([4, 0, 4, 0]))
    assert found == {"dead": 2, "dead_share": 0.5, "effective": pytest.approx(2)}
    assert health.in_use(torch.zeros(3)) == {"dead": 3, "dead_share": 1.0, "effective": None}


@pytest.mark.parametrize("used, warned", [(20, 0), (1, 0), (0, 1)])
def test_prototypes_are_warned_of_beyond_the_limit_alone(used, warned):
    found = health.of_prototypes(torch.eye(20), used, 100, "published")
    assert len(found) == warned
    said = '20 of 20 prototypes are nearest to none of 100 training patches: try recipe="alive" (chapter 10).'
    assert found in ([], [said])


def test_parallel_prototypes_are_a_collapse():
    """Against the mean of all cosines off the diagonal."""
    noise = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    for spread, warned in ((0.1, True), (1.0, False)):
        prototypes = torch.ones(8) + spread * noise
        cosines = torch.cosine_similarity(prototypes[:, None].double(), prototypes[None].double(), dim=-1)
        mean = cosines[~torch.eye(30, dtype=torch.bool)].mean()
        found = health.of_prototypes(prototypes, 30, 100, "alive")
        assert (mean > health.PARALLEL) == warned == bool(found)
        assert not found or f"mean cosine of {mean:.2f}" in found[0] and "num_concepts" in found[0]


def test_a_loss_that_never_moves_is_said():
    assert health.of_losses("head", [0.0] * 5, "published")[0].startswith(
        "Stage head learned nothing, its loss was 0 at all 5 updates (no anchor had a positive")
    assert health.of_losses("probe", [-0.1, -0.1], "published") and not health.of_losses("probe", [-0.1, -0.2], "alive")
    assert not health.of_losses("head", [], "published") and not health.of_losses("head", [1.0], "published")


def test_clusters_are_warned_of_when_most_are_dead():
    assert not health.of_clusters("kmeans", torch.tensor([1, 0]), "published")
    assert health.of_clusters("kmeans", torch.tensor([1, 0, 0]), "published") == [
        'Read-out kmeans: 2 of 3 clusters have no pixel of the evaluated pictures: try recipe="alive" (chapter 10).']


def test_every_metrics_json_reports_who_is_dead(tiny):
    run = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folders = [stages.evaluate(run), stages.evaluate_baseline(run)]
    for folder in folders:
        record = read_record(folder)
        assert isinstance(record["notes"]["warnings"], list)
        for result in record["results"]:
            alive = result["num_clusters"] - len(result["dead_clusters"])
            assert alive == result["clusters_used"] and 1 <= result["effective_clusters"] <= alive + 1e-9
            assert result["dead_share"] == pytest.approx(1 - alive / result["num_clusters"])
            # By the definition: rows of the confusion are matched clusters, and these pictures have no void pixels.
            rows = [sum(result["confusion"][c]) for c in result["assignment"]]
            assert result["dead_clusters"] == [j for j, pixels in enumerate(rows) if pixels == 0]
    concepts = read_record(folders[0])["concepts"]
    assert concepts["used"] + concepts["dead"] == concepts["num_concepts"] == 12
    assert 1 <= concepts["effective"] <= concepts["used"] and "concepts" not in read_record(folders[1])
    table = stages.collect_metrics(run.run_dir)
    assert (table["dead_clusters"] == table["num_clusters"] - table["clusters_used"]).all()
    assert table.loc[table.method != "k-means", "dead_concepts"].eq(concepts["dead"]).all()


def test_warnings_are_shown_and_stay_with_all_that_is_made_after(tiny, monkeypatch):
    """A head whose anchors have no positives, so that no term of the loss is left: every artefact after it says so."""
    run = tiny()
    monkeypatch.setattr(steps, "concept_contrastive_loss", lambda seen, *rest, **options: 0 * seen.sum())
    with pytest.warns(UserWarning, match="Stage head learned nothing, its loss was 0 at all 8 updates"):
        head = stages.fit_head(run)
    monkeypatch.setattr(health, "DEAD_CLUSTERS", -1.0)
    with pytest.warns(UserWarning, match="Read-out modularity: . of 3 clusters"):
        folder = stages.evaluate(run)
    said = read_record(head)["notes"]["warnings"]
    assert len(said) == 1 and json.loads((folder / "artefact.json").read_text())["notes"]["warnings"][:1] == said
    told = read_record(folder)["notes"]["warnings"]
    assert told[:1] == said and len(told) == len(set(told)) == 3
    table = stages.collect_metrics(run.run_dir)
    assert all(sentence in text for text in table.loc[table.method != "k-means", "warnings"] for sentence in told)


def test_a_read_out_that_falls_on_one_cluster_is_counted_as_it_is(tiny, monkeypatch):
    run = tiny()
    stages.evaluate_baseline(run)
    same = torch.ones(3, 90)
    monkeypatch.setattr(stages, "load_probe", lambda folder, readout="modularity": ClusterProbe(3, 90, same).eval())
    monkeypatch.setattr(stages, "_readouts", lambda experiment: ["modularity"])
    with pytest.warns(UserWarning, match="Read-out modularity: 2 of 3 clusters have no pixel"):
        result, = read_record(stages.evaluate(run))["results"]
    assert result["dead_clusters"] == [1, 2] and result["effective_clusters"] == pytest.approx(1)
    assert load_tensors(stages.fit_probe(run) / "probe.safetensors")["modularity"].shape == (3, 90)
