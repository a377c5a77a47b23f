"""Colab opens one chapter in an empty folder, with packages of its own: they stay, and no other file of ours is there.

A rehearsal with real kernels takes minutes and a network; here is what it found, and what can be said without it.
"""

import ast
import json
import re
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cause_book import RESULTS, tables
from cause_lib.data.published import find_folder
from cause_lib.errors import NotFound

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its forerunner
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# github.com/googlecolab/backend-info, pip-freeze.txt: of 2026-08-19 (a724079), and of the runtime 2026.07 (ec53f93)
COLAB = {
    "python": ("3.13.15", "3.12.13"), "torch": ("2.11.0", "2.11.0"), "torchvision": ("0.26.0", "0.26.0"),
    "timm": ("1.0.28", "1.0.28"), "numpy": ("2.1.3", "2.0.2"), "scipy": ("1.16.3", "1.16.3"),
    "scikit-learn": ("1.6.1", "1.6.1"), "matplotlib": ("3.10.0", "3.10.0"), "seaborn": ("0.13.2", "0.13.2"),
    "pandas": ("2.2.3", "2.2.2"), "accelerate": ("1.14.0", "1.14.0"), "huggingface-hub": ("1.27.0", "1.23.0"),
    "jinja2": ("3.1.6", "3.1.6"), "safetensors": ("0.8.0", "0.8.0"), "tqdm": ("4.67.3", "4.67.3"),
    "filelock": ("3.32.3", "3.29.7"), "pooch": ("1.9.0", "1.9.0"), "requests": ("2.32.4", "2.32.4"),
    "pillow": ("11.3.0", "11.3.0"),
}
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # of a package, where its name is another


def code(path: Path) -> list[str]:
    """The code cells of a chapter, their magics left out."""
    found = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [re.sub(r"^(\s*)%.*", r"\1pass", "".join(cell["source"]), flags=re.M) for cell in found]


@pytest.mark.parametrize("runtime", [0, 1], ids=["2026-08-19", "2026.07"])
def test_colab_keeps_its_own_packages(runtime):
    wanted = [Requirement(f"python{PROJECT['requires-python']}"), *map(Requirement, PROJECT["dependencies"])]
    assert {canonicalize_name(each.name) for each in wanted} == set(COLAB)
    replaced = [each.name for each in wanted if COLAB[canonicalize_name(each.name)][runtime] not in each.specifier]
    assert replaced == [[], ["filelock"]][runtime]  # pure Python; torch and huggingface_hub take any from 3.10 on


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_upgrades_nothing(path):
    cells = json.loads(path.read_text())["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (line,) = re.findall(r"%pip install (.*)", first)
    assert [word for word in shlex.split(line) if word.startswith("-")] == ["-q"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_needs_only_what_the_first_cell_installs(path):
    installed = {MODULES.get(name, name.replace("-", "_")) for name in COLAB} | sys.stdlib_module_names
    installed |= {"cause_lib", "cause_book", "cause_rivals", "IPython"}
    for node in (node for cell in code(path) for node in ast.walk(ast.parse(cell))):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.partition(".")[0] for name in names} <= installed, names
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.match(r"\.\./|(book|benchmarks|experiments|notebooks|workflow)/", node.value)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_refuses_in_one_sentence(path):
    """As the library does: InputError is shown without a traceback."""
    nodes = [node for cell in code(path) for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Raise)]
    assert {node.exc.func.id for node in nodes} <= {"InputError"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_tells_no_time_on_a_gpu_that_nobody_measured(path):
    measured = json.loads((ROOT / "benchmarks/results/chapters.json").read_text())
    on_a_gpu = {name for name, of in measured.items() if of["machine"]["device"] != of["machine"]["cpu"]}
    cells = json.loads(path.read_text())["cells"]
    prose = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    told = [each for each in re.split(r"(?<=[.!?:;])\s", prose) if re.search(r"\bGPU|CUDA|\bT4\b|[AH]\d00\b", each)]
    time = r"\d+ (s|seconds?|minutes?|hours?|times)\b|faster|far less|quick"
    assert path.stem in on_a_gpu or not [each for each in told if re.search(time, each)]


def test_dates_of_a_table_with_an_empty_cell(monkeypatch):
    """pandas 2 compares text with the missing value."""
    monkeypatch.setattr(pd.Series, "min", lambda self: min(self.tolist()))
    monkeypatch.setattr(pd.Series, "max", lambda self: max(self.tolist()))
    (chapter,) = [path for path in NOTEBOOKS if path.stem.endswith("alive")]
    (cell,) = [cell for cell in code(chapter) if 'RESULTS / "alive.csv"' in cell]
    assert pd.read_csv(RESULTS / "alive.csv")["date"].isna().any()
    shown = []
    exec(cell, {"pd": pd, "Path": Path, "RESULTS": RESULTS, "tables": tables, "results": "", "display": shown.append,
                "READOUTS": defaultdict(str), "HTML": str, "Markdown": str})
    assert re.match(r"Run between 20\d\d-\d\d-\d\d and 20\d\d-\d\d-\d\d on ", shown[-1])


@pytest.mark.parametrize("given, backbone", [({}, "dino_vits16"), ({"network": "dinov2_vits14"}, "dinov2_vits14"),
                                             ({"backbone": "bundled"}, "bundled")])
def test_the_quickstart_takes_the_backbone_that_its_refusal_names(given, backbone):
    """Without a network the refusal says: go on with backbone='bundled'."""
    (chapter,) = [path for path in NOTEBOOKS if path.stem.endswith("quickstart")]
    _, parameters, read = code(chapter)[:3]
    namespace = {}
    exec(parameters, namespace)
    namespace |= {"photographs": "holiday", **given}
    exec(read, namespace)
    of = namespace["experiment"]
    assert (of.dataset, of.folder, of.recipe, of.head, of.backbone) == ("folder", "holiday", "earlier", "mlp", backbone)


def test_an_archive_of_pictures_is_not_a_folder(tmp_path):
    """What is uploaded in one piece."""
    (tmp_path / "holiday.zip").touch()
    with pytest.raises(NotFound, match="holiday.zip' is a file, not a folder .an archive has to be unpacked first"):
        find_folder([tmp_path / "holiday.zip", tmp_path / "elsewhere"], "layout")
