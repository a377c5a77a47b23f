"""A table of experiments from its lines to its numbers, by Snakemake and papermill."""

import csv
import subprocess
import sys

from built import ROOT


def snakemake(folder) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--nolock",
         "--workflow-profile", str(ROOT / "workflow/profiles/local"), "--config", "table=table.csv"],
        cwd=folder, text=True, capture_output=True, check=False)


def test_a_table_runs_and_its_numbers_stand_beside_the_published_ones(tmp_path):
    """Two heads and raw tokens on the embedded default, in tiny, through papermill; then once more, for nothing."""
    settings = dict(dataset="scenes", image_size=48, num_concepts=8, concept_steps=2, head_steps=2, probe_steps=2,
                    projection_dim=16, batch_size=2, train_images=4, test_images=2, crf=False, seed=0, run_dir="runs")
    values = ",".join(map(str, settings.values()))
    lines = "row,notebook,head," + ",".join(settings), "a-tr,,tr,", "a-mlp,,mlp,", "a-raw,workflow/baseline.ipynb,,"
    (tmp_path / "table.csv").write_text("\n".join([lines[0], *(line + values for line in lines[1:])]) + "\n")
    (tmp_path / "table_rows.csv").write_text("row,miou,pacc\na-tr,12.3,45.6\n")
    for name in ("notebooks", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    if sys.version_info < (3, 11):
        return
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "runs/tables/table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["row"], row["method"], row["readout"]) for row in found] == [
        ("a-tr", "CAUSE-TR", "modularity"), ("a-tr", "CAUSE-TR", "kmeans"), ("a-mlp", "CAUSE-MLP", "modularity"),
        ("a-mlp", "CAUSE-MLP", "kmeans"), ("a-raw", "k-means", "kmeans")]
    assert [row["published_miou"] for row in found] == ["12.3", "12.3", "", "", ""]
    assert all(0 <= float(row["miou"]) <= 100 for row in found)
    assert (tmp_path / "runs/tables/table.md").read_text().count("\n") == 2 + len(found)
    assert len(list((tmp_path / "runs/clusterbook").glob("*/artefact.json"))) == 1
    assert "Nothing to be done" in (again := snakemake(tmp_path)).stdout + again.stderr
