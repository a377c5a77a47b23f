"""`python -m cause_lib.segment`: masks from a shell, and the page of `--serve`, here without a browser."""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe
from cause_lib.use.serve import LIMIT, make_server
from cause_lib.segment import main
from cause_lib.segmenter import Segmenter


@pytest.fixture(scope="module")
def segment():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(load_backbone("bundled"), MLPHead(192, 8).eval(), ClusterProbe(3, 8), image_size=48,
                         classes=["sky", "grass", "<b>house</b>"],
                         colors=[[90, 150, 230], [60, 140, 50], [210, 60, 40]], assignment=[0, 1, 2])


@pytest.fixture(scope="module")
def saved(segment, tmp_path_factory):
    return str(segment.save_pretrained(tmp_path_factory.mktemp("saved") / "mine"))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_masks_from_a_shell(saved, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    main([saved, str(pictures), "--out", str(out), "--device", "cpu"])
    assert capsys.readouterr().out == f"2 masks written, 0 kept from before, 0 pictures skipped: {out / 'masks.csv'}\n"
    main([saved, str(pictures / "0.png"), str(pictures), "--out", str(out), "--crf", "--no-overlay"])
    assert "3 masks written" in capsys.readouterr().out
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == {
        "masks/0.png", "masks/1.png", "masks/my pictures/0.png", "masks/my pictures/1.png"}
    (pictures / "1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 of 2 pictures cannot be used"):
        main([saved, str(pictures), "--out", str(out), "--skip"])
    assert "1 pictures skipped" in capsys.readouterr().out


def test_a_run_of_two_heads(tiny, pictures, tmp_path, capsys):
    run = tiny(head="mlp", concept_steps=2, head_steps=2, probe_steps=2)
    for head in ("mlp", "tr"):
        stages.fit_probe(run.replace(head=head))
    rest = [str(pictures), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="holds 2 runs; choose one"):
        main([run.run_dir, *rest])
    main([run.run_dir, *rest, "--head", "tr", "--readout", "kmeans"])
    assert "2 masks written" in capsys.readouterr().out
    stages.fit_probe(run.replace(head="tr", seed=1))
    with pytest.raises(SystemExit, match=r"holds 2 runs of the head tr: give the folder of one: .*/probe/\S+, .*/probe/"):
        main([run.run_dir, *rest, "--head", "tr"])


@pytest.mark.parametrize("words, code, said", [
    (["RUN"], 2, "give PICTURES and --out DIR, or --serve alone"),
    (["RUN", "PICTURES"], 2, "give PICTURES and --out DIR"), (["RUN", "--serve", "--out", "a"], 2, "--serve alone"),
    (["RUN", "nowhere.png", "--out", "OUT"], 1, "NotFound: there is no picture at 'nowhere.png'"),
    (["nobody/nothing", "PICTURES", "--out", "OUT"], 1, "NotFound: nobody/nothing is no folder here"),
    (["RUN", "PICTURES", "--out", "PICTURES"], 1, "InputError: .* lies in the folder of the pictures"),
    (["RUN", "PICTURES", "--out", "OUT", "--readout", "kmeans"], 1,
     "InputError: .* was saved with the readout modularity, not kmeans: leave --readout out"),
    (["RUN", "--serve", "--head", "tr"], 1, "InputError: .* was saved with the head mlp, not tr: leave --head out"),
    (["RUN", "", "--out", "OUT"], 1, "InputError: The name of the pictures is empty"),
    (["RUN", "PICTURES", "--out", "OUT", "--device", "gpu"], 1, "RunError: device 'gpu' cannot be used here"),
    (["RUN", "--serve", "--port", "99999"], 1, "RunError: Port 99999 of 127.0.0.1 cannot be used"),
])
def test_mistakes_are_one_sentence(saved, pictures, tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"RUN": saved, "PICTURES": str(pictures), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as stop:
        main([places.get(word, word) for word in words])
    if code == 2:
        assert stop.value.code == 2 and said in capsys.readouterr().err
    else:
        assert stop.match(f"^{said}") and "\n" not in str(stop.value) and isinstance(stop.value.code, str)  # exits with 1


def test_ctrl_c_is_one_sentence(saved, pictures, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "_mask", stop)
    with pytest.raises(SystemExit) as ended:
        main([saved, str(pictures), "--out", str(tmp_path / "out")])
    assert ended.value.code == 130
    assert "Stopped: what is written stays, and the same command goes on from there.\n" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_one_sentence(saved, pictures, tmp_path, number):
    for i in range(2, 400):  # enough to be in the middle of them
        os.link(pictures / "0.png", pictures / f"{i}.png")
    command = [sys.executable, "-m", "cause_lib.segment", saved, str(pictures), "--out", str(tmp_path / "out"),
               "--device", "cpu"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while not list((tmp_path).glob("out/masks/*.png")) and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + number and "Traceback" not in said
    assert said.count("Stopped") == 1 and "Stopped: what is written stays" in said


def test_help_does_not_wait_for_pytorch():
    code = "import sys; sys.argv = ['x', '--help']\nfrom cause_lib.segment import main\n" \
           "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.endswith("False\n") and "--serve" in done.stdout


# --- the page ---

@pytest.fixture
def server(segment):
    with make_server(segment, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    """Status, content (JSON or bytes) and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if "json" in answer.headers["Content-Type"] else content, answer.headers


def png(h=40, w=60, **how):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (h, w, 3), dtype=np.uint8)).save(stream, "PNG", **how)
    return stream.getvalue()


def test_the_page_and_a_mask(segment, server):
    status, page, headers = ask(server, "GET", "/")
    assert status == 200 and b"<h1>" in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert not [word for word in (b"http://", b"https://", b"src=\"//") if word in page]  # nothing is fetched elsewhere
    assert ask(server, "GET", "/about")[1] == {"classes": segment.classes, "colors": segment.colors.tolist(),
                                               "matched": True}
    for crf in (False, True):
        status, found, _ = ask(server, "POST", f"/mask?crf={int(crf)}", png())
        assert status == 200 and (found["width"], found["height"]) == (60, 40)
        mask = Image.open(io.BytesIO(base64.b64decode(found["mask"].split(",")[1])))
        expected = segment(png(), crf=crf).numpy()
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), expected)
        assert np.allclose(found["shares"], np.bincount(expected.ravel(), minlength=3) / expected.size, atol=1e-6)
        assert found["picture"].startswith("data:image/jpeg;base64,")


def test_what_the_page_refuses(server):
    assert server.server_address[0] == "127.0.0.1"
    here = f"127.0.0.1:{server.server_port}"
    for headers in ({"Host": "evil.example"}, {"Host": "127.0.0.1:1"}, {"Origin": "https://evil.example"},
                    {"Origin": "null"}, {"Origin": f"https://{here}"}):
        for method, path, body in (("GET", "/", None), ("GET", "/about", None), ("POST", "/mask", png())):
            status, found, _ = ask(server, method, path, body, **headers)
            assert status == 403 and found == {"error": "This page is for its own machine alone."}
    assert ask(server, "POST", "/mask", png(), Host=f"localhost:{server.server_port}", Origin=f"http:" f"//{here}")[0] == 200
    for path in ("/etc/passwd", "/../serve.py", "/favicon.ico"):
        assert ask(server, "GET", path)[0] == 404
    assert ask(server, "POST", "/", png())[0] == 404
    assert ask(server, "POST", "/mask")[:2] == (411, {"error": "No picture came: choose a file."})
    status, found, _ = ask(server, "POST", "/mask", b"", Content_Length=str(LIMIT * 2**20 + 1))
    assert status == 413 and "more than 64 MiB" in found["error"]
    for body, said in ((b"no picture", "This picture cannot be read"), (png()[:500], "This picture cannot be read"),
                       (png(1, 300), "300 x 1 pixels, and nothing longer")):
        status, found, _ = ask(server, "POST", "/mask", body)
        assert status == 400 and said in found["error"] and "\n" not in found["error"]
    assert ask(server, "PUT", "/mask", png())[0] == 501


def test_a_taken_port_is_one_sentence(segment, server):
    with pytest.raises(RuntimeError, match=f"Port {server.server_port} of 127.0.0.1 cannot be used .*: give another"):
        make_server(segment, server.server_port)
