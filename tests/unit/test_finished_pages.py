"""book/_ext/pages.py: pictures say their size and lose none of their colours, references are items of their list."""

import importlib.util
import re
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "book/_ext/pages.py"
spec = importlib.util.spec_from_file_location("book_pages", SCRIPT)
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


def test_pictures_become_webp_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    opaque = pixels.copy()
    opaque[..., 3] = 255
    for name, array, kept in (("a", pixels, 4), ("b", opaque, 3)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        with Image.open(pages.to_webp(tmp_path / f"{name}.png")) as image:
            seen = np.asarray(image)
        assert not (tmp_path / f"{name}.png").exists() and seen.shape[-1] == kept
        visible = array[..., 3] > 0  # what is wholly transparent has no colour
        assert (seen[visible] == array[visible][:, :kept]).all()


def test_a_page_is_finished_once(tmp_path):
    (tmp_path / "_images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "_images/plot.webp")
    (tmp_path / "_images/graph.svg").write_text('<svg viewBox="0 0 64.2 48" xmlns="http://www.w3.org/2000/svg"/>')
    page = tmp_path / "page.html"
    page.write_text('<script defer src="_static/scripts/fontawesome.js?digest=1"></script>'
                    '<link rel="stylesheet" href="_static/sphinx-design.min.css?v=1" />'
                    '<script src="../searchindex.js"></script><script src="_static/sort.js"></script>'
                    '<a href="_images/plot.png"><img alt="x" src="_images/plot.png"></a><img src="_images/graph.svg">'
                    '<img src="https://elsewhere/a.png"><img src="_images/plot.png" width="3">'
                    '<div role="list"><div role="doc-biblioentry">')
    pages.finish_page(page)
    once = page.read_text()
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"([^\"]+)", once) == ["_static/sort.js"]
    assert ".png" not in once.replace("elsewhere/a.png", "") and 'role="listitem"' in once
    assert re.findall(r'<img width="(\d+)" height="(\d+)"', once) == [("30", "20"), ("64", "48")]
    pages.finish_page(page)
    assert page.read_text() == once


def test_what_a_page_uses_stays(tmp_path):
    page = tmp_path / "search.html"
    page.write_text('<link href="_static/sphinx-design.min.css"><script src="searchindex.js"></script>'
                    '<div class="docutils sd-card">')
    before = page.read_text()
    pages.finish_page(page)
    assert page.read_text() == before


def test_icons_that_are_named_stay(tmp_path):
    rules = ('.fa-sun:before{content:"\\f185"}', '.fa-meh:before,.fa-bars:before{content:"\\f0c9"}',
             '.fa-sun-wilt:before{content:"\\e57a"}', ".fa-solid{font-weight:900}")
    (tmp_path / "theme.css").write_text("".join(rules))
    pages.drop_icons(tmp_path / "theme.css", {"fa-sun", "fa-bars", "fa-solid"})
    assert (tmp_path / "theme.css").read_text() == rules[0] + rules[1] + rules[3]


def test_what_no_page_uses_is_not_loaded():
    context = {"script_files": ["_static/sort.js", "_static/sphinx-thebe.js", "https://host/require.min.js"],
               "css_files": ["_static/book.css", "_static/sphinx-thebe.css"]}
    pages.drop_unused(None, "page", "page.html", context, None)
    assert context == {"script_files": ["_static/sort.js"], "css_files": ["_static/book.css"]}


def test_formulas_are_drawn_without_a_network(tmp_path):
    pages.copy_mathjax(tmp_path)
    assert (tmp_path / "mathjax" / pages.MATHJAX[0]).stat().st_size > 100_000
    assert len(list((tmp_path / "mathjax").rglob("*.woff"))) > 10
