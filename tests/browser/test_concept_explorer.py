"""The concept explorer under mouse, finger and keys: what it shows is what the library counts. No book is needed."""

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from cause_book.explorer import explorer_data, explorer_html
from cause_book.granularity import segments
from cause_book.usage import neighbours
from cause_lib.clusterbook import Clusterbook

ROWS, COLUMNS = 4, 6
NAMES = ["first", "second"]
CENTRE = 2 * COLUMNS + 3
CLASSES, COLORS = ["sky", "road"], np.array([[86, 180, 233], [230, 159, 0]], dtype=np.uint8)


@pytest.fixture(scope="module")
def world():
    """Two made-up pictures, their tokens and two clusterbooks with thresholds."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8 * ROWS, 8 * COLUMNS, generator=random)
    tokens = torch.randn(2, ROWS * COLUMNS, 5, generator=random) + 0.5
    books = {"published": (Clusterbook(torch.randn(9, 5, generator=random)), (0.3, 0.1)),
             "alive": (Clusterbook(torch.randn(30, 5, generator=random)), (0.8, -0.2))}
    return images, tokens, books


@pytest.fixture(scope="module")
def labels():
    """Of both pictures, (2, h, w): sky above, road below, and a column without labels."""
    ids = torch.zeros(2, 8 * ROWS, 8 * COLUMNS, dtype=torch.int64)
    ids[:, 16:], ids[:, :, :8] = 1, -1
    return ids


@pytest.fixture(scope="module")
def address(world, labels, tmp_path_factory):
    """A page with two explorers of these pictures."""
    images, tokens, books = world
    text = explorer_html(explorer_data(images, tokens, books, (ROWS, COLUMNS), shown=[0, 1], names=NAMES,
                                       labels=(labels, CLASSES, COLORS)))
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>'
                    f'<meta name="viewport" content="width=device-width"></head><body><main>{text}{text}</main></body>')
    return path.as_uri()


@pytest.fixture
def opened(chromium, address):
    """`opened(width, **options)`: the page in a fresh context; errors of its script fail the test that opened it."""
    contexts, errors = [], []

    def opened(width=1280, at="", **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(address + at)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def said(page, explorer=0) -> dict:
    """What an explorer says it shows; numbers as numbers."""
    found = page.locator(".concept-explorer").nth(explorer).evaluate("root => ({...root.dataset})")
    return {name: int(value) if value.lstrip("-").isdigit() else value for name, value in found.items()}


def counted(world, picture, anchor, book, positive, negative) -> dict:
    """The same as the library has it."""
    _, tokens, books = world
    library = books[book][0]
    concepts = library.assign(tokens[picture:picture + 1])
    similarity = library.similarity.double().clamp(-1, 1).fill_diagonal_(1)
    pulled, pushed = (int(count[0, anchor]) for count in neighbours(concepts, similarity, positive, negative))
    return {"picture": picture, "anchor": anchor, "book": book, "concept": int(concepts[0, anchor]), "positive": pulled,
            "negative": pushed, "ignored": ROWS * COLUMNS - 1 - pulled - pushed}


def holds(found: dict, wanted: dict) -> bool:
    return found.items() >= wanted.items()


def part(page, selector):
    return page.locator(".concept-explorer").first.locator(selector)


def cell(page, patch):
    return part(page, f'[role="gridcell"][data-patch="{patch}"]')


def slide(page, name, value):
    part(page, f'input[name="{name}"]').evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value)


def test_begins_at_the_middle_with_the_thresholds_of_the_run(opened, world):
    page = opened()
    assert holds(said(page), counted(world, 0, CENTRE, "published", 0.3, 0.1))
    assert said(page) == said(page, 1)


def test_mouse_looks_and_a_click_keeps(opened, world):
    page = opened()
    cell(page, 1).hover()
    assert holds(said(page), counted(world, 0, 1, "published", 0.3, 0.1)) and said(page)["kept"] == CENTRE
    page.mouse.move(2, 2)
    assert said(page)["anchor"] == CENTRE
    cell(page, 8).click()
    page.mouse.move(2, 2)
    assert holds(said(page), counted(world, 0, 8, "published", 0.3, 0.1)) and said(page)["kept"] == 8
    assert said(page, 1)["anchor"] == CENTRE  # the other explorer has a mind of its own


def test_a_finger_keeps_at_once(opened, world):
    page = opened(390, has_touch=True, is_mobile=True)
    cell(page, 5).tap()
    assert holds(said(page), counted(world, 0, 5, "published", 0.3, 0.1)) and said(page)["kept"] == 5


def test_keys_walk_over_the_picture(opened, world):
    page = opened()
    assert part(page, '[role="gridcell"][tabindex="0"]').count() == 1
    part(page, '[role="gridcell"][tabindex="0"]').focus()
    ways = {"ArrowRight": CENTRE + 1, "ArrowUp": CENTRE + 1 - COLUMNS, "Home": COLUMNS, "ArrowLeft": COLUMNS,
            "End": 2 * COLUMNS - 1, "ArrowDown": 3 * COLUMNS - 1, "Control+Home": 0, "Control+End": ROWS * COLUMNS - 1,
            "PageUp": COLUMNS - 1}
    for key, anchor in ways.items():
        page.keyboard.press(key)
        assert holds(said(page), counted(world, 0, anchor, "published", 0.3, 0.1)), key
        assert cell(page, anchor).evaluate("cell => cell === cell.getRootNode().activeElement && !cell.tabIndex"), key
    assert part(page, '[role="gridcell"][tabindex="0"]').count() == 1
    page.keyboard.press("Tab")  # one stop, then on
    assert part(page, '[name="positive"]').evaluate("slider => slider === slider.getRootNode().activeElement")


def test_sliders_recolour_and_never_cross(opened, world):
    page = opened()
    slide(page, "positive", 0.55)
    assert holds(said(page), counted(world, 0, CENTRE, "published", 0.55, 0.1))
    slide(page, "negative", 0.7)
    assert part(page, '[name="positive"]').input_value() == part(page, '[name="negative"]').input_value() == "0.7"
    assert holds(said(page), counted(world, 0, CENTRE, "published", 0.7, 0.7))
    slide(page, "positive", -0.4)
    assert part(page, '[name="negative"]').input_value() == "-0.4"
    found = said(page)
    assert holds(found, counted(world, 0, CENTRE, "published", -0.4, -0.4))
    for relation in ("positive", "ignored", "negative"):
        assert part(page, f'[role="gridcell"][data-relation="{relation}"]').count() == found[relation]
        assert part(page, f'[data-count="{relation}"]').inner_text() == str(found[relation])
    part(page, '[name="positive"]').focus()
    page.keyboard.press("ArrowRight")
    assert holds(said(page), counted(world, 0, CENTRE, "published", -0.39, -0.4))
    part(page, "button").click()
    assert holds(said(page), counted(world, 0, CENTRE, "published", 0.3, 0.1))


def test_other_picture_other_clusterbook(opened, world):
    page = opened()
    cell(page, 7).click()
    part(page, 'input[name="picture"][value="1"]').check()
    assert holds(said(page), counted(world, 1, 7, "published", 0.3, 0.1))
    part(page, 'input[name="book"][value="1"]').check()
    assert holds(said(page), counted(world, 1, 7, "alive", 0.8, -0.2))


def test_it_speaks(opened, world):
    page = opened()
    cell(page, 9).click()
    found, status = said(page), part(page, '[role="status"]').inner_text()
    for name in ("concept", "positive", "ignored", "negative"):
        assert f"{found[name]}" in status
    words = cell(page, 9).get_attribute("aria-label")
    assert words == f"row 2, column 4, concept {found['concept']}, anchor"
    assert cell(page, 9).get_attribute("aria-selected") == "true"
    assert "first" in part(page, '[role="grid"]').get_attribute("aria-label")
    assert part(page, ".nearest li").count() == 6
    numbers = part(page, ".nearest li").evaluate_all("lines => lines.map((line) => Number(line.dataset.concept))")
    assert found["concept"] not in numbers and len(set(numbers)) == 6


@pytest.mark.parametrize("width", [390, 1280])
def test_no_wider_than_the_page(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = part(page, ".picture").bounding_box()
    assert box["height"] == pytest.approx(box["width"] * ROWS / COLUMNS, abs=2)


def test_it_starts_where_a_notebook_puts_it(opened, world):
    """Notebooks set the HTML of a box, which runs no script, and then make each script again."""
    page = opened()
    assert page.evaluate("""() => {
        const box = document.createElement("div");
        box.innerHTML = document.querySelector(".concept-explorer").outerHTML;
        box.firstElementChild.removeAttribute("data-ready");
        document.body.append(box);
        for (const old of box.querySelectorAll("script")) {
            const script = document.createElement("script");
            for (const { name, value } of old.attributes) script.setAttribute(name, value);
            script.textContent = old.textContent;
            old.replaceWith(script);
        }
        return box.firstElementChild.shadowRoot !== null;
    }""")
    assert holds(said(page, 2), counted(world, 0, CENTRE, "published", 0.3, 0.1))


def joined(world, picture, book, positive) -> list[int]:
    """Segments of a picture's patches as the library joins them, the largest first."""
    concepts = world[2][book][0].assign(world[1][picture:picture + 1])[0]  # (n,)
    there = concepts.unique()
    similarity = world[2][book][0].similarity.double()[there][:, there].fill_diagonal_(1)
    of = segments(similarity, positive)[torch.searchsorted(there, concepts).numpy()]  # (n,)
    sizes, first = np.bincount(of), [int(np.flatnonzero(of == segment)[0]) for segment in range(of.max() + 1)]
    order = sorted(range(len(sizes)), key=lambda segment: (-sizes[segment], first[segment]))
    return [order.index(segment) for segment in of]


@pytest.mark.parametrize("book, positive", [("published", 0.3), ("published", 0.6), ("alive", 0.35), ("alive", 0.8)])
def test_segments_are_the_librarys(book, positive, opened, world):
    page = opened()
    part(page, f'input[name="book"][value="{["published", "alive"].index(book)}"]').check()
    part(page, 'input[name="view"][value="1"]').check()
    slide(page, "positive", positive)
    wanted = joined(world, 0, book, positive)
    found = said(page)
    assert (found["view"], found["segments"], found["segment"]) == ("segments", len(set(wanted)), wanted[CENTRE])
    shown = part(page, '[role="gridcell"]').evaluate_all("cells => cells.map((cell) => cell.dataset.segment ?? null)")
    assert [None if x == CENTRE else str(segment % 8) for x, segment in enumerate(wanted)] == shown
    same = part(page, '[role="gridcell"]').evaluate_all("cells => cells.map((cell) => 'same' in cell.dataset)")
    assert same == [segment == wanted[CENTRE] and x != CENTRE for x, segment in enumerate(wanted)]
    size = wanted.count(wanted[CENTRE])
    assert f"Segment {wanted[CENTRE] + 1} of {len(set(wanted))}: {size} patch" in part(page, '[role="status"]').inner_text()
    assert f"segment {wanted[0] + 1}" in cell(page, 0).get_attribute("aria-label")
    for x in range(COLUMNS, ROWS * COLUMNS):
        cut = cell(page, x).get_attribute("data-cut") or ""
        assert x == CENTRE or ("top" in cut) == (wanted[x] != wanted[x - COLUMNS])


def test_phi_plus_joins_segments_until_one_is_left(opened):
    page = opened(at="#view=segments")
    counts = []
    for positive in (1, 0.5, 0, -1):
        slide(page, "positive", positive)
        counts.append(said(page)["segments"])
    assert counts == sorted(counts, reverse=True) and counts[0] > 1 == counts[-1]


def test_labels_lie_over_the_picture_and_segments_are_lines(opened, labels):
    page = opened()
    assert not part(page, ".mask").is_visible()
    part(page, 'input[name="view"][value="2"]').check()
    mask, picture = part(page, ".mask").bounding_box(), part(page, ".picture > img").first.bounding_box()
    assert all(abs(mask[side] - picture[side]) < 1 for side in mask)
    assert part(page, ".mask").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8 * COLUMNS
    assert part(page, '[role="gridcell"][data-segment]').count() == 0
    legend = part(page, '.legend[data-view="labels"] li').all_inner_texts()
    centres = labels[0, 4::8, 4::8]
    assert sorted(line.split() for line in legend) == [["road", str(int((centres == 1).sum()))], ["sky", str(int((centres == 0).sum()))]]
    assert cell(page, 0).get_attribute("aria-label").endswith("no label") and cell(page, 1).get_attribute("aria-label").endswith("sky")
    assert "The anchor's label: road." in part(page, '[role="status"]').inner_text()


def test_without_labels_there_is_no_view_of_them(world, chromium, tmp_path):
    images, tokens, books = world
    path = tmp_path / "page.html"
    path.write_text(explorer_html(explorer_data(images, tokens, books, (ROWS, COLUMNS), shown=[0, 1], names=NAMES)))
    page = chromium.new_page()
    page.goto(path.as_uri() + "#view=labels")
    assert part(page, 'input[name="view"]').count() == 2 and said(page)["view"] == "relations"
    page.close()


def test_the_address_holds_the_state_of_the_first_explorer_and_restores_it(opened):
    page = opened()
    part(page, 'input[name="picture"][value="1"]').check()
    part(page, 'input[name="book"][value="1"]').check()
    part(page, 'input[name="view"][value="1"]').check()
    slide(page, "positive", 0.45)
    cell(page, 9).click()
    page.mouse.move(2, 2)
    page.wait_for_function("() => location.hash === '#picture=1&book=alive&patch=9&plus=45&view=segments'")
    other = opened(at="#" + page.url.split("#")[1])
    assert said(other) == said(page) and said(other, 1)["view"] == "relations"
    assert part(other, 'input[name="book"][value="1"]').is_checked() and part(other, 'input[name="positive"]').input_value() == "0.45"
    page.evaluate("location.hash = ''")
    page.wait_for_function("() => document.querySelector('.concept-explorer').dataset.view === 'relations'")
    assert said(page) == said(opened()) == said(opened(at="#picture=7&book=nobody&patch=x&plus=101&view=no"))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("view", ["relations", "segments", "labels"])
def test_every_view_fits_and_axe_finds_nothing_serious(width, view, opened):
    page = opened(width, at=f"#view={view}")
    assert said(page)["view"] == view and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in (".right", ".own", ".nearest"):
        assert part(page, name).evaluate("element => element.scrollWidth <= element.clientWidth"), name
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")] == []
