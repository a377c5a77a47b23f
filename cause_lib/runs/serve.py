"""A web page of a Segmenter on this machine alone: drop a picture, see its mask. `python -m cause_lib.segment --serve`.

The page, serve.html, is one file and asks nobody but this server, which listens on 127.0.0.1 alone:

    GET  /              the page
    GET  /about         {"classes": [name, ...], "colors": [[r, g, b], ...], "matched": bool}
    POST /mask?crf=0    a picture file -> {"width", "height", "shares": [...], "picture", "mask": data:image/...}, or
                        {"error": one sentence} with status 400, 403, 404, 411 or 413

The Host and Origin of each request must be this server's own, so that no other web page can ask through the browser.
"""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from cause_lib.errors import RunError
from cause_lib.runs.pictures import class_shares, mask_image, picture_tensor

PAGE = Path(__file__).with_name("serve.html")
LIMIT = 64  # MiB, of a picture file
SHOWN = 1600  # pixels, the long side of the picture that is sent back; the mask has all of its pixels
POLICY = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: blob:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def make_server(segment: Any, port: int = 8000) -> ThreadingHTTPServer:
    """A server of the page, not yet serving: `serve_forever` does. port 0: a free one, `server_port` says which.

    Raises RuntimeError where the port is taken.
    """
    handler = type("SegmentHandler", (Handler,), {"segment": segment, "turn": threading.Lock()})
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"Port {port} of 127.0.0.1 cannot be used ({reason}): give another one, 0 for any that is "
                       "free.") from error


def answer(segment: Any, content: bytes, crf: bool) -> dict[str, Any]:
    """What the page shows of a picture file; raises as calling the Segmenter does."""
    image = picture_tensor(content)
    ids = segment._mask(*segment._look(image), crf=crf).numpy()  # (h, w)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((SHOWN, SHOWN))
    shares = class_shares(ids, len(segment.classes))
    return {"width": ids.shape[1], "height": ids.shape[0], "shares": shares.round(6).tolist(),
            "picture": _data(picture, "jpeg"), "mask": _data(mask_image(ids, segment.colors), "png")}


def _data(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


class Handler(BaseHTTPRequestHandler):
    """One request; `segment` and `turn`, one picture at a time, are the server's."""

    segment: Any
    turn: threading.Lock
    timeout = 60

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._is_ours():
            return
        if path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "/about":
            self._say(200, {"classes": self.segment.classes, "colors": self.segment.colors.tolist(),
                            "matched": self.segment.matched})
        else:
            self._say(404, {"error": "There is no such page here."})

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        if not self._is_ours():
            return
        if address.path != "/mask":
            self._say(404, {"error": "There is no such page here."})
        elif not length.isdecimal() or not int(length):
            self._say(411, {"error": "No picture came: choose a file."})
        elif int(length) > LIMIT * 2**20:
            self._say(413, {"error": f"This file has more than {LIMIT} MiB: make it smaller, or use the command."})
        else:
            content = self.rfile.read(int(length))
            try:
                with self.turn:
                    self._say(200, answer(self.segment, content, parse_qs(address.query).get("crf") == ["1"]))
            except (ValueError, OSError, RuntimeError) as error:
                self._say(400, {"error": " ".join(str(error).split())})

    def _is_ours(self) -> bool:
        """Whether the request is of our own page; else it is refused."""
        names = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in names and (origin is None or origin.removeprefix("http://") in names):
            return True
        self._say(403, {"error": "This page is for its own machine alone."})
        return False

    def _say(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store",
                   "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: what was asked is nobody's business."""
