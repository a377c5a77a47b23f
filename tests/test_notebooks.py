"""Every notebook runs through papermill on the embedded default, as a researcher or a Colab user would run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One working folder for all: a chapter finds what the chapter before it made, and run_dir is relative to it."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """Kernels find this checkout's cause_lib, installed or not, and none of this machine's data or weights."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("CAUSE_DATA", raising=False)
    monkeypatch.delenv("CAUSE_WEIGHTS", raising=False)


def run(notebook: Path, folder: Path, **parameters) -> list[dict]:
    """The executed notebook's code cells, run in `folder`."""
    papermill.execute_notebook(
        notebook, folder / notebook.name, parameters=parameters, cwd=folder, kernel_name="python3",
        execution_timeout=900, progress_bar=False,
    )
    cells = json.loads((folder / notebook.name).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_runs(notebook, folder):
    cells = run(notebook, folder)
    # papermill's own injected cell has no number to check; the others ran once each, in order
    counts = [cell["execution_count"] for cell in cells if "".join(cell["source"]).strip()]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    warned = [output["text"] for output in outputs if output.get("name") == "stderr" and "Warning" in "".join(output["text"])]
    assert not warned


def test_evaluation_leaves_numbers(folder):
    run(ROOT / "notebooks/05_evaluation.ipynb", folder)
    (ours,) = [path for path in folder.glob("runs/**/metrics.json") if "CAUSE-TR" in path.read_text()]
    results = json.loads(ours.read_text())["results"]
    assert {(result["readout"], result["crf"]) for result in results} >= {("modularity", False), ("kmeans", False)}
    assert all(0 < result["miou"] <= 1 and 0 < result["pacc"] <= 1 for result in results)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_misspelt_parameter_is_an_error_at_once(notebook, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="Unknown parameter 'sede'.*'seed'"):
        run(notebook, tmp_path, sede=1)
    assert not (tmp_path / "runs").exists()


def test_the_loop_over_a_table_runs(folder):
    """The snippet of book/batch.md, as printed, with the first line of the table that it names, and an empty cell."""
    (snippet,) = re.findall(r"```python\n(from pathlib.*?)```", (ROOT / "book/batch.md").read_text(), re.S)
    (folder / "notebooks").mkdir(exist_ok=True)
    for notebook in NOTEBOOKS:
        (folder / "notebooks" / notebook.name).write_text(notebook.read_text())
    (folder / "experiments").mkdir(exist_ok=True)
    header, line = (ROOT / "experiments/quickstart.csv").read_text().splitlines()[:2]
    (folder / "experiments/quickstart.csv").write_text(f"{header},test_images\n{line},\n")
    script = folder / "loop.py"
    script.write_text(snippet)
    subprocess.run([sys.executable, script], cwd=folder, check=True)
    assert (folder / "runs/quickstart-1.ipynb").exists()
