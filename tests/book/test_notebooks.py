"""Notebooks through papermill, each with parameters of its own, as a researcher or a Colab user would run them."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
import pytest
import yaml
from built import ROOT, TREE
from PIL import Image
from released_twin import write

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))



def run(notebook: Path, cwd: Path, /, **parameters) -> list[dict]:
    """The executed notebook's code cells, run in `cwd`."""
    papermill.execute_notebook(
        notebook, cwd / notebook.name, parameters=parameters, cwd=cwd, kernel_name="python3",
        execution_timeout=900, progress_bar=False,
    )
    cells = json.loads((cwd / notebook.name).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_evaluation_leaves_numbers(book):
    found = [json.loads(path.read_text())["results"] for path in TREE.glob("notebooks/runs/evaluation/*/metrics.json")]
    results = [result for results in found for result in results]
    wanted = itertools.product(("CAUSE-TR", "CAUSE-MLP"), ("modularity", "kmeans"), (True, False))
    assert {(result["method"], result["readout"], result["crf"]) for result in results} >= set(wanted)
    assert all(0 < result["miou"] <= 1 and 0 < result["pacc"] <= 1 for result in results)


def test_own_pictures_without_labels_as_the_page_says(tmp_path):
    """The folder, the call and the snippet of book/own.md, at a size that takes seconds."""
    rng = np.random.default_rng(0)
    (tmp_path / "holiday/images").mkdir(parents=True)
    pictures = ("beach.jpg", "RGB", (90, 60)), ("harbour.png", "L", (64, 80)), ("town.jpg", "RGB", (70, 70))
    for name, mode, size in pictures:
        noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).convert(mode).save(tmp_path / "holiday/images" / name)
    run(ROOT / "notebooks/08_evaluation.ipynb", tmp_path, dataset="folder", folder="holiday", num_classes=3,
        run_dir="runs/holiday", image_size=48, num_concepts=8, concept_steps=2, head_steps=2, probe_steps=2, thin=2,
        projection_dim=16, batch_size=2)
    page = (ROOT / "book/own.md").read_text()
    (snippet,) = re.findall(r"```python\n(from cause_lib import Segmenter.*?)```", page, re.S)
    check = 'assert mask.shape == (60, 90) and set(masks) == {"beach.jpg", "harbour.png", "town.jpg"}'
    subprocess.run([sys.executable, "-c", f"{snippet}\n{check}"], cwd=tmp_path, check=True)


def test_concepts_of_own_pictures_without_labels(tmp_path):
    """Chapter 6 as a reader on Colab runs it: two parameters changed, and pictures small enough for seconds."""
    (tmp_path / "holiday/images").mkdir(parents=True)
    for name in ("beach.jpg", "harbour.png"):
        noise = np.random.default_rng(len(name)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((60, 48)).save(tmp_path / "holiday/images" / name)
    cells = run(ROOT / "notebooks/06_contrast.ipynb", tmp_path, dataset="folder", folder="holiday", image_size=48)
    pages = ["".join(output.get("data", {}).get("text/html", "")) for cell in cells for output in cell["outputs"]]
    (page,) = [page for page in pages if "concept-explorer" in page]
    assert '"name":"beach.jpg"' in page and '"name":"harbour.png"' in page


def test_quickstart_takes_own_pictures_by_one_line(tmp_path):
    (tmp_path / "holiday/images").mkdir(parents=True)
    for name in ("beach.jpg", "harbour.png"):
        noise = np.random.default_rng(len(name)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((60, 48)).save(tmp_path / "holiday/images" / name)
    run(ROOT / "notebooks/02_quickstart.ipynb", tmp_path, photographs="holiday", network="bundled", image_size=48, num_classes=3)
    assert {path.name for path in (tmp_path / "runs/masks/masks").iterdir()} == {"beach.png", "harbour.png"}
    assert (tmp_path / "runs/masks/masks.csv").is_file()


def test_released_files_are_judged_without_training(tmp_path):
    """Chapter 8 on files of the authors' names and shapes, for the embedded backbone and the classes of scenes."""
    write(tmp_path / "release", "tr", dim=192, reduced=5, concepts=8, classes=12, side=6)
    run(ROOT / "notebooks/08_evaluation.ipynb", tmp_path, release="release", image_size=48, test_images=2, crf=False)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["evaluation", "features"]
    (ours,) = (tmp_path / "runs").glob("evaluation/*/metrics.json")
    assert {(result["method"], result["readout"]) for result in json.loads(ours.read_text())["results"]} == {
        ("CAUSE-TR (released files)", "modularity"), ("CAUSE-TR (released files)", "linear")}


# one of each kind: its own parameters, Experiment's, a reader of results
@pytest.mark.parametrize("name", ["12_frontdoor", "08_evaluation", "10_alive"])
def test_misspelt_parameter_is_an_error_at_once(name, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown parameter 'sede'.*'seed'"):
        run(ROOT / f"notebooks/{name}.ipynb", tmp_path, sede=1)
    assert not (tmp_path / "runs").exists()


def test_the_loop_over_a_table_runs(tmp_path):
    """The snippet of book/batch.md, as printed, with the first line of the table that it names, and an empty cell."""
    (snippet,) = re.findall(r"```python\n(from pathlib.*?)```", (ROOT / "book/batch.md").read_text(), re.S)
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    for notebook in NOTEBOOKS:
        (tmp_path / "notebooks" / notebook.name).write_text(notebook.read_text())
    (tmp_path / "experiments").mkdir(exist_ok=True)
    header, line = (ROOT / "experiments/quickstart.csv").read_text().splitlines()[:2]
    small = yaml.safe_load((ROOT / "tests/book/sizes.yaml").read_text())["every"]
    (tmp_path / "experiments/quickstart.csv").write_text(
        f"{header},{','.join(small)},clip_norm\n{line},{','.join(map(str, small.values()))},\n")
    script = tmp_path / "loop.py"
    script.write_text(snippet)
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
    assert (tmp_path / "runs/quickstart-1.ipynb").exists()
