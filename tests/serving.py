"""A folder served over HTTP on this machine, for the tests of downloads."""

import contextlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serve(folder, monkeypatch, module, cache):
    """Yields the server; `module` looks there, tries once and caches below `cache`.

    The server has `asked`, a list with a path for each request, and `files`, the folder.
    """
    class Handler(SimpleHTTPRequestHandler):
        asked = []

        def log_message(self, *_):
            self.asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(module, "BASE_URL", f"http://127.0.0.1:{http.server_port}/")
        monkeypatch.setattr(module, "RETRIES", 0)
        monkeypatch.setattr("pooch.os_cache", lambda _: cache)
        monkeypatch.delenv("CAUSE_DATA", raising=False)
        http.asked, http.files = Handler.asked, folder
        yield http
        http.shutdown()
