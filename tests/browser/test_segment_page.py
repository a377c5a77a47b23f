"""The page of `python -m cause_lib.segment --serve`: a picture is chosen or dropped, and its mask is seen."""

import threading

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from cause_lib.backbones import load_backbone
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe
from cause_lib.runs.serve import make_server
from cause_lib.segmenter import Segmenter

from .conftest import watched_page


@pytest.fixture(scope="module")
def address():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segment = Segmenter(load_backbone("bundled"), MLPHead(192, 8).eval(), ClusterProbe(3, 8), image_size=48,
                            classes=["sky", "<i>grass</i>", "a house of a name that is longer than most lines are"],
                            colors=[[90, 150, 230], [60, 140, 50], [210, 60, 40]], assignment=[0, 1, 2])
    with make_server(segment, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def open_page(chromium, address, problems):
    pages = []

    def make(width, theme, **options):
        pages.append(watched_page(chromium, address, problems, width, theme, **options))
        pages[-1].goto(address)
        pages[-1].wait_for_function("() => document.getElementById('about').textContent.startsWith('3 classes')")
        return pages[-1]

    yield make
    for page in pages:
        page.context.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "my picture.png"
    ids = np.zeros((300, 420), dtype=int)
    ids[150:], ids[75:150, :210] = 1, 2
    colors = np.array([[90, 150, 230], [60, 140, 50], [210, 60, 40]])[ids] + np.random.default_rng(0).integers(
        -20, 20, (300, 420, 3))
    Image.fromarray(colors.clip(0, 255).astype(np.uint8)).save(path)
    return path


def wait_for(page, said):
    page.wait_for_function("text => document.getElementById('said').textContent.includes(text)", arg=said)


@pytest.mark.parametrize("width, theme", [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_a_picture_and_its_mask(width, theme, open_page, picture, problems):
    page = open_page(width, theme)
    assert page.locator("#result").is_hidden()
    page.set_input_files("#file", picture)
    wait_for(page, "my picture.png: 420 × 300 pixels")
    lines = page.locator("#shares li").all_inner_texts()
    assert lines and all("%" in line for line in lines) and page.locator("#shares li span i").count() == 0
    page.wait_for_function("() => [...document.querySelectorAll('#stage img')].every(img => img.complete && img.naturalWidth)")
    boxes = [page.locator(name).bounding_box() for name in ("#picture", "#mask")]
    assert all(abs(boxes[0][key] - boxes[1][key]) < 1 for key in boxes[0]) and boxes[0]["width"] > 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_attribute("#save", "download") == "my picture.png"
    before = page.get_attribute("#mask", "src")
    page.focus("#crf")
    page.keyboard.press("Space")
    wait_for(page, "with the CRF")
    assert page.get_attribute("#mask", "src") != before
    page.focus("#opacity")
    page.keyboard.press("Home")
    assert page.eval_on_selector("#mask", "img => getComputedStyle(img).opacity") == "0"
    assert page.get_attribute("#opacity", "aria-valuetext") == "0 percent opaque"
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [each["id"] for each in found] == []
    assert problems == []


def test_dropped_and_refused(open_page, picture, problems):
    page = open_page(1280, "light")
    drop = """async ([content, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(content)], name));
      document.getElementById('drop').dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}));
    }"""
    page.evaluate(drop, [list(picture.read_bytes()), "dropped.png"])
    wait_for(page, "dropped.png: 420 × 300 pixels")
    assert problems == []
    page.evaluate(drop, [[1, 2, 3], "text.png"])
    wait_for(page, "This picture cannot be read")
    assert page.locator("#result").is_hidden() and page.get_attribute("#said", "class") == "bad"
    assert len(problems) == 2 and all("400" in problem for problem in problems)  # what the browser says of the answer


def test_by_keyboard(open_page):
    page = open_page(390, "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.eval_on_selector("#drop", "label => getComputedStyle(label).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "crf"
