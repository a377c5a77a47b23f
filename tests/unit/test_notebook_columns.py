"""Code of chapters in at most 79 columns: the page shows about 88 characters of a line."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FITTING = [  # one name a line; gets names, loses none
    "04_heads",
    "05_evaluation",
    "06_results",
    "08_backbone",
    "09_alive",
    "11_rivals",
]


@pytest.mark.parametrize("name", FITTING)
def test_code_fits_the_column(name):
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf8"))["cells"]
    long = [(cell["id"], line) for cell in cells if cell["cell_type"] == "code"
            for line in "".join(cell["source"]).splitlines() if len(line) > 79]
    assert not long, "\n".join(f"{cell}: {line}" for cell, line in long)
