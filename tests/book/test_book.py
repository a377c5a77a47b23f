"""The built book: chapters ran from their first cell to their last, nothing warned, figures and links are there."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from built import CHAPTERS, EXECUTED, HTML, LOG, PAGES, ROOT, TOC, TREE

WIDEST = 1050  # pixels: a column of 688 shows 9 points, at 110 dots an inch, with 9 pixels; smaller text: unit/test_plots.py
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


class Page(HTMLParser):
    """The links, pictures, ids and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.images, self.ids = [], [], set()
        self.html = path.read_text(encoding="utf8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("link", "script"):
            self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]
        if tag == "img" and "src" in attributes:  # the explorer's get theirs from its script
            self.links.append(attributes["src"])
            self.images.append(attributes)


@pytest.fixture(scope="module")
def pages(book) -> dict[str, Page]:
    return {name: Page(HTML / f"{name}.html") for name in PAGES}


def test_nothing_warned_and_the_build_ran_no_cell(book):
    said = LOG.read_text()
    with_code = [path for path in (TREE / "book").glob("*.md") if "file_format: mystnb" in path.read_text()[:40]]
    assert "build succeeded" in said and "WARNING:" not in said and "Executing notebook" not in said
    assert said.count("Using cached notebook") == len(CHAPTERS) + len(with_code)


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_ran_from_its_first_cell_to_its_last(name, book):
    """papermill calls every cell completed, those that it never reached too: only their numbers tell."""
    cells = [cell for cell in json.loads((EXECUTED / f"{name}.ipynb").read_text())["cells"]
             if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    said = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
    # pydensecrf cannot be built everywhere; runs as short as these may collapse, and say so (runs/health.py)
    said = re.sub(r".*Warning: (pydensecrf is not installed|Read-out \w+: \d+ of \d+ clusters have no pixel).*", "", said)
    assert "Warning" not in said, said


def test_sizes_are_of_chapters_and_pages_that_are_there():
    for name in yaml.safe_load((ROOT / "tests/book/sizes.yaml").read_text()):
        assert name == "every" or f"notebooks/{name}" in PAGES or f"book/{name}" in PAGES


def test_index_leads_to_the_first_page(book):
    assert f"{TOC['root']}.html" in (HTML / "index.html").read_text()


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_shows_what_was_computed(name, pages):
    page = pages[name]
    assert "cell_output" in page.html and "Traceback (most recent call last)" not in page.html
    text = re.sub(r"<[^>]+>", " ", " ".join(re.findall(r'<div class="cell_output.*?</div>\s*</div>', page.html, re.S)))
    assert re.search(r"\d", text), "no number among the outputs"
    figures = [image for image in page.images if "_images" in image["src"]]
    assert figures, "no figure"
    for image in figures:
        words = image.get("alt", "")
        assert len(words) > 20 and "_images" not in words, f"a figure without words: {image['src']}"
    assert max(int(image["width"]) for image in figures) <= WIDEST
    captioned = r'<figure(?: [^>]*)?>\s*<img[^>]*_images[^>]*>\s*<figcaption>(.*?)</figcaption>'
    captions = re.findall(captioned, page.html, re.S)
    assert len(captions) == len(figures)
    assert all(len(re.sub(r"<[^>]+>", "", caption).strip()) > 20 for caption in captions)


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_opens_in_colab(name, pages):
    owner, repository = CONFIG["repository"]["url"].split("/")[-2:]
    branch = CONFIG["repository"]["branch"]
    button = f"https://colab.research.google.com/github/{owner}/{repository}/blob/{branch}/{name}.ipynb"
    assert button in pages[name].links
    assert (ROOT / f"{name}.ipynb").exists()


def test_links_between_pages_and_files_lead_somewhere(pages):
    ids = {HTML / f"{name}.html": page.ids for name, page in pages.items()}
    lost = []
    for name, page in pages.items():
        here = HTML / f"{name}.html"
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
            if not target.exists() or (parts.fragment and target in ids and parts.fragment not in ids[target]):
                lost.append(f"{name}: {link}")
    assert not lost


def test_every_chapters_time_is_told(pages):
    for name in CHAPTERS:
        assert name in pages["book/machine"].html


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light_and_leads_on(name, pages):
    page, here = pages[name], PAGES.index(name)
    assert len(page.html.encode()) < 1.5e6
    assert ('class="left-prev"' in page.html, 'class="right-next"' in page.html) == (here > 0, here < len(PAGES) - 1)
    assert "search-button" in page.html


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_can_be_downloaded_as_a_notebook(name, pages):
    assert any(link.endswith(f"_sources/{name}.ipynb") for link in pages[name].links)
    assert json.loads((HTML / f"_sources/{name}.ipynb").read_text())["cells"]


def test_library_pages_have_what_the_docstrings_say(pages):
    assert {"cause_lib.metrics.effective_number", "cause_lib.contrast.ConceptBank.update"} <= pages["book/api"].ids
    assert {"cause_lib.stages.evaluate", "cause_lib.config.Experiment"} <= pages["book/api_runs"].ids
    assert {"cause_lib.segmenter.Segmenter.load", "cause_book.frontdoor.front_door",
            "cause_book.plots.masks.gallery"} <= pages["book/api_use"].ids
    assert "W_ij delta_ij" in pages["book/api"].html  # an equation of a module's header
