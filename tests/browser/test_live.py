"""The live page in a real Chromium: it loads nothing unasked, has the library's numbers, and follows hand and keys."""

import io

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from live_network import RECORD, agreement, library
from PIL import Image

from cause_lib.data.scenes import draw_scene

PAGE = "book/live.html"
HEAVY = ("model.onnx", "ort.js", "ort.wasm.gz", "scene.png", "live.json", "live-worker.js")


def begin(page, address=""):
    """Opens the page, presses the button, and waits until it rests."""
    if address:
        page.goto(address)
    page.locator(".live .begin").click()
    page.wait_for_function("document.querySelector('.live').dataset.rested")


def shown(page) -> dict:
    """What the page last computed, and of which pixels; masks one after the other."""
    return page.evaluate("""() => { const { pixels, found, state } = document.querySelector(".live").live;
        return { pixels: Array.from(pixels), concepts: Array.from(found.concepts), masks: Array.from(found.masks),
                 things: state.things, ms: found.ms }; }""")


def act(page, action) -> dict:
    """What the page shows once it rests after `action`."""
    before = page.evaluate("Number(document.querySelector('.live').dataset.frame)")
    action()
    page.wait_for_function("before => { const { rested, frame } = document.querySelector('.live').dataset;"
                           " return Number(frame) > before && rested === frame; }", arg=before)
    return shown(page)


def parity(seen) -> dict[str, float]:
    size = RECORD["scene"]["size"]
    pixels = np.array(seen["pixels"], dtype=np.uint8).reshape(size, size, 4)
    found = np.array(seen["concepts"]), np.array(seen["masks"]).reshape(2, size, size)
    return agreement(found, library()(pixels))


@pytest.fixture(scope="module")
def opened(chromium, site):
    """The running page of a laptop, for the tests that only move things."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    begin(page, f"{site}/{PAGE}")
    yield page
    page.close()


@pytest.mark.parametrize("width, theme", [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_it_loads_what_is_asked_for_and_fits(width, theme, new_page, site, problems):
    page, asked = new_page(width, theme), []
    page.on("request", lambda request: asked.append(request.url.split("/")[-1]))
    page.goto(f"{site}/{PAGE}", wait_until="load")
    page.mouse.wheel(0, 3000)
    page.wait_for_timeout(500)
    assert "live.js" in asked and not {*HEAVY} & {*asked}
    begin(page)
    assert {*HEAVY} <= {*asked} and problems == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for part in page.locator(".live :is(canvas, button, input, li, figcaption)").all():
        box = part.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= width)
    found = Axe().run(page, context=".live", options={"resultTypes": ["violations"], "preload": False}).response
    assert [fault["id"] for fault in found["violations"] if fault["impact"] in ("serious", "critical")] == []


def test_the_numbers_are_the_librarys(opened, tmp_path, record_property):
    pytest.importorskip("onnx")
    for name in RECORD["scene"]["weathers"]:
        seen = act(opened, lambda: opened.get_by_role("button", name=name, exact=True).click())
        assert min(parity(seen).values()) >= 0.99, name
    record_property("milliseconds a frame", seen["ms"])
    image, _ = draw_scene(3, "val", RECORD["scene"]["size"])
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    file = {"name": "own.png", "mimeType": "image/png", "buffer": stream.getvalue()}
    seen = act(opened, lambda: opened.locator(".live input[type=file]").set_input_files(file))
    assert np.array_equal(np.array(seen["pixels"]).reshape(*image.shape[:2], 4)[..., :3], image)
    assert min(parity(seen).values()) >= 0.99
    act(opened, lambda: opened.get_by_role("button", name="First scene").click())


def test_hand_and_keys_move_a_thing_and_the_mask_follows(opened):
    before = shown(opened)
    opened.get_by_role("button", name="car", exact=True).click()
    opened.get_by_role("button", name="car", exact=True).press("Shift+ArrowUp")
    after = act(opened, lambda: opened.keyboard.press("Shift+ArrowUp"))
    (x, y, size), moved = before["things"]["car"], after["things"]["car"]
    assert moved == [x, y - 20, size] and after["masks"] != before["masks"] and after["concepts"] != before["concepts"]
    assert act(opened, lambda: opened.keyboard.press("-"))["things"]["car"] == [x, y - 20, size - 10]
    box, side = opened.locator("canvas.scene").bounding_box(), RECORD["scene"]["size"]
    x, y, _ = after["things"]["tree"]
    at = [box["x"] + x / side * box["width"], box["y"] + (y - 50) / side * box["height"]]

    def drag():
        opened.mouse.move(*at)
        opened.mouse.down()
        opened.mouse.move(at[0] + box["width"] / 4, at[1], steps=4)
        opened.mouse.up()

    dragged = act(opened, drag)["things"]["tree"]
    assert abs(dragged[0] - x - side / 4) <= 1 and dragged[1] == y
    assert opened.locator('.things [aria-pressed="true"]').inner_text() == "tree"
    assert "tree" in opened.locator(".says").inner_text()


def test_a_finger_moves_a_thing(new_page, site, problems):
    page = new_page(390, "light", has_touch=True, is_mobile=True)
    begin(page, f"{site}/{PAGE}")
    canvas = page.locator("canvas.scene")
    canvas.scroll_into_view_if_needed()
    (x, y, _), box, side = shown(page)["things"]["person"], canvas.bounding_box(), RECORD["scene"]["size"]
    at, scrolled = [box["x"] + x / side * box["width"], box["y"] + (y - 40) / side * box["height"]], "scrollY"
    before, session = page.evaluate(scrolled), page.context.new_cdp_session(page)

    def drag():
        for kind, up in (("touchStart", 0), ("touchMove", 10), ("touchMove", 40), ("touchEnd", None)):
            points = [] if up is None else [{"x": at[0], "y": at[1] - up}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    moved = act(page, drag)["things"]["person"]
    assert moved[0] == x and abs(y - moved[1] - 40 / box["height"] * side) <= 1
    assert page.evaluate(scrolled) == before and problems == []


def test_the_address_keeps_the_scene(opened, site):
    changed = act(opened, lambda: opened.get_by_role("button", name="snow", exact=True).click())
    assert "weather=snow" in opened.url
    opened.reload()
    begin(opened)
    again = shown(opened)
    assert again["things"] == changed["things"] and again["pixels"] == changed["pixels"]
    assert opened.locator('.weathers [aria-pressed="true"]').inner_text() == "snow"
    act(opened, lambda: opened.get_by_role("button", name="First scene").click())


def test_what_is_no_picture_is_refused_in_a_sentence(opened):
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    opened.locator(".live input[type=file]").set_input_files(file)
    opened.wait_for_function("document.querySelector('.live .says').textContent.includes('notes.txt is not a picture')")


def test_without_the_network_it_says_so(new_page, site):
    page = new_page(390, "light")
    page.route("**/model.onnx", lambda route: route.abort())
    page.goto(f"{site}/{PAGE}")
    page.locator(".live .begin").click()
    page.wait_for_function("document.querySelector('.live .says').textContent.includes('could not be loaded')")
    assert page.locator(".live .begin").is_enabled()
