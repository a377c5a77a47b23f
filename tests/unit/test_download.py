"""Downloads against a server that cuts, ignores, lies, refuses and sends elsewhere; and archives that want out."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest
from requests import exceptions

from cause_lib.data import camvid, download, pascalvoc
from cause_lib.data.download import resume, unpack

BODY = bytes(range(256)) * 40  # 10,240 bytes
NAME = "file.bin"


class Answers(BaseHTTPRequestHandler):
    """Answers with what `server.plan` says for each request in turn; once it is used up, as a good server does."""

    protocol_version = "HTTP/1.0"  # each answer ends with its connection

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range", ""))
        how = server.plan.pop(0) if server.plan else "well"
        start = int(server.asked[-1].removeprefix("bytes=").removesuffix("-") or 0)
        body = server.body
        if how in (404, 500, 503):
            self.head(how, length=0)
        elif how == "elsewhere":
            self.head(302, length=0, Location=f"/moved{self.path}")
        elif how == "all of it":
            self.head(200, len(body))
            self.wfile.write(body)
        elif how == "all of it, cut":
            self.head(200, len(body))
            self.wfile.write(body[:5000])
        elif how == "says more":
            self.head(200, len(body) + 77)
            self.wfile.write(body)
        elif how == "says less":
            self.head(200, len(body) - 77)
            self.wfile.write(body)
        elif how == "says nothing":
            self.head(200, None)
            self.wfile.write(body)
        elif how == "wrong bytes":
            self.head(200, len(body))
            self.wfile.write(b"\0" * len(body))
        elif how == "nothing":
            self.head(200, len(body))
        elif how == "another part":
            self.head(206, len(body) - 5, **{"Content-Range": f"bytes 5-{len(body) - 1}/{len(body)}"})
            self.wfile.write(body[5:])
        elif start >= len(body):
            self.head(416, 0, **{"Content-Range": f"bytes */{len(body)}"})
        else:
            end = min(len(body), start + 1000) if how == "a little" else len(body)
            span = {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"} if start or how == "a little" else {}
            self.head(206 if span else 200, end - start, **span)
            sent = body[start:end]
            if isinstance(how, tuple):  # ("cut", n): n bytes, then the line is dead
                sent = sent[:how[1]]
            for i in range(0, len(sent), 512):
                self.wfile.write(sent[i:i + 512])
                self.wfile.flush()
                server.wait()

    def head(self, status, length, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def server(monkeypatch):
    # pooch waits a second before it tries again
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(download, "BLOCK", 1)  # nothing that was sent is lost in a cut
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        http.asked, http.plan, http.body, http.wait = [], [], BODY, lambda: None
        http.address = f"http://127.0.0.1:{http.server_port}/"
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield http
        http.shutdown()


def fetch(server, folder, *, retries=0, body=BODY):
    """The file by pooch, held against the SHA-256 of `body`."""
    registry = {NAME: hashlib.sha256(body).hexdigest()}
    fetcher = pooch.create(folder, server.address, registry=registry, retry_if_failed=retries)
    return Path(fetcher.fetch(NAME, downloader=resume)).read_bytes()


def part(folder, content=None):
    path = folder / f"{NAME}.part"
    if content is not None:
        path.write_bytes(content)
    return path


ALL = "bytes=0-"


@pytest.mark.parametrize("plan, ranges", [
    ([], [ALL]),
    ([("cut", 3000)], [ALL, "bytes=3000-"]),
    ([("cut", 3000), ("cut", 1), ("cut", 6000)], [ALL, "bytes=3000-", "bytes=3001-", "bytes=9001-"]),
    ([("cut", 3000), "all of it"], [ALL, "bytes=3000-"]),
    ([("cut", 3000), "another part"], [ALL, "bytes=3000-", ALL]),
    (["elsewhere"], [ALL, ALL]),
    ([("cut", 3000), "elsewhere"], [ALL, "bytes=3000-", "bytes=3000-"]),
    (["says nothing"], [ALL]),
    (["says more"], [ALL, f"bytes={len(BODY)}-", ALL]),
    ([500], [ALL] * 2), ([503, 500], [ALL] * 3), (["nothing"], [ALL] * 2), (["wrong bytes"], [ALL] * 2),
    (["says less"], [ALL] * 2), ([("cut", 3000), 500], [ALL, "bytes=3000-", "bytes=3000-"]),
], ids=str)
def test_what_fails_is_tried_again_and_goes_on(server, tmp_path, plan, ranges):
    server.plan = [*plan]
    assert fetch(server, tmp_path, retries=3) == BODY
    assert server.asked == ranges
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("plan, error, kept", [
    ([404], exceptions.HTTPError, 0),
    ([500], exceptions.HTTPError, 0),
    (["nothing"], exceptions.RequestException, 0),
    ([("cut", 3000)], exceptions.RequestException, 3000),
    (["all of it, cut"], exceptions.RequestException, 5000),
], ids=str)
def test_what_has_arrived_stays_for_the_next_call(server, tmp_path, plan, error, kept):
    server.plan = [*plan]
    with pytest.raises(error):
        fetch(server, tmp_path)
    assert part(tmp_path).read_bytes() == BODY[:kept] and not (tmp_path / NAME).exists()
    server.asked.clear()
    assert fetch(server, tmp_path) == BODY and server.asked == [f"bytes={kept}-"]


@pytest.mark.parametrize("plan", [["wrong bytes"], ["says less"]], ids=str)
def test_wrong_bytes_are_not_kept(server, tmp_path, plan):
    server.plan = [*plan]
    with pytest.raises(ValueError, match="does not match"):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stale", [b"\1" * 3000, b"\1" * 20_000], ids=len)
@pytest.mark.parametrize("plan", [[], ["all of it"]], ids=str)
def test_a_part_of_another_file_is_thrown_away(server, tmp_path, stale, plan):
    """Found by its checksum, or because the server sends all of it anyway."""
    part(tmp_path, stale)
    server.plan = [*plan]
    assert fetch(server, tmp_path, retries=1) == BODY
    assert len(server.asked) == 2 - len(plan) and [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_process_that_was_killed_loses_nothing_that_was_written(server, tmp_path, monkeypatch):
    server.body = BODY * 400  # 4 MB
    server.wait = lambda: time.sleep(0.0002)
    call = (server.address + "big.bin", str(tmp_path / "tmp"))
    code = f"from cause_lib.data.download import resume; resume(*{call!r})"
    child = subprocess.Popen([sys.executable, "-c", code])
    there = tmp_path / "big.bin.part"
    while not (there.exists() and there.stat().st_size > 500_000):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.wait = lambda: None
    kept = there.stat().st_size
    monkeypatch.setattr(download, "BLOCK", 2**14)
    resume(*call)
    assert (tmp_path / "tmp").read_bytes() == server.body
    assert server.asked[1] == f"bytes={kept}-"


def test_a_line_that_falls_silent_is_cut(server, tmp_path, monkeypatch):
    """No byte for PATIENCE seconds: what had come is kept, and the rest asked for."""
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    silent = threading.Event()
    server.wait = lambda: silent.is_set() or (silent.set(), time.sleep(1.5))
    assert fetch(server, tmp_path, retries=3) == BODY
    assert server.asked[0] == ALL and server.asked[-1] not in ("", ALL)


def test_vocs_archive_goes_on_and_comes_once(server, tmp_path, monkeypatch):
    """Cut off twice, and wanted by two at once: one call of the library fetches the rest alone, the other waits."""
    server.body = tar([(f"{pascalvoc.HOME}/{folder}/1.png", BODY) for folder in pascalvoc.NEEDED])
    monkeypatch.setattr(pascalvoc, "BASE_URL", server.address)
    monkeypatch.setattr(pascalvoc, "SHA256", hashlib.sha256(server.body).hexdigest())
    server.plan = [("cut", 3000), ("cut", 5000)]
    threads = [threading.Thread(target=pascalvoc.fetch_pascalvoc, args=(tmp_path / "pascalvoc",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    home = tmp_path / "pascalvoc" / pascalvoc.HOME
    assert (home / "JPEGImages/1.png").read_bytes() == BODY and server.asked == [ALL, "bytes=3000-", "bytes=8000-"]


@pytest.mark.parametrize("what", ["camvid", "pascalvoc"])
def test_a_place_that_cannot_be_written_is_said(server, tmp_path, monkeypatch, what):
    (tmp_path / "cache").write_text("a file where a folder should be")
    target = tmp_path / "cache" / what
    with pytest.raises(OSError, match=rf"cannot be written to '{target}' \(.*\$CAUSE_DATA/{what}") as error:
        camvid.fetch_camvid(target, "val") if what == "camvid" else pascalvoc.fetch_pascalvoc(target)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    monkeypatch.setattr(camvid, "BASE_URL", server.address)
    full = OSError(28, os.strerror(28))

    def resume_without_room(*_):
        raise full

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: resume_without_room)
    with pytest.raises(OSError, match="cannot be written to .*No space left on device.*make room"):
        camvid.fetch_camvid(tmp_path / "camvid", "val")


def tar(members):
    """A tar file as bytes: (name, content) or (TarInfo, None) each."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content or b"")
            made.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


ELSEWHERE = {
    "absolute": "{here}/evil", "dots at the start": "../evil", "dots of another system": "data\\..\\..\\evil",
    "drive": "C:/evil", "share": "\\\\host\\share\\evil",
}
EVIL = {
    "dots": [("data/../../evil", b"x")],
    "dots in part of another system": [("data/..\\..\\evil", b"x")],
    "symbolic link out": [(special("data/way", tarfile.SYMTYPE, "/"), None)],
    "symbolic link and a file through it": [(special("data/way", tarfile.SYMTYPE, "../.."), None),
                                            ("data/way/evil", b"x")],
    "symbolic link inside": [(special("data/way", tarfile.SYMTYPE, "good"), None)],
    "hard link out": [(special("data/way", tarfile.LNKTYPE, "../../evil"), None)],
    "hard link inside": [(special("data/way", tarfile.LNKTYPE, "data/good"), None)],
    "pipe": [(special("data/pipe", tarfile.FIFOTYPE), None)],
    "character device": [(special("data/null", tarfile.CHRTYPE), None)],
    "block device": [(special("data/disk", tarfile.BLKTYPE), None)],
}


@pytest.mark.parametrize("with_filter", [True, False], ids=["tarfile filters", "tarfile has no filter"])
@pytest.mark.parametrize("evil", EVIL)
def test_nothing_is_unpacked_outside_or_by_way_of_a_link(tmp_path, monkeypatch, evil, with_filter):
    if not with_filter:  # as on early releases of Python 3.10 and 3.11
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    (tmp_path / "deep/down").mkdir(parents=True)
    packed = tmp_path / "deep" / "packed.tar"
    members = [(name.format(here=tmp_path) if isinstance(name, str) else name, content) for name, content in EVIL[evil]]
    packed.write_bytes(tar([("data/good", b"good"), *members]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"packed.tar' was not unpacked, because '.*' in it leads out") \
            as error:
        unpack(packed, tmp_path / "deep/down", ["data"])
    assert "\n" not in str(error.value) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_names_that_begin_elsewhere_are_not_unpacked(tmp_path, name):
    packed = tmp_path / "deep" / "packed.tar"
    packed.parent.mkdir()
    packed.write_bytes(tar([(name.format(here=tmp_path), b"x"), ("data/good", b"good")]))
    before = {*tmp_path.rglob("*")}
    unpack(packed, tmp_path / "deep/down", ["data"])
    down = tmp_path / "deep/down"
    assert {*tmp_path.rglob("*")} - before == {down, down / "data", down / "data/good"}


@pytest.mark.parametrize("with_filter", [True, False], ids=["tarfile filters", "tarfile has no filter"])
def test_unpacks_what_is_wanted_and_leaves_the_rest(tmp_path, monkeypatch, with_filter):
    if not with_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(tar([("./data/a/1", b"one"), ("data/b", b"two"), ("data/bb", b"near"), ("other/3", b"three"),
                            (special("other/way", tarfile.SYMTYPE, "/"), None)]))
    unpack(packed, tmp_path / "out", ["data/a", "data/b"])
    files = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"data/a/1": b"one", "data/b": b"two"}
