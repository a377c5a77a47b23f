"""Addresses of earlier editions in a browser: they end at the chapter's new place, in the section that was asked for."""

import pytest


@pytest.mark.parametrize(("old", "new"), [
    ("02_features.html", "04_features.html"), ("03_clusterbook.html#summary", "05_clusterbook.html#summary"),
    ("04_heads.html#the-loss", "06_contrast.html#the-loss-in-two-forms"),
    ("01_frontdoor.html#the-conditions-one-by-one", "13_causal.html#the-conditions-one-by-one"),
    ("01_frontdoor.html#how-it-breaks", "12_frontdoor.html#how-it-breaks")])
def test_an_old_address_leads_on(old, new, new_page, site, problems):
    page = new_page(1280, "light")
    page.goto(f"{site}/notebooks/{old}", wait_until="commit")
    page.wait_for_url(f"**/notebooks/{new}", wait_until="domcontentloaded")
    assert page.evaluate("(id) => !id || document.getElementById(id) !== null", new.partition("#")[2])
    assert problems == []
