"""A real Chromium and the built book, for the tests of this folder.

    def test_something(new_page, site, problems):
        page = new_page(390, "dark")                 # a Playwright page of that width, in that theme
        page.goto(f"{site}/book/intro.html")
        ...
        assert problems == []                        # console errors, page errors, failed requests of this test's pages

Requests to other hosts are cut off, as on a train: a page that needs one has a problem.
"""

import collections
import functools
import gzip
import io
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from built import HTML, ready
from playwright.sync_api import sync_playwright

from .chromium import MISSING, chromium_path

SEEN = "the page in a browser"  # what test_pages.py saw, in the reports of its tests
HEIGHTS = {390: 844, 1280: 800}  # a telephone and a laptop


@functools.cache
def packed(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes())


class Host(SimpleHTTPRequestHandler):
    """A folder's files as GitHub Pages sends them: text packed by gzip."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".html", ".css", ".js", ".svg", ".json") or not path.is_file():
            return super().send_head()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(packed(str(path)))))
        self.end_headers()
        return io.BytesIO(packed(str(path)))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium (Playwright's Browser), one for all tests."""
    with sync_playwright() as playwright:
        path = chromium_path(playwright)
        if path is None:
            pytest.exit(MISSING, returncode=1)
        # in a container, where tests run as root, the sandbox cannot be made, and shared memory is small
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site():
    """Address of the built book, without a slash at its end: a server on 127.0.0.1 as long as the tests run."""
    ready()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=HTML))
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
    context.set_default_timeout(120_000)

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
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url} ({request.failure})")
            if request.url.startswith(site) and request.failure != "net::ERR_ABORTED" else None)  # the page was left
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


def pytest_terminal_summary(terminalreporter):
    """The book in numbers: pages, links, figures, exercises, weights, violations by impact."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    visits = [value for report in reports if report.when == "call" for name, value in report.user_properties if name == SEEN]
    if not visits:
        return
    first = sorted({visit["name"]: visit for visit in visits}.values(), key=lambda visit: visit["name"])
    write = terminalreporter.write_line
    terminalreporter.section("the book in a browser")
    links, figures, exercises = (sum(visit[what] for visit in first) for what in ("links", "figures", "exercises"))
    write(f"{len(first)} pages, {len(visits)} visits: {links} links, {figures} figures, {exercises} exercises")
    write(f"{'kB sent':24}{'html':>7}{'css':>7}{'js':>7}{'images':>8}{'all':>7}{'unpacked':>10}{'shift':>8}")
    for visit in first:
        sent, shift = visit["sent"], max(other["shift"] for other in visits if other["name"] == visit["name"])
        write(f"{visit['name'].split('/')[-1]:24}" + "".join(f"{sent[kind] / 1e3:{width}.0f}" for kind, width in (
            ("html", 7), ("css", 7), ("js", 7), ("images", 8))) + f"{sum(sent.values()) / 1e3:7.0f}"
              f"{visit['bytes'] / 1e3:10.0f}{shift:8.3f}")
    faults = collections.Counter(fault for visit in visits for fault in visit["faults"])
    write("axe-core: " + ("; ".join(f"{fault} {count}" for fault, count in sorted(faults.items())) or "no violation"))
