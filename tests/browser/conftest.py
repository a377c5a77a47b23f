"""A real Chromium and the built book, for the tests of this folder: `python -m pytest -m browser`.

    def test_something(new_page, site, problems):
        page = new_page(390, "dark")                 # a Playwright page of that width, in that theme
        page.goto(f"{site}/book/intro.html")
        ...
        assert problems == []                        # console errors, page errors, failed requests of this test's pages

Requests to other hosts are cut off, as on a train: a page that needs one has a problem.
"""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import MISSING, chromium_path
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
HTML = ROOT / "_build/html"
HEIGHTS = {390: 844, 1280: 800}  # a telephone and a laptop


class Quiet(SimpleHTTPRequestHandler):
    """A folder's files, without a line in the terminal for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium (Playwright's Browser), one for all tests."""
    with sync_playwright() as playwright:
        path = chromium_path(playwright)
        if path is None:
            pytest.exit(MISSING, returncode=1)
        # --no-sandbox: in a container, where tests run as root, the sandbox cannot be made
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site():
    """Address of the built book, without a slash at its end: a server on 127.0.0.1 as long as the tests run."""
    if not (HTML / "index.html").exists():
        pytest.exit("The browser tests read the built book, and _build/html is not there: run make book.", returncode=1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def problems() -> list[str]:
    """What went wrong on the pages of this test so far: console errors, page errors, requests that failed or left."""
    return []


def watched_page(chromium, site, problems, width, theme, **options):
    """A page in a context of its own that writes into `problems`; `options` go to Playwright's new_context."""
    size = {"width": width, "height": HEIGHTS.get(width, 800)}
    context = chromium.new_context(viewport=size, color_scheme=theme, **options)
    context.set_default_timeout(15_000)

    def only_here(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            problems.append(f"asks another host: {route.request.url}")
            route.abort()

    context.route("**/*", only_here)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("response", lambda got: problems.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}")
            if request.url.startswith(site) else None)
    return page


@pytest.fixture
def new_page(chromium, site, problems):
    """`new_page(width, theme, **options)`: a fresh page, `theme` "light" or "dark"; closed after the test."""
    pages = []

    def make(width=1280, theme="light", **options):
        pages.append(watched_page(chromium, site, problems, width, theme, **options))
        return pages[-1]

    yield make
    for page in pages:
        page.context.close()
