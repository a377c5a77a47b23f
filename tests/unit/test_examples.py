"""Examples in docstrings run, and give what they say: every module of the library that has some."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITH = [path for name in ("cause_lib", "cause_book") for path in sorted((ROOT / name).rglob("*.py"))
        if "Examples:\n" in path.read_text()]
NAMED = {"clusterbook": ("modularity_loss", "Clusterbook"), "heads": ("MLPHead", "TRHead"),
         "contrast": ("concept_contrastive_loss", "ConceptBank"),
         "probes": ("ClusterProbe", "LinearProbe", "cosine_kmeans")}


def found_in(module) -> list[doctest.DocTest]:
    """Its examples; those of decorated functions too, which doctest takes for another module's."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = {test.name: test for test in finder.find(module)}
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            inner = finder.find(inspect.unwrap(value), f"{module.__name__}.{name}", module)
            tests |= {test.name: test for test in inner}
    return [test for test in tests.values() if test.examples]


@pytest.mark.parametrize("path", WITH, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_are_found_and_right(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    tests = found_in(importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    assert sum(len(test.examples) for test in tests) == path.read_text().count("    >>> ")
    for test in tests:
        said = []
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
        assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", NAMED)
def test_public_names_of_the_method_have_examples(name):
    tests = [test.name for test in found_in(importlib.import_module(f"cause_lib.{name}"))]
    assert {f"cause_lib.{name}.{each}" for each in NAMED[name]} <= set(tests)
