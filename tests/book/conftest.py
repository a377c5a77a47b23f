"""The tests of this folder read the built book; whoever asks first has it built."""

import os

import built
import pytest


@pytest.fixture(scope="session")
def book():
    """Folder of the rendered pages."""
    built.ready()
    return built.HTML


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """Kernels find this checkout's cause_lib, installed or not, and none of this machine's data or weights."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(built.ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("CAUSE_DATA", raising=False)
    monkeypatch.delenv("CAUSE_WEIGHTS", raising=False)
