"""Addresses and file names of earlier editions: every old one leads to a chapter that is there."""

import json
import re

import nbformat
import pytest
from test_finished_pages import SCRIPT, pages

from workflow.rows import read_rows

ROOT = SCRIPT.parents[2]
OLD = pages.MOVED["pages"]


def headings(name: str) -> set[str]:
    """The anchors of a chapter's headings, as the book's pages have them."""
    cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return {re.sub(r"[^\w-]+", "", found.lower().replace(" ", "-")) for found in re.findall(r"^#+ (.*)", text, re.M)}


def test_every_old_address_leads_to_a_chapter():
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(OLD.values()) <= there and not set(OLD) & there
    for old, page in pages.redirects().items():
        assert page.count(f'href="{OLD[old]}.html"') == 2 and f"url={OLD[old]}.html" in page  # canonical, and to click
        assert f'(moved[at] ?? "{OLD[old]}")' in page


def test_sections_that_went_elsewhere_are_found_there():
    for old, sections in pages.MOVED["sections"].items():
        assert json.dumps(sections) in pages.redirects()[old]
        for section, place in sections.items():
            name, _, anchor = place.partition("#")
            assert (anchor or section) in headings(name), place


@pytest.mark.parametrize("old", [
    "notebooks/05_evaluation.ipynb", "./notebooks/05_evaluation.ipynb", "05_evaluation", "./notebooks/08_evaluation.ipynb"])
def test_an_old_name_in_a_table_is_answered_with_one_that_it_takes(old, tmp_path):
    table, new = tmp_path / "table.csv", "notebooks/08_evaluation.ipynb"
    table.write_text(f"dataset,notebook\nscenes,{old}\n")
    with pytest.raises(ValueError, match=rf"line 1: notebook '{re.escape(old)}' is called '{new}' here"):
        read_rows(table)
    table.write_text(f"dataset,notebook\nscenes,{new}\n")
    assert read_rows(table)[0].stage == "evaluation"


@pytest.mark.parametrize("name", ["notebooks/09_alive.ipynb", "notebooks/never.ipynb", "notebooks/"])
def test_a_name_that_no_table_takes_is_answered_with_those_that_it_takes(name, tmp_path):
    (tmp_path / "table.csv").write_text(f"dataset,notebook\nscenes,{name}\n")
    with pytest.raises(ValueError, match=f"notebook '{name}' is none of notebooks/08_evaluation.ipynb, workflow"):
        read_rows(tmp_path / "table.csv")
