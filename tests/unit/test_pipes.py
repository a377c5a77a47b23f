"""Pipes in place of pictures: they are refused, and what reads one can be stopped."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from cause_lib.data import load_image
from cause_lib.data.images import load_stored
from cause_lib.use.pictures import picture_tensor

CHILD = """
import os
from cause_lib.__main__ import stopped_in_a_sentence
with stopped_in_a_sentence():
    from cause_lib.use.streaming import prepared
    there, _ = os.pipe()

    def frames():
        yield "0", 0
        print("reading", flush=True)
        yield "1", os.read(there, 1)

    for name, frame in prepared(frames(), lambda name, frame: frame):
        pass
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("read", [load_image, load_stored, picture_tensor])
def test_a_named_pipe_is_no_picture(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="^there is no picture at .*a.png.* a pipe, .*: put one there or"):
        read(tmp_path / "a.png")


def test_an_open_pipe_is_refused_and_an_open_file_is_not(tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert torch.equal(picture_tensor(file), picture_tensor(tmp_path / "a.png"))
    here, there = os.pipe()
    with os.fdopen(here, "rb") as pipe, os.fdopen(there, "wb"):
        with pytest.raises(ValueError, match="^This picture is a pipe, .*: read it to its end, and give the bytes.$"):
            picture_tensor(pipe)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_what_waits_for_a_pipe(stop):
    """Which a thread reads ahead: neither the loop nor the interpreter's end waits for it."""
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as child:
        try:
            assert child.stdout.readline() == "reading\n"
            child.send_signal(stop)
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode != 0 and "Traceback" not in said and "Fatal" not in said
    assert said.strip() and len(said.strip().splitlines()) == 1
