"""Label-free criteria: each against a library or a loop, and the table against the runs that it is about."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score

from cause_lib import stages
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session
from workflow import criterion
from workflow.rows import read_rows


def test_shared_information_is_scikit_learns():
    torch.manual_seed(0)
    labellings = torch.stack([torch.randint(0, size, (9000,)) for size in (1, 2, 5, 9)])
    labellings = torch.cat([labellings, (labellings[3:] + 1) % 9, labellings[2:3] // 2])
    found = criterion.shared_information(labellings)
    for i, one in enumerate(labellings):
        for j, other in enumerate(labellings):
            assert float(found[i, j]) == pytest.approx(normalized_mutual_info_score(one, other), abs=1e-9)
    assert float(found[3, 4]) == pytest.approx(1)  # other numbers, the same clusters


def test_explained_is_one_minus_what_is_left_in_the_clusters():
    torch.manual_seed(1)
    tokens, clusters = torch.randn(300, 7, dtype=torch.float64), torch.randint(0, 4, (300,)) * 2  # odd ones are empty
    left = sum(((tokens[clusters == k] - tokens[clusters == k].mean(0)) ** 2).sum() for k in clusters.unique())
    total = ((tokens - tokens.mean(0)) ** 2).sum()
    assert criterion.explained(tokens, clusters) == pytest.approx(float(1 - left / total), abs=1e-12)
    assert criterion.explained(tokens, torch.zeros(300, dtype=torch.int64)) == pytest.approx(0, abs=1e-12)
    assert criterion.explained(tokens, torch.arange(300)) == pytest.approx(1, abs=1e-12)


def test_modularity_is_that_of_the_sum_over_pairs():
    torch.manual_seed(2)
    tokens = F.normalize(torch.randn(3, 11, 5, dtype=torch.float64), dim=-1)
    clusters = torch.randint(0, 3, (3, 11))
    expected = []
    for points, groups in zip(tokens.numpy(), clusters.numpy()):
        weights = np.maximum(points @ points.T, 0)
        total, degrees = weights.sum(), weights.sum(1)
        expected.append(sum(weights[i, j] / total - degrees[i] * degrees[j] / total ** 2
                            for i in range(11) for j in range(11) if groups[i] == groups[j]))
    assert criterion.modularity(tokens, clusters) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.fixture
def judged(tiny, tmp_path):
    """Two seeds of one line, run, and the numbers of a table that also has a line not run, and k-means on tokens."""
    runs = [tiny(head="mlp", crf=False), tiny(head="mlp", crf=False, seed=4)]
    lines = [{"row": "again", "notebook": ""} | run.to_dict() for run in runs]
    lines.append({"row": "not run", "notebook": ""} | runs[0].replace(seed=9).to_dict())
    lines.append({"row": "tokens", "notebook": "workflow/baseline.ipynb"} | runs[0].to_dict())
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in line.items()} for line in lines)
    for run in runs:
        stages.evaluate(run)
    for _ in range(2):  # the second time the file is there
        criterion.main(tmp_path / "table.csv", tmp_path / "criterion.csv")
    return runs, pd.read_csv(tmp_path / "criterion.csv")


def clusters_of(run, readout, mirrored=False):
    """The cluster of each patch by a read-out of the head, or without one of the tokens: (g n,), and the grid."""
    with session(run) as accelerator:
        seen = FrozenFeatures(run, "test", run.image_size, accelerator, mirrored=mirrored)
        points = next(seen.stream([torch.arange(len(seen))]))
    folder = stages.fit_probe(run) if readout else stages.fit_baseline(run)
    if readout:
        points = stages.load_head(folder)(points, seen.grid)
    return stages.load_probe(folder, readout or "kmeans")(points).argmax(-1).flatten(), seen.grid


def test_lines_are_those_that_have_been_run(judged):
    _, found = judged
    assert list(found.columns) == criterion.COLUMNS
    assert found[["row", "seed", "readout"]].values.tolist() == [
        ["again", 0, "modularity"], ["again", 0, "kmeans"], ["again", 4, "modularity"], ["again", 4, "kmeans"],
        ["tokens", 0, "kmeans"]]


def test_a_table_that_has_not_been_run_is_said(tiny, tmp_path):
    (tmp_path / "table.csv").write_text(f"dataset,run_dir\nscenes,{tmp_path / 'runs'}\n")
    with pytest.raises(SystemExit, match="No line of .*table.csv has been run here"):
        criterion.main(tmp_path / "table.csv", tmp_path / "criterion.csv")
    assert not (tmp_path / "criterion.csv").exists()


def test_pictures_without_labels_have_all_but_miou(tiny, tmp_path):
    from PIL import Image

    (tmp_path / "photos/images").mkdir(parents=True)
    for name, colours in enumerate(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8).numpy()):
        Image.fromarray(colours).save(tmp_path / f"photos/images/{name}.png")
    run = tiny(head="mlp", crf=False, folder=str(tmp_path / "photos"), num_classes=3, train_images=None,
               test_images=None)
    stages.evaluate(run)
    cells = {name: value for name, value in run.to_dict().items() if value is not None}
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([cells.keys(), cells.values()])
    criterion.main(tmp_path / "table.csv", tmp_path / "criterion.csv")
    found = pd.read_csv(tmp_path / "criterion.csv")
    assert len(found) == 2 and found["miou"].isna().all()
    assert found[["explained", "mirrored", "effective"]].notna().all(axis=None)


def test_numbers_are_those_of_the_artefacts(judged):
    runs, found = judged
    line = found.set_index(["row", "seed", "readout"]).loc[("again", 0, "kmeans")]
    clusters, grid = clusters_of(runs[0], "kmeans")
    back = clusters_of(runs[0], "kmeans", mirrored=True)[0].view(-1, *grid).flip(2).flatten()
    assert line["mirrored"] == pytest.approx(normalized_mutual_info_score(clusters, back), abs=1e-5)
    shares = np.bincount(clusters) / len(clusters)
    shares = shares[shares > 0]
    assert line["effective"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=1e-4)
    scores = stages.collect_metrics(stages.find(runs[0], "evaluation")).set_index("readout")["miou"]
    assert line["miou"] == pytest.approx(100 * scores["kmeans"], abs=0.006)


def test_agreement_is_with_other_lines_and_seeds_with_the_same(judged):
    runs, found = judged
    found = found.set_index(["row", "seed", "readout"])
    clusters = {("again", run.seed, readout): clusters_of(run, readout)[0]
                for run in runs for readout in ("modularity", "kmeans")}
    baseline = clusters_of(runs[0], None)[0]
    shared = {key: normalized_mutual_info_score(baseline, each) for key, each in clusters.items()}
    for key, share in shared.items():
        assert found.loc[key, "agreement"] == pytest.approx(share, abs=1e-5)
    tokens = found.loc[("tokens", 0, "kmeans")]
    assert tokens["agreement"] == pytest.approx(np.mean([*shared.values()]), abs=1e-5) and np.isnan(tokens["seeds"])
    for readout in ("modularity", "kmeans"):
        both = normalized_mutual_info_score(*(clusters["again", run.seed, readout] for run in runs))
        assert found.loc[("again", 0, readout), "seeds"] == pytest.approx(both, abs=1e-5)


def test_committed_criteria_are_of_lines_of_the_table():
    rows = {row.number: row for row in read_rows("experiments/earlier.csv")}
    found = pd.read_csv("cause_book/results/criterion.csv")
    assert list(found.columns) == criterion.COLUMNS
    assert not found.duplicated(["line", "readout"]).any()
    for line in found.itertuples():
        assert (line.row, line.seed) == (rows[line.line].label, rows[line.line].experiment.seed)
    results = pd.read_csv("cause_book/results/earlier.csv").set_index(["line", "readout"])["miou"]
    both = found.join(results, on=["line", "readout"], rsuffix=" of the results")
    assert (both["miou"] - both["miou of the results"]).abs().max() < 0.011


def test_what_chapter_10_says_of_the_criteria():
    found = pd.read_csv("cause_book/results/criterion.csv")
    found = found[found["backbone"] != "bundled.random"]
    blocks = found.groupby(["dataset", "backbone"])
    each = pd.DataFrame({key: part[criterion.CRITERIA].corrwith(part["miou"], method="spearman") for key, part in blocks}).T
    ranks = blocks[["miou", *criterion.CRITERIA]].rank(pct=True)
    over_all = ranks[criterion.CRITERIA].corrwith(ranks["miou"], method="spearman")
    assert len(found) == 360 and found["line"].nunique() == 150 and len(each) == 5
    assert over_all.idxmax() == "agreement" and round(over_all["agreement"], 2) == 0.62
    assert each.columns[(each > 0.5).all()].tolist() == ["agreement"] and (each["agreement"].round(2) >= 0.7).sum() == 1
    assert (each["mirrored"] > 0).all() and (each["mirrored"] < each["agreement"]).sum() == 4
    for name in ("explained", "seeds", "effective"):
        assert each[name].min() < -0.2 and each[name].max() > 0.2
    assert each["modularity"].min() > -0.1 and (each["modularity"].abs() < 0.4).sum() == 3
    for _, part in blocks:
        chosen = part.loc[part["agreement"].idxmax(), "miou"]
        assert part["miou"].mean() < chosen < part["miou"].max()
