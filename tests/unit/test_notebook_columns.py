"""Code of chapters fits the page: at 1280 pixels a line of the book shows about 88 characters."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("workflow/*.ipynb")]), ids=lambda path: path.stem)
def test_no_code_line_is_wider_than_79_columns(path):
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    assert lines and not [line for line in lines if len(line) > 79]
