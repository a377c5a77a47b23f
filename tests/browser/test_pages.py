"""Every page of the book in a real Chromium, on a telephone and a laptop, light and dark.

A page is visited once for each width, measured (measure.js, axe-core), turned dark and measured again; the tests read
what was measured. The report at the end of the run is printed by conftest.py.
"""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

from .conftest import HTML, REPORT, watched_page

ROOT = Path(__file__).resolve().parent.parent.parent
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
# What axe-core looks for in the light: everything at one width, and at the other all but colours. In the dark: colours.
COLOURS = {"runOnly": ["color-contrast"]}
WIDTHS = {390: {"rules": {"color-contrast": {"enabled": False}}}, 1280: {}}
MEASURE = Path(__file__).with_name("measure.js").read_text()
AXE = Axe()
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False}  # preload: it would ask for style sheets at wrong addresses
MEGABYTE = 1_000_000



@dataclass
class Visit:
    """What a look at a page found: `measured` of the light and the dark, `violations` of each too."""

    name: str
    width: int
    problems: list[str] = field(default_factory=list)
    measured: dict = field(default_factory=dict)
    in_the_dark: dict = field(default_factory=dict)
    violations: dict[str, list[dict]] = field(default_factory=dict)

    def weight(self, kind: str) -> dict[str, int]:
        """Bytes of the page, its styles, scripts and pictures, without fonts and MathJax; `kind` "sent" or "bytes"."""
        weights = dict.fromkeys(("html", "css", "js", "images"), 0)
        for file in self.measured["files"]:
            ending = re.search(r"\.(\w+)$", file["url"])
            ending = ending.group(1) if ending else ""
            if "/mathjax/" in file["url"] or ending in ("woff", "woff2", "ttf"):
                continue
            weights[ending if ending in weights else "images" if ending in ("png", "webp", "svg", "jpg") else "js"] += file[kind]
        return weights


def ready(page) -> None:
    """Waits until scripts, formulas and fonts are done, then scrolls to the end and back, so that every picture is there."""
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate("document.fonts.ready")
    page.evaluate("""async () => {
        const frame = () => new Promise(requestAnimationFrame);
        for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight) { scrollTo(0, y); await frame(); }
        const images = Array.from(document.images).filter((image) => image.checkVisibility());
        await Promise.race([Promise.all(images.map((image) => image.decode().catch(() => null))),
                            new Promise((resolve) => setTimeout(resolve, 5000))]);
        scrollTo(0, 0); await frame(); await frame();
    }""")


def turn(page, theme: str) -> None:
    """As when the system's own theme changes, without the theme's slow fades."""
    page.add_style_tag(content="* { transition: none !important; }")
    page.emulate_media(color_scheme=theme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")


def thin_out(page) -> None:
    """Makes axe-core's work a tenth: a kind of word in code is judged once, and the boxes that formulas are drawn with never."""
    page.evaluate("""() => {
        const kinds = new Set(), twice = [];
        for (const span of document.querySelectorAll("pre span")) {
            const kind = `${span.className} in ${span.closest("div").parentElement.className}`;
            if (kinds.has(kind)) twice.push(span); else kinds.add(kind);
        }
        twice.forEach((span) => span.replaceWith(...span.childNodes));
        document.querySelectorAll("mjx-math").forEach((drawn) => drawn.remove());
    }""")


@pytest.fixture(scope="module", params=[(name, width) for name in PAGES for width in WIDTHS],
                ids=lambda p: f"{p[0].split('/')[-1]}-{p[1]}")
def visit(request, chromium, site) -> Visit:
    """A page of the book, looked at once."""
    name, width = request.param
    visit = Visit(name, width)
    page = watched_page(chromium, site, visit.problems, width, "light")
    try:
        page.goto(f"{site}/{name}.html", wait_until="load")
        ready(page)
        visit.measured = page.evaluate(MEASURE)
        turn(page, "dark")
        visit.in_the_dark = page.evaluate(MEASURE)
        thin_out(page)
        visit.violations["dark"] = AXE.run(page, options=AXE_OPTIONS | COLOURS).response["violations"]
        turn(page, "light")
        visit.violations["light"] = AXE.run(page, options=AXE_OPTIONS | WIDTHS[width]).response["violations"]
    finally:
        page.context.close()
    request.config.stash[REPORT].append(visit)
    return visit


def test_loads_without_a_fault(visit):
    assert visit.problems == []


def test_nothing_is_cut_off(visit):
    """The page is no wider than the window; what is wider scrolls inside its own box."""
    for measured in (visit.measured, visit.in_the_dark):
        assert measured["cut"] == []
        assert measured["wide"] <= measured["view"]


def test_accessible(visit):
    """axe-core finds nothing serious or critical."""
    found = [f"{theme}: {fault['id']} ({fault['impact']}): {node['target'][0]} {node['html'][:120]}"
             for theme, faults in visit.violations.items() for fault in faults
             if fault["impact"] in ("serious", "critical") for node in fault["nodes"]]
    assert found == []


def test_pictures_fit_their_place(visit):
    """They came, have words, say their size, and are not much larger than what is shown of them; charts have a caption."""
    for image in visit.measured["images"]:
        assert image["natural"] > 0, f"did not load: {image['source']}"
        assert image["words"], f"no words: {image['source']}"
        assert image["sized"], f"no width and height: {image['source']}"
        assert image["caption"] or "_images/" not in image["source"], f"no caption: {image['source']}"
        if visit.width == 1280 and not image["source"].endswith(".svg"):
            assert image["natural"] <= 2.5 * image["width"], f"larger than its place: {image}"


def test_nothing_jumps(visit):
    """Cumulative layout shift, of loading and of scrolling through."""
    assert visit.measured["shift"] < 0.1, visit.measured["jumped"]


def test_light_enough(visit):
    """As it is sent, and unpacked too, with all its pictures."""
    for kind in ("sent", "bytes"):
        assert sum(visit.weight(kind).values()) < 1.5 * MEGABYTE, visit.weight(kind)


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """The ids on a page of the built book."""
    return frozenset(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf8")) if path.suffix == ".html" else ())


def test_links_lead_somewhere(visit, site):
    lost = []
    for link in dict.fromkeys(visit.measured["links"]):
        url, fragment = urldefrag(link)
        path = HTML / unquote(url.removeprefix(f"{site}/"))
        if url.startswith(site) and not (path.is_file() and (not fragment or unquote(fragment) in anchors(path))):
            lost.append(link)
    assert lost == []
