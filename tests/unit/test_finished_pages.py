"""book/_ext/pages.py: pictures say their size and lose none of their colours, references are items of their list."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from docutils import nodes
from docutils.utils import new_document
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
                    '<li><a href="a.html">7. Heads</a><details open="open"><summary><span></span></summary></details>'
                    '<div role="list"><div role="doc-biblioentry">')
    pages.finish_page(page)
    once = page.read_text()
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"([^\"]+)", once) == ["_static/sort.js"]
    assert ".png" not in once.replace("elsewhere/a.png", "") and 'role="listitem"' in once
    assert '<summary aria-label="Pages below 7. Heads"><span>' in once  # a button without a text
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


def an_app(baseurl: str = "", repository: str = "https://github.com/someone/a-book/"):
    config = SimpleNamespace(html_baseurl=baseurl, html_title="A book", project="a project", root_doc="book/intro",
                             html_theme_options={"repository_url": repository})
    return SimpleNamespace(config=config)


def test_the_sites_address_is_the_repositorys_unless_it_is_given():
    for given, found in (("", "https://someone.github.io/a-book/"), ("https://books.org/", "https://books.org/")):
        app = an_app(given)
        pages.address(app, app.config)
        assert app.config.html_baseurl == found


def test_a_shared_link_has_title_sentence_and_picture():
    app, doctree = an_app("https://books.org/"), new_document("page")
    doctree += nodes.paragraph(text='What is "d < k"? ' + 60 * "word ")
    context = {"title": "1. <em>First</em>"}
    pages.describe(app, "notebooks/first", "page.html", context, doctree)
    said = dict(re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)" />', context["metatags"]))
    assert said["og:title"] == "1. First | A book" and said["og:url"] == "https://books.org/notebooks/first.html"
    assert said["og:description"].startswith("What is &quot;d &lt; k&quot;? word") and len(said["description"]) < 220
    assert said["og:image"] == "https://books.org/_static/diagrams/social.png" and said["twitter:card"] == "summary_large_image"
    pages.describe(app, "search", "search.html", context := {"title": "Search"}, None)
    assert "metatags" not in context


def test_formulas_are_drawn_without_a_network(tmp_path):
    pages.copy_mathjax(tmp_path)
    assert (tmp_path / "mathjax" / pages.MATHJAX[0]).stat().st_size > 100_000
    assert len(list((tmp_path / "mathjax").rglob("*.woff"))) > 10
