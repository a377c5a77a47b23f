"""book/_ext/docstrings.py: plain text as the library writes it becomes reStructuredText that says the same."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "book/_ext/docstrings.py"
spec = importlib.util.spec_from_file_location("docstrings", SCRIPT)
docstrings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docstrings)


def made(text: str, is_module: bool = False) -> str:
    return "\n".join(docstrings.readable(text.splitlines(), is_module)).strip()


def test_prose_keeps_its_stars_and_bars_and_code_is_code():
    assert made("|P| of *many*, see `thin` and `a`'s") == r"\|P\| of \*many\*, see ``thin`` and ``a``'s"


def test_formulas_and_columns_keep_their_place():
    assert made("    A = b\n      + c", is_module=True) == ".. code-block:: text\n\n        A = b\n          + c"
    columns = "wins      how many\nreached   by whom"
    assert made(columns, is_module=True) == ".. code-block:: text\n\n    wins      how many\n    reached   by whom"


def test_sections_stay_and_lists_of_names_become_one():
    assert made("Args:\n    x: (n,) `float`.") == "Args:\n    x: (n,) ``float``."
    named = "first, second: (n,)\n    of them\nthird: 1"
    assert made(named) == "Args:\n    first, second: (n,)\n        of them\n    third: 1"
    assert made("Fields, as published:\n    k: many") == "Fields, as published:\n\nArgs:\n    k: many"


def test_examples_are_code():
    assert made("Examples:\n    Twice *that*:\n\n    >>> 2 * x\n    4") == (
        "Examples:\n    Twice \\*that\\*:\n\n    .. code-block:: python\n\n        >>> 2 * x\n        4")


@pytest.mark.parametrize("text", ["", "One line.", "A lone ` backtick"])
def test_anything_goes_in(text):
    assert isinstance(made(text), str)
