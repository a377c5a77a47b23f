"""Every page of the book in a real Chromium."""

import pytest

pytestmark = pytest.mark.browser


def test_first_page_opens(new_page, site, problems):
    page = new_page(390, "dark")
    page.goto(f"{site}/book/intro.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    print(problems)
