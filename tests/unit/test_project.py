"""The project's own promises: one environment, one address, clean notebooks, a README whose words lead somewhere."""

import ast
import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from cause_lib.config import READINGS, STAGE_FIELDS, Experiment
from workflow.rows import read_rows

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its forerunner
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS_BY_NAME = {path.stem: path for path in [*NOTEBOOKS, ROOT / "workflow/baseline.ipynb"]}
# fields that a field of every cell decides where they are left out: `reading`, and `label_free`
FOLLOW = {*READINGS["paper"], "labels_in_norm", "probe_clip_norm", "probe_dropout"}
FOLLOW |= {"layer", "facet", "image_mean", "image_std"}  # how a backbone is read; its name decides
HOW = {"run_dir", "device", "cache_gb", "num_workers", "checkpoint_steps"}  # of every notebook that runs a stage
# notebook -> stages that it runs, further fields that it reads, and those of the stages that it has no use for
USED = {
    "04_features": ((), "dataset folder allow_corrupt num_classes image_size test_split test_images reading backbone "
                    "num_heads positive_threshold negative_threshold seed device", ""),
    "05_clusterbook": (("clusterbook",), "recipe reading positive_threshold negative_threshold positive_quantile "
                       "negative_quantile num_classes test_split test_images", ""),
    "07_heads": (("head",), "recipe reading num_classes test_split test_images", ""),
    "08_evaluation": (("evaluation", "baseline_evaluation"), "recipe reading", ""),
    "09_results": (("evaluation", "baseline_evaluation"), "recipe reading", "release"),
    "11_granularity": (("probe", "baseline"), "recipe reading test_split test_images", "dataset folder allow_corrupt"),
    "baseline": (("baseline_evaluation",), "reading", ""),
}
TABLES = sorted({*(ROOT / "experiments").glob("*.csv")} - {*(ROOT / "experiments").glob("published*_rows.csv")})
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
CONDA_NAMES = {"torch": "pytorch"}
PIP_ONLY = ("sphinx-mathjax-offline", "playwright", "axe-playwright-python")  # conda users get them from pip


def tracked_text() -> dict[Path, str]:
    """Every text file of the project, less what is built or run."""
    left_out = {".git", ".venv", "_build", "runs", "__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints",
                ".snakemake"}
    texts = {}
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not left_out & set(parts) and not any(part.endswith(".egg-info") for part in parts):
            try:
                texts[path] = path.read_text(encoding="utf8")
            except UnicodeDecodeError:
                pass  # a picture or weights
    return texts


def cells(path: Path, tag: str | None = None) -> list[dict]:
    """The code cells of a notebook, all or those that carry `tag`."""
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in code if tag is None or tag in cell["metadata"].get("tags", [])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_conda_and_pip_users_get_the_same_packages():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip_part = conda.pop()
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["book"] + extras["test"]
    wanted = [line for line in wanted if re.match(r"[\w-]+", line).group() not in PIP_ONLY]
    for ours, theirs in CONDA_NAMES.items():
        wanted = [re.sub(rf"^{ours}(?=\W)", theirs, line) for line in wanted]
    assert conda == [f"python{PROJECT['requires-python']}", "pip", *wanted, "pydensecrf"]
    assert pip_part == {"pip": ["--editable .[book,test,workflow]"]}


def test_what_is_imported_is_a_dependency():
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["onnx"]
    modules = {re.match(r"[\w-]+", line).group().replace("-", "_") for line in wanted}
    come_along = {"triton"}  # with PyTorch for CUDA, and only there is it imported
    modules = modules - {"pillow", "scikit_learn"} | {"PIL", "sklearn", "cause_lib", "cause_book", "pydensecrf"} | come_along | sys.stdlib_module_names
    for path in [*(ROOT / "cause_lib").rglob("*.py"), *(ROOT / "cause_book").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in modules, f"{path.name} imports {name}, which pyproject.toml does not name"


def test_the_address_is_the_same_everywhere():
    assert PROJECT["urls"]["Repository"] == ADDRESS
    owner = ADDRESS.split("/")[-2]
    for path, text in tracked_text().items():
        for found in re.findall(rf"(?:github\.com|colab\.research\.google\.com/github)/{owner}/[\w-]+", text):
            assert found.endswith("/".join(ADDRESS.split("/")[-2:])), f"{path.name}: {found}"
    assert ADDRESS in (ROOT / "README.md").read_text()


def test_no_package_index_is_named():
    hosts = ["py" + "pi.org", "python" + "hosted.org", "ana" + "conda.org", "download.py" + "torch.org"]
    for path, text in tracked_text().items():
        assert not [host for host in hosts if host in text], path


def test_every_chapter_is_in_the_book():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [page["file"] for part in toc["parts"] for chapter in part["chapters"]
                             for page in (chapter, *chapter.get("sections", ()))]
    chapters = [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    prose = [f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")]
    assert sorted(files) == sorted(chapters + prose)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"] == {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
    first = notebook["cells"][0]
    number = f"{int(path.stem[:2])}. " if path.stem[:2].isdigit() else ""  # an appendix has none
    assert first["cell_type"] == "markdown" and source(first).startswith(f"# {number}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_installs_itself_on_colab(path):
    first = cells(path)[0]
    assert "install" in first["metadata"]["tags"]
    assert re.search(rf'%pip install (-q|--quiet) .*git\+{re.escape(ADDRESS)}"?$', source(first), re.M), source(first)
    assert "cause_lib" in source(first)  # asks first whether it is there


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_literals(path):
    (cell,) = cells(path, "parameters")
    assert source(cell).startswith("# Parameters")
    for statement in ast.parse(source(cell)).body:
        assert isinstance(statement, ast.Assign), f"not an assignment: {ast.unparse(statement)}"
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("name", USED)
def test_notebook_declares_the_fields_that_it_uses(name):
    path = NOTEBOOKS_BY_NAME[name]
    (cell,) = cells(path, "parameters")
    given = {statement.targets[0].id: ast.literal_eval(statement.value) for statement in ast.parse(source(cell)).body}
    stages, beside, left_out = USED[name]
    used = {field for stage in stages for field in STAGE_FIELDS[stage]} | set(beside.split())
    used |= HOW if stages else set()
    assert set(given) == used - FOLLOW - set(left_out.split())
    assert given == {field.name: field.default for field in dataclasses.fields(Experiment) if field.name in given}


@pytest.mark.parametrize("path", [*NOTEBOOKS, *(ROOT / "workflow").glob("*.ipynb")], ids=lambda path: path.stem)
def test_notebook_checks_its_parameters_at_once(path):
    code = cells(path)
    (cell,) = cells(path, "parameters")
    check = source(code[code.index(cell) + 1])
    assert "experiment_from(globals()" in check or "read_parameters(globals()" in check
    assert all(len(line) <= 79 for line in f"{source(cell)}\n{check}".splitlines())
    if "experiment_from" in check:  # which takes any field of Experiment that is in the namespace
        given = {statement.targets[0].id for statement in ast.parse(source(cell)).body}
        code = "\n".join(re.sub(r"^(\s*)%.*", r"\1pass", source(other), flags=re.M) for other in code)
        assigned = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)
                    and isinstance(node.ctx, ast.Store)}
        assert not (assigned & set(STAGE_FIELDS["evaluation"])) - given


@pytest.mark.parametrize("path", [*NOTEBOOKS, *(ROOT / "workflow").glob("*.ipynb")], ids=lambda path: path.stem)
def test_papermill_sees_every_parameter(path):
    """It reads them by a pattern of its own: an equals sign in a comment hides one, and it is then called unknown."""
    from papermill import inspect_notebook

    (cell,) = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    names = [line.targets[0].id for line in ast.parse(source(cell)).body]
    assert list(inspect_notebook(str(path))) == names


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_table_of_runs_is_a_table_of_experiments(path):
    for row in read_rows(path):
        held = row.experiment.experiment if row.stage == "rival" else row.experiment  # of a method, with its settings
        fields = {name: value for name, value in row.parameters.items() if name not in ("method", "settings")}
        assert held.to_dict().items() >= fields.items()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_tells_to_type_exists(path):
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(), re.S)
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    inline = re.findall(r"`((?:make|papermill|python) [^`]+)`", prose)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    fields = {field.name for field in dataclasses.fields(Experiment)}
    for command in "\n".join(blocks + inline).replace("\\\n", " ").splitlines():
        words = command.split()
        if words and words[0] == "make":
            assert words[1] in targets, command
        if words and words[0] == "papermill":
            assert (ROOT / words[1]).exists(), command
        if words and (words[0] == "papermill" or "cause_lib" in words):
            assert {words[n + 1] for n, word in enumerate(words) if word == "-p"} <= fields, command
        if words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), command


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_quickstart_table_is_shown_as_it_is():
    assert (ROOT / "experiments/quickstart.csv").read_text() in (ROOT / "book/batch.md").read_text()


def test_bibliography_has_addresses_and_no_doubles():
    text = (ROOT / "book/references.bib").read_text()
    keys = re.findall(r"^@\w+\{(\w+),", text, re.M)
    assert len(keys) == len(set(keys))
    for doi in re.findall(r"doi = \{(.*?)\}", text):
        assert re.fullmatch(r"10\.\d{4,9}/\S+", doi)
