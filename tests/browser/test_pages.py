"""Every page of the book in a real Chromium, on a telephone and a laptop, in the light, and some in the dark; FULL=1: all.

A page is visited once for each width, measured (measure.js, axe-core), turned dark and measured again; then it is asked
for everything that may be wrong with it. The report at the end of the run is printed by conftest.py.
"""

import functools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from axe_playwright_python.sync_playwright import Axe
from built import HTML, PAGES

from .conftest import SEEN, watched_page

FULL = bool(os.environ.get("FULL"))
# Diagrams, formulas, charts, tables, code, the explorer: what has colours of its own.
DARK = PAGES if FULL else ["notebooks/12_frontdoor", "notebooks/08_evaluation", "notebooks/06_contrast", "book/simulator", "book/live",
                           "book/differences", "book/api"]
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


def look(name: str, width: int, chromium, site) -> Visit:
    """A look at a page of the book."""
    visit = Visit(name, width)
    page = watched_page(chromium, site, visit.problems, width, "light")
    try:
        page.goto(f"{site}/{name}.html", wait_until="load")
        ready(page)
        visit.measured = page.evaluate(MEASURE)
        if name in DARK:
            turn(page, "dark")
            visit.in_the_dark = page.evaluate(MEASURE)
        thin_out(page)
        if name in DARK:
            visit.violations["dark"] = AXE.run(page, options=AXE_OPTIONS | COLOURS).response["violations"]
            turn(page, "light")
        visit.violations["light"] = AXE.run(page, options=AXE_OPTIONS | WIDTHS[width]).response["violations"]
    finally:
        page.context.close()
    return visit


def cut_off(visit):
    """What is wider than the window, and does not scroll inside a box of its own."""
    for measured in filter(None, (visit.measured, visit.in_the_dark)):
        yield from (f"cut off: {what}" for what in measured["cut"])
        yield from (f"a formula has to scroll: {what}" for what in measured["formulas"])
        if measured["wide"] > measured["view"]:
            yield f"the page is {measured['wide']} pixels wide, the window {measured['view']}"


def inaccessible(visit):
    """What axe-core finds serious or critical."""
    for theme, found in visit.violations.items():
        for fault in (fault for fault in found if fault["impact"] in ("serious", "critical")):
            yield from (f"{theme}: {fault['id']} ({fault['impact']}): {node['target'][0]} {node['html'][:120]}"
                        for node in fault["nodes"])


def wrong_pictures(visit):
    """Pictures came, have words, say their size, and are not much larger than what is shown of them; charts have a caption."""
    for image in visit.measured["images"]:
        chart, drawn = "_images/" in image["source"], image["source"].endswith(".svg")
        for right, wrong in ((image["natural"] > 0, "did not load"), (image["words"], "no words"),
                             (image["sized"], "no width and height"), (image["caption"] or not chart, "no caption"),
                             (visit.width != 1280 or drawn or image["natural"] <= 2.5 * image["width"], "larger than its place")):
            if not right:
                yield f"{wrong}: {image['source']}"


def jumps(visit):
    """Cumulative layout shift, of loading and of scrolling through."""
    if visit.measured["shift"] >= 0.1:
        yield f"jumps by {visit.measured['shift']:.2f}: {visit.measured['jumped']}"


def too_heavy(visit):
    """As it is sent, and unpacked too, with all its pictures."""
    for kind in ("sent", "bytes"):
        if sum(visit.weight(kind).values()) >= 1.5 * MEGABYTE:
            yield f"{kind}: {visit.weight(kind)}"


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """The ids on a page of the built book."""
    return frozenset(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf8")) if path.suffix == ".html" else ())


def dead_links(visit, site):
    for link in dict.fromkeys(visit.measured["links"]):
        url, fragment = urldefrag(link)
        path = HTML / unquote(url.removeprefix(f"{site}/"))
        if url.startswith(site) and not (path.is_file() and (not fragment or unquote(fragment) in anchors(path))):
            yield f"leads nowhere: {link}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(name, width, chromium, site, record_property):
    visit = look(name, width, chromium, site)
    measured = visit.measured
    record_property(SEEN, {
        "name": name, "links": len(set(measured["links"])), "figures": measured["figures"], "exercises": measured["exercises"],
        "sent": visit.weight("sent"), "bytes": sum(visit.weight("bytes").values()), "shift": measured["shift"],
        "faults": [f"{fault['impact']}: {fault['id']}" for found in visit.violations.values() for fault in found
                   for _ in fault["nodes"]]})
    assert [*visit.problems, *cut_off(visit), *inaccessible(visit), *wrong_pictures(visit), *jumps(visit), *too_heavy(visit),
            *dead_links(visit, site)] == []
