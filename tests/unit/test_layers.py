"""The plan of the house: imports go one way, and no file or function is longer than can be read at once."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

from cause_rivals import METHODS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for package in ("cause_lib", "cause_book", "cause_rivals") for path in (ROOT / package).rglob("*.py"))
METHOD = ("reference", "clusterbook", "contrast", "heads", "probes")

# Each part may import itself and the parts named here.
KERNELS, PLAIN = {"kernels"}, {"errors", "rules", "names", "config", "code_digest"}
ON_TOP_OF = {
    "face": set(),  # and, when a name is first used, the module that holds it
    "errors": set(),
    "rules": {"errors"},
    "names": {"errors"},
    "config": {"errors", "rules", "names"},
    "code_digest": set(),
    "data": {"errors", "code_digest"},
    "weights": {"errors", "names"},
    "kernels": {"errors"},
    "method": KERNELS,
    "outer": {"method", "kernels", "errors", "weights", "names"},  # crf, metrics, backbones, tokens, masks
    "runs": {"outer", "method", "kernels", "weights", "data", *PLAIN},
    "use": {"runs", "outer", "method", "kernels", "weights", "data", *PLAIN},
    "top": {"use", "runs", "outer", "method", "kernels", "weights", "data", *PLAIN},  # stages, segmenter
    "main": {"top", "use", "runs", "outer", "method", "kernels", "weights", "data", *PLAIN},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def part_of(module: str) -> str:
    """The part of the house that a module of cause_lib belongs to."""
    name = (module.split(".") + ["face"])[1]
    if name in METHOD:
        return "method"
    return {"crf": "outer", "metrics": "outer", "backbones": "outer", "tokens": "outer", "masks": "outer", "stages": "top", "steps": "top", "segmenter": "top",
            "release": "top", "__main__": "main", "segment": "main"}.get(name, name)


def imports_of(module: str, *, when_loaded: bool = False) -> set[str]:
    """What a module imports, by full name; of ours, the modules. when_loaded: only at the top level of the file."""
    tree = ast.parse(MODULES[module].read_text())
    if when_loaded:
        inner = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
        hidden = {id(child) for node in inner for child in ast.walk(node)}
    else:
        hidden = set()
    found = set()
    typing = {id(child) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
              for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden | typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            inner = {f"{node.module}.{name}" for name in names}
            found |= (inner & set(MODULES)) | ({node.module} if inner - set(MODULES) else set())
    return found - {"__future__"}


LIBRARY = [module for module in MODULES if module.split(".")[0] == "cause_lib"]


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_go_one_way(module):
    part = part_of(module)
    for name in imports_of(module):
        assert name.split(".")[0] not in ("cause_book", "cause_rivals"), f"{module} imports {name}"
        if name.split(".")[0] == "cause_lib":
            assert part_of(name) in ON_TOP_OF[part] | {part}, f"{module} ({part}) imports {name} ({part_of(name)})"


@pytest.mark.parametrize("module", [f"cause_lib.{name}" for name in METHOD])
def test_the_method_imports_torch_and_the_standard_library_alone(module):
    others = {name.split(".")[0] for name in imports_of(module)} - {"cause_lib", "torch"}
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("module", ["cause_lib.errors", "cause_lib.rules", "cause_lib.names", "cause_lib.config"])
def test_what_describes_a_run_imports_the_standard_library_alone(module):
    others = {name.split(".")[0] for name in imports_of(module)} - {"cause_lib"}
    assert others <= sys.stdlib_module_names


def test_there_are_no_cycles():
    """Imports at the top of files; one inside a function waits until it is called."""
    packages = {module: {name for name in imports_of(module, when_loaded=True) if name in MODULES} for module in MODULES}
    list(graphlib.TopologicalSorter(packages).static_order())  # raises CycleError, which names the cycle


def lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_the_method_can_be_read_at_once():
    assert lines(*(MODULES[f"cause_lib.{name}"] for name in METHOD)) <= 950


@pytest.mark.parametrize(("package", "left_out", "limit"), [
    ("cause_lib", ("cause_lib/data/scenes", "cause_lib/use"), 8760), ("cause_lib/use", (), 866),
    ("cause_book", ("cause_book/live", "cause_book/verdicts"), 2700), ("cause_book/live", (), 420),
    ("cause_book/verdicts", (), 960)])
def test_the_packages_stay_small(package, left_out, limit):
    files = [path for path in (ROOT / package).rglob("*.py") if not {ROOT / name for name in left_out} & {*path.parents}]
    assert lines(*files) <= limit


def test_a_rival_is_a_file_that_knows_no_other():
    for method in METHODS:
        path = MODULES[f"cause_rivals.{method}"]
        assert lines(path) <= 150, path
        others = {name for name in imports_of(f"cause_rivals.{method}") if name.split(".")[0].startswith("cause_")}
        assert not others & {f"cause_rivals.{name}" for name in METHODS}, path
        assert not {name for name in others if name.startswith("cause_book")}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_too_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert max(map(len, text.splitlines()), default=0) <= 120
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno - first + 1 <= 60, f"{node.name} has {node.end_lineno - first + 1} lines"
