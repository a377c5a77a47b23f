"""The front-door simulator in a real Chromium: its numbers are the library's, and its controls do what they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from cause_book.frontdoor import StructuralModel, back_door, front_door, observational

ROOT = Path(__file__).resolve().parent.parent.parent
STRENGTHS = ("u_t", "u_y", "t_m", "m_y", "confounding", "bypass")
START = dict(zip((*STRENGTHS, "seen"), (100, 100, 100, 100, 0, 0, 100)))
SETTINGS = np.random.default_rng(0).integers([-20, 0, 0, 0, 0, 0, 10], 21, size=(20, 7)) * 5  # per cent



def expected(settings) -> dict[str, float]:
    """The effects of a setting (7,) in per cent, computed by the library."""
    model = StructuralModel.smoking(**dict(zip(STRENGTHS, settings[:6] / 100)))
    seen = settings[6] / 100
    tested = np.einsum("uw,utmy->wtmy", [[seen, 1 - seen], [1 - seen, seen]], model.joint())  # the test for the gene
    answers = {"naive": observational(model.observed()), "backdoor": back_door(tested),
               "frontdoor": front_door(model.observed()), "truth": model.interventional()}
    return {name: answer[1, 1] - answer[0, 1] for name, answer in answers.items()}


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["laptop", "telephone"], scope="module")
def opened(request, chromium, site):
    """The page, opened once for all tests of a screen."""
    width, theme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    context.set_default_timeout(15_000)
    # the page itself needs nobody: other hosts (a font, the formulas) would only slow the test down
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(site) else route.abort())
    page = context.new_page()
    page.goto(f"{site}/book/simulator.html", wait_until="domcontentloaded")
    yield page
    context.close()


@pytest.fixture
def page(opened):
    """The page as it is when somebody comes to it."""
    move(opened, **START)
    return opened


def shown(page) -> dict[str, float]:
    data = json.loads(page.locator(".simulator").evaluate("element => JSON.stringify(element.dataset)"))
    return {name: float(value) for name, value in data.items()}


def move(page, **percent):
    """Set sliders as a hand would: the value, then the event that a browser sends for it."""
    page.locator(".simulator").evaluate(
        """(root, percent) => { for (const [name, value] of Object.entries(percent)) {
               const slider = root.querySelector(`input[name=${name}]`);
               slider.value = value;
               slider.dispatchEvent(new Event("input", { bubbles: true }));
           } }""", {name: int(value) for name, value in percent.items()})


def test_the_numbers_are_the_librarys(page):
    for settings in SETTINGS:
        move(page, **dict(zip((*STRENGTHS, "seen"), settings)))
        assert shown(page) == pytest.approx(expected(settings), rel=0, abs=1e-12)


def test_it_starts_as_chapter_1_and_every_button_leads_somewhere_and_back(page):
    presets = {"as in chapter 1": {}, "tar is confounded": {"confounding": 100}, "tar is bypassed": {"bypass": 100},
               "no confounding": {"u_t": 0}}
    assert shown(page) == pytest.approx(expected(np.array(list(START.values()))), rel=0, abs=1e-12)
    for name, changes in [*presets.items(), ("as in chapter 1", {})]:
        page.get_by_role("button", name=name).click()
        assert shown(page) == pytest.approx(expected(np.array(list((START | changes).values()))), rel=0, abs=1e-12)
        assert page.locator('button[aria-pressed="true"]').all_inner_texts() == [name]


@pytest.mark.parametrize("button, wrong", [
    ("as in chapter 1", {"naive"}), ("tar is confounded", {"naive", "frontdoor"}),
    ("tar is bypassed", {"naive", "frontdoor"}), ("no confounding", set())])
def test_bars_and_words_say_who_is_wrong(page, button, wrong):
    page.get_by_role("button", name=button).click()
    truth = page.locator(".track .truth").first.bounding_box()["x"]
    for name in ("naive", "backdoor", "frontdoor"):
        row = page.locator(f'[data-answer="{name}"]')
        assert ("too " in row.locator(".verdict").inner_text()) == (name in wrong)
        assert row.locator(".off").is_visible() == (name in wrong)
        bar = row.locator(".bar").bounding_box()
        assert (abs(bar["x"] + bar["width"] - truth) > 4) == (name in wrong)  # its end stands on the line or does not
    said = page.locator('.says[aria-live="polite"]').inner_text()
    assert ("Seeing is right" in said) == ("naive" not in wrong) and "Back-door adjustment is right" in said
    assert ("Front-door adjustment is right" in said) == ("frontdoor" not in wrong)


def test_keys_move_a_slider_and_its_words_follow(page):
    slider = page.get_by_label("gene → smoking")
    slider.focus()
    page.keyboard.press("Home")
    assert "80\u00a0% smoke without the gene, 20\u00a0% with it" == slider.get_attribute("aria-valuetext")
    assert "smoking looks healthy" in page.locator(".says").inner_text()
    before = shown(page)["naive"]
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "-95" and shown(page)["naive"] > before


def test_a_finger_moves_a_slider(page):
    box = page.locator("#sim-m_y").bounding_box()
    page.locator("#sim-m_y").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert page.locator("#sim-m_y").input_value() == "50"
    assert shown(page)["truth"] == pytest.approx(expected(np.array([100, 100, 100, 50, 0, 0, 100]))["truth"], abs=1e-12)


def test_arrows_are_as_wide_as_they_are_strong_and_broken_ones_come_and_go(page):
    def width(edge):
        return float(page.locator(f'[data-edge="{edge}"]').first.locator("path").first.get_attribute("stroke-width"))

    strong = width("TM")
    move(page, t_m=50, u_t=-100)
    assert 1 < width("TM") < strong == width("UT")
    for name, edge, word in (("confounding", "UM", "confounded"), ("bypass", "TY", "bypass")):
        assert not page.locator(f'[data-edge="{edge}"]', has_text=word).is_visible()
        assert page.locator(f'[data-edge="{edge}"] .cross').is_visible()
        move(page, **{name: 40})
        assert page.locator(f'[data-edge="{edge}"]', has_text=word).is_visible()
        assert not page.locator(f'[data-edge="{edge}"] .cross').is_visible()


def test_nothing_leaves_the_screen_in_any_preset(page):
    for button in page.locator(".presets button").all():
        button.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        bounds = page.locator(".answers").bounding_box()
        for inside in page.locator(".track i:not([hidden]), .truth-label, .axis span").all():
            box = inside.bounding_box()
            assert box["x"] >= bounds["x"] - 2 and box["x"] + box["width"] <= bounds["x"] + bounds["width"] + 2


def test_without_scripts_the_page_says_so(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/book/simulator.html", wait_until="domcontentloaded")
    assert "need JavaScript" in page.locator(".simulator").inner_text()
    context.close()
