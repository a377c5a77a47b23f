"""The front-door simulator in a real Chromium: its numbers are the library's, and its controls do what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from cause_book.frontdoor import StructuralModel, back_door, estimate_joint, front_door, observational

ROOT = Path(__file__).resolve().parent.parent.parent
STRENGTHS = ("u_t", "u_y", "t_m", "m_y", "confounding", "bypass")
NAMES = (*STRENGTHS, "sharp", "seen")
START = dict(zip(NAMES, (100, 100, 100, 100, 0, 0, 0, 100)))
SETTINGS = np.random.default_rng(0).integers([-20, 0, 1, 0, 0, 0, 0, 10], [21, 21, 21, 21, 21, 21, 20, 21], size=(20, 8)) * 5  # per cent
NO_SAMPLE = 5  # the position of the slider of samples


def world(settings) -> StructuralModel:
    """The library's model of a setting, (8,) in per cent or a dictionary of what is not as at the start."""
    given = START | settings if isinstance(settings, dict) else dict(zip(NAMES, settings))
    sharp = given["sharp"] / 100
    model = StructuralModel.smoking(**{name: given[name] / 100 for name in STRENGTHS})
    return model.sharpened(np.inf if sharp == 1 else 1 / (1 - sharp))


def expected(settings) -> dict[str, float]:
    """The effects of a setting, computed by the library."""
    model, seen = world(settings), (settings.get("seen", 100) if isinstance(settings, dict) else settings[-1]) / 100
    tested = np.einsum("uw,utmy->wtmy", [[seen, 1 - seen], [1 - seen, seen]], model.joint())  # the test for the gene
    answers = {"naive": observational(model.observed()), "backdoor": back_door(tested),
               "frontdoor": front_door(model.observed(), undefined="nan"), "truth": model.interventional()}
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
    opened.locator('input[value="smoking"]').check()
    move(opened, **START, size=NO_SAMPLE)
    opened.evaluate("scrollTo(0, 0)")
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
        move(page, **dict(zip(NAMES, settings)))
        assert shown(page) == pytest.approx(expected(settings), rel=0, abs=1e-12)


def test_it_starts_as_chapter_1_and_every_button_leads_somewhere_and_back(page):
    presets = {"as in chapter 12": {}, "tar is confounded": {"confounding": 100}, "tar is bypassed": {"bypass": 100},
               "no positivity": {"sharp": 100}, "no confounding": {"u_t": 0}}
    assert shown(page) == pytest.approx(expected({}), rel=0, abs=1e-12)
    for name, changes in [*presets.items(), ("as in chapter 12", {})]:
        page.get_by_role("button", name=name).click()
        assert shown(page) == pytest.approx(expected(changes), rel=0, abs=1e-12, nan_ok=True)
        assert page.locator('button[aria-pressed="true"]').all_inner_texts() == [name]


@pytest.mark.parametrize("button, wrong", [
    ("as in chapter 12", {"naive"}), ("tar is confounded", {"naive", "frontdoor"}),
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
    assert shown(page)["truth"] == pytest.approx(expected({"m_y": 50})["truth"], abs=1e-12)


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


def bars(page, answer) -> dict[str, float]:
    """The error bar of an estimate, and how many samples have none."""
    row = page.locator(f'[data-answer="{answer}"]').evaluate("row => ({...row.dataset})")
    return {name: float(row[name]) for name in ("low", "high", "without")}


def test_without_positivity_the_front_door_is_undefined_and_what_is_left_is_seeing(page):
    before = shown(page)["frontdoor"]
    move(page, sharp=60)
    assert shown(page)["frontdoor"] == pytest.approx(expected({"sharp": 60})["truth"]) and shown(page)["frontdoor"] != before
    page.get_by_role("button", name="no positivity").click()
    row = page.locator('[data-answer="frontdoor"]')
    assert np.isnan(shown(page)["frontdoor"]) and row.locator(".verdict").inner_text() == "undefined"
    assert not row.locator(".bar").is_visible() and not row.locator(".off").is_visible()
    left, naive = (page.locator(mark).bounding_box() for mark in ("[data-answer=frontdoor] .left", "[data-answer=naive] .bar"))
    assert left["x"] + left["width"] == pytest.approx(naive["x"] + naive["width"], abs=1)
    said = page.locator(".says").inner_text()
    assert "no non-smokers with tar and no smokers without tar" in said and "it equals seeing" in said
    move(page, confounding=50)  # carriers have tar now, so one pair alone is missing, and what is left is worse than seeing
    assert "no smokers without tar" in page.locator(".says").inner_text() and "equals" not in page.locator(".says").inner_text()


def test_error_bars_are_those_of_samples_that_are_counted(page):
    answers = {"naive": observational, "frontdoor": front_door}
    for position, size in ((1, 300), (3, 3000)):
        move(page, size=position)
        random, found = np.random.default_rng(0), {name: [] for name in answers}
        for _ in range(400):
            drawn = world({}).sample(size, seed=random)
            for name, answer in answers.items():
                share = answer(estimate_joint(drawn["t"], drawn["m"], drawn["y"], (2, 2, 2)))[:, 1]
                found[name].append(share[1] - share[0])
        for name, values in found.items():
            low, high = np.quantile(values, [0.025, 0.975])
            got, room = bars(page, name), 0.3 * (high - low)
            assert got["low"] == pytest.approx(low, abs=room) and got["high"] == pytest.approx(high, abs=room)
            assert page.locator(f'[data-answer="{name}"] .spread').is_visible()
    assert "3,000 people" in page.locator(".says").inner_text()
    move(page, size=NO_SAMPLE)
    assert page.locator(".spread:visible").count() == 0


def test_rare_pairs_widen_the_error_bar_and_then_leave_samples_without_an_estimate(page):
    move(page, size=2)
    widths = []
    for sharp in (0, 20, 35):
        move(page, sharp=sharp)
        assert shown(page)["frontdoor"] == pytest.approx(shown(page)["truth"])  # no bias
        widths.append(bars(page, "frontdoor")["high"] - bars(page, "frontdoor")["low"])
    assert widths[0] < widths[1] < widths[2]
    move(page, sharp=70)
    assert bars(page, "frontdoor")["without"] > 100 and bars(page, "naive")["without"] == 0
    assert not page.locator('[data-answer="frontdoor"] .spread').is_visible()
    assert f"undefined in {bars(page, 'frontdoor')['without']:.0f} samples" in page.locator(".says").inner_text()


def test_the_words_of_cause(page):
    numbers = shown(page)
    page.locator('input[value="cause"]').check()
    assert shown(page) == numbers
    words = " ".join(page.locator(".presets, .seen, .sliders").all_inner_texts())
    assert "confounder → token" in words and "concept is bypassed" in words
    for word in ("smok", "gene", "tar ", "cancer", "ill,"):
        assert word not in words, word
    captions = page.locator(".graph svg text").all_text_contents()
    assert {"token", "concept", "group", "what and how to cluster"} <= set(captions)


def test_the_address_holds_the_state_and_restores_it(page, chromium, site):
    page.locator('input[value="cause"]').check()
    move(page, u_t=-45, sharp=30, size=2)
    page.wait_for_function("() => ['u_t=-45', 'sharp=30', 'size=2', 'words=cause'].every((part) => location.hash.includes(part))")
    other = chromium.new_page()
    try:
        other.goto(page.url, wait_until="domcontentloaded")
        assert shown(other) == shown(page) and bars(other, "frontdoor") == bars(page, "frontdoor")
        assert other.locator(".says").inner_text() == page.locator(".says").inner_text()
        other.goto(f"{site}/book/simulator.html#u_t=abc&sharp=900&words=nobody&what=1", wait_until="domcontentloaded")
        assert other.locator("#sim-u_t").input_value() == "100" and other.locator("#sim-sharp").input_value() == "100"
        assert other.locator('input[value="smoking"]').is_checked()
        other.goto(f"{site}/book/simulator.html#the-same-in-python", wait_until="domcontentloaded")
        assert other.url.endswith("#the-same-in-python")
    finally:
        other.close()
    move(page, **START, size=NO_SAMPLE)
    page.locator('input[value="smoking"]').check()
    page.wait_for_function("() => location.hash === ''")


def test_bars_are_above_the_fold(page):
    box = page.locator(".answers").bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] <= (760 if page.viewport_size["width"] == 1280 else 844)


def test_axe_finds_nothing_serious_in_any_state(page):
    page.get_by_role("button", name="no positivity").click()
    page.locator('input[value="cause"]').check()
    move(page, size=1)
    found = Axe().run(page, context=".simulator", options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    assert [fault["id"] for fault in found if fault["impact"] in ("serious", "critical")] == []


def test_without_scripts_the_page_says_so(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/book/simulator.html", wait_until="domcontentloaded")
    assert "need JavaScript" in page.locator(".simulator").inner_text()
    context.close()
