"""Lines of code in notebooks fit the width that the page shows them in."""

import json
from pathlib import Path

import pytest

WIDTH = 79
FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
FIT = [  # gets names, loses none
    "04_heads",
    "05_evaluation",
    "06_results",
    "08_backbone",
    "09_alive",
    "11_rivals",
]


@pytest.mark.parametrize("name", FIT)
def test_code_lines_fit(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    assert not [line for line in lines if len(line) > WIDTH]
