"""Diagrams: well-formed, said in words, in the page's ink, one language everywhere; pages include what is drawn."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from book import draw
from cause_book import diagrams
from cause_book.plots import PALETTE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book/_static/diagrams"
SVG = "{http://www.w3.org/2000/svg}"
CAPTIONS = {"U": "level <hidden>", "T": "two\nlines", "M": "a & b", "Y": "outcome"}
DRAWN = {
    "graph": diagrams.causal_graph(CAPTIONS, title="What acts on what"),
    "bypass": diagrams.causal_graph(CAPTIONS, forbidden={"TY": "around it"}),
    "assumed": diagrams.causal_graph(CAPTIONS, absent=("UM", "TY")),
    "MLP": diagrams.mlp_head(), "TR": diagrams.tr_head(), "wide": draw.pipeline(4), "narrow": draw.pipeline(2),
    "labels 2": draw.labels_in_step_2(), "labels 3": draw.labels_in_step_3(),
}


INCLUDING = "".join(path.read_text(encoding="utf8") for path in (
    *(ROOT / "book").glob("*.md"), ROOT / "_config.yml", ROOT / "book/_ext/pages.py"))


@pytest.fixture(scope="module")
def pictures():
    return draw.page_pictures()


def words(element) -> str:
    return " ".join("".join(text.itertext()) for text in element.iter(f"{SVG}text"))


@pytest.mark.parametrize("name", DRAWN)
def test_it_is_well_formed_and_says_what_it_shows(name):
    root = ET.fromstring(DRAWN[name])
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
    assert root[0].text and len(root[1].text) > 60
    assert not [element.get("id") for element in root.iter() if element.get("id")]  # a page may hold it twice


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_fixed_to_black_or_white_and_letters_take_the_pages_colour(name):
    assert not re.search(r"#(?:000|fff)(?:000|fff)?\b|\b(?:black|white)\b", DRAWN[name], re.IGNORECASE)
    root = ET.fromstring(DRAWN[name])
    assert root.get("fill") == "currentColor"
    lettering = {text.get("fill", "currentColor") for text in root.iter(f"{SVG}text")}
    # names of classes stand on colours that are the same in both themes
    assert lettering == ({"currentColor", "#222222"} if name in ("wide", "narrow") else {"currentColor"})


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_lies_outside(name):
    root = ET.fromstring(DRAWN[name])
    left, top, width, height = map(float, root.get("viewBox").split())
    for text in root.iter(f"{SVG}text"):
        size, lines = float(text.get("font-size")), text.findall(f"{SVG}tspan") or [text]
        wide = 0.56 * size * max(len("".join(line.itertext())) for line in lines)  # a letter's usual width and more
        x, y = float(text.get("x")), float(text.get("y"))
        start = x - wide * {"start": 0, "middle": 0.5}[text.get("text-anchor")]
        assert left - 6 <= start and start + wide <= left + width + 6, "".join(text.itertext())
        assert top <= y - 0.8 * size and y + 18 * (len(lines) - 1) + 0.2 * size <= top + height


def test_a_graph_has_its_captions_arrows_and_colours():
    root = ET.fromstring(DRAWN["bypass"])
    for caption in CAPTIONS.values():
        for line in caption.split("\n"):
            assert line in words(root)
    assert "around it" in words(root) and "T also acts on Y: around it" in root[1].text
    assert [group.get("data-edge") for group in root.iter() if group.get("data-edge")] == ["UT", "UY", "TM", "MY", "TY"]
    for group in root.iter(f"{SVG}g"):
        if name := group.get("data-node"):
            assert group.findall(f"{SVG}circle")[-1].get("stroke") == diagrams.NODES[name]
    assert DRAWN["bypass"].count(diagrams.WRONG) == 2 and diagrams.WRONG not in DRAWN["graph"]  # a line and its head


def test_what_is_assumed_away_is_dotted_and_crossed():
    root = ET.fromstring(DRAWN["assumed"])
    groups = {group.get("data-edge"): group for group in root.iter() if group.get("data-edge")}
    crossed = [edge for edge, group in groups.items() if group.find(f"{SVG}path[@class='cross']") is not None]
    assert crossed == ["UM", "TY"] and "U is assumed not to act on M. T is assumed not to act on Y." in root[1].text


def test_heads_and_pipeline_name_their_steps():
    for name in ("MLP", "TR"):
        assert "feature" in words(ET.fromstring(DRAWN[name]))
    for word in ("nearest prototype", "self-attention", "cross-attention", "feed-forward", "all tokens", "MLP head"):
        assert word.replace(" tokens", "tokens") in words(ET.fromstring(DRAWN["TR"]))
    for name in ("wide", "narrow"):
        shown = words(ET.fromstring(DRAWN[name]))
        steps = [step for step, *_ in draw.STEPS]
        assert [shown.index(step) for step in steps] == sorted(shown.index(step) for step in steps)
        assert all(group in shown for group in draw.GROUP_COLORS)


@pytest.mark.parametrize("name", DRAWN)
def test_text_can_be_read_on_a_page(name):
    """9 pixels or more on a laptop, where two diagrams of a figure stand side by side, and the pipeline alone."""
    root = ET.fromstring(DRAWN[name])
    place = {"wide": 688, "narrow": 358}.get(name, (688 - 24) / 2)
    scale = min(1, place / float(root.get("viewBox").split()[2]))
    assert min(float(text.get("font-size")) for text in root.iter(f"{SVG}text")) * scale >= 9


def test_the_four_variables_have_colours_of_their_own():
    colors = set(diagrams.NODES.values())
    assert len(colors) == 4 and colors < set(PALETTE.values()) - {diagrams.WRONG}
    for name in ("wide", "narrow"):
        assert all(diagrams.NODES[variable] in DRAWN[name] for variable in "TMY")


def test_a_figure_is_shown_by_notebooks():
    shown = diagrams.figure(DRAWN["MLP"], DRAWN["TR"], caption="Two < three")
    assert shown._repr_html_() == str(shown)
    root = ET.fromstring(shown)
    assert root.tag == "figure" and root.find("figcaption").text == "Two < three"
    assert len(root.findall(f".//{SVG}svg")) == 2


@pytest.mark.parametrize("file", draw.page_files())
def test_pages_include_what_is_drawn(file):
    assert (FOLDER / file).read_text(encoding="utf8") == draw.page_files()[file], (
        f"book/_static/diagrams/{file} is not what book/draw.py draws: "
        "run python book/draw.py book/_static/diagrams")
    assert f"_static/diagrams/{file}" in INCLUDING


@pytest.mark.parametrize(("file", "size", "most"), [("cover.png", (1032, 252), 60), ("social.png", (1200, 630), 150)])
def test_pictures_are_those_that_are_drawn(file, size, most, pictures):
    assert (FOLDER / file).stat().st_size < 1000 * most and f"_static/diagrams/{file}" in INCLUDING
    with Image.open(FOLDER / file) as picture:
        kept, drawn = (np.asarray(each.convert("RGB"), dtype=int) for each in (picture, pictures[file]))
    assert kept.shape == (*size[::-1], 3) and abs(kept - drawn).mean() < 2  # letters and colours of another Pillow


def test_no_file_is_left_over(pictures):
    assert {path.name for path in FOLDER.iterdir()} == {*draw.page_files(), *pictures}
