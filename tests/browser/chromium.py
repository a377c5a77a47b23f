"""Which browser the browser tests use: an installed Chromium or Chrome, else the one that Playwright has fetched itself.

As a script: says in one sentence what is missing and how to get it, and exits with 1, where there is none.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
MISSING = ("No Chromium or Chrome is here, which the browser tests need: install Debian's (apt install chromium) or "
           "Playwright's own (.venv/bin/python -m playwright install chromium).")


def chromium_path(playwright: Playwright) -> str | None:
    """The browser's executable, or None."""
    paths = [*map(shutil.which, NAMES), playwright.chromium.executable_path]
    return next((path for path in paths if path and Path(path).exists()), None)


if __name__ == "__main__":
    with sync_playwright() as here:
        if chromium_path(here) is None:
            print(f"{MISSING} The browser tests are left out.")
            sys.exit(1)
