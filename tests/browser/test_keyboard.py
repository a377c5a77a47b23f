"""The book without a mouse: skip link, search, menus, previous and next, theme, tables that sort."""

import pytest
from built import PAGES

FIRST, SECOND = PAGES[:2]
WITH_TABLE = "book/differences"


def focused(page) -> str:
    """Text or label of what has the focus."""
    return page.evaluate("document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || ''").strip()


def press(page, selector: str) -> None:
    """Enter, on what is there."""
    page.focus(selector)
    page.keyboard.press("Enter")


def test_first_tab_skips_to_the_text(new_page, site, problems):
    page = new_page(1280, "light")
    page.goto(f"{site}/{FIRST}.html")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to main content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    assert problems == []


@pytest.mark.parametrize("width", [390, 1280])
def test_search_opens_and_finds(width, new_page, site, problems):
    page = new_page(width, "light")
    page.goto(f"{site}/{FIRST}.html")
    page.keyboard.press("Control+k")
    page.wait_for_function("document.activeElement.matches('dialog[open] input[type=search]')")
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('dialog[open]') === null")
    page.keyboard.press("Control+k")
    page.wait_for_function("document.activeElement.matches('dialog[open] input[type=search]')")
    page.keyboard.type("clusterbook")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=clusterbook*")
    page.wait_for_selector("#search-results li a")
    assert "notebooks/05_clusterbook.html" in " ".join(
        page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)"))
    assert problems == []


def test_next_and_previous(new_page, site, problems):
    page = new_page(390, "light")
    page.goto(f"{site}/{FIRST}.html")
    press(page, "a.right-next")
    page.wait_for_url(f"**/{SECOND}.html")
    press(page, "a.left-prev")
    page.wait_for_url(f"**/{FIRST}.html")
    assert problems == []


def test_theme_switches_and_is_kept(new_page, site, problems):
    page = new_page(1280, "light")
    page.goto(f"{site}/{FIRST}.html")
    theme = "document.documentElement.dataset.theme"
    page.wait_for_function(f"{theme} === 'light'")
    for _ in range(3):  # of the system, light, dark: in some order
        if page.evaluate(theme) == "light":
            press(page, ".theme-switch-button:visible")
    assert page.evaluate(theme) == "dark"
    page.reload()
    assert page.evaluate(theme) == "dark"
    page.goto(f"{site}/{SECOND}.html")
    assert page.evaluate(theme) == "dark"
    assert problems == []


def test_menu_of_a_telephone(new_page, site, problems):
    """The list of chapters opens over the page, holds every chapter, and closes again."""
    page = new_page(390, "light")
    page.goto(f"{site}/{FIRST}.html")
    press(page, "button.primary-toggle:visible")
    page.wait_for_selector("dialog[open] nav a")
    links = page.eval_on_selector_all("dialog[open] a", "links => links.map(link => link.href)")
    assert all(any(link.split("#")[0].endswith(f"/{name}.html") for link in links) for name in PAGES[1:])
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('dialog[open]') === null")
    assert problems == []


def test_table_sorts(new_page, site, problems):
    page = new_page(390, "light")
    page.goto(f"{site}/{WITH_TABLE}.html")
    table = page.locator("table.sortable").first
    head = table.locator("thead button").nth(1)
    head.focus()
    before = table.locator("tbody tr").all_inner_texts()
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert head.locator("..").get_attribute("aria-sort") == direction
    after = table.locator("tbody tr").all_inner_texts()
    assert sorted(after) == sorted(before) and len(after) > 1
    assert problems == []
