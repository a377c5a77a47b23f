"""The book that the tests read: at small sizes, as `make test` makes it, or the tree that BOOK names (`make check`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
OF_THE_TESTS = ROOT / "_build/test"
TREE = Path(os.environ["BOOK"]).resolve() if os.environ.get("BOOK") else OF_THE_TESTS
HTML, LOG, EXECUTED = (TREE / "_build" / name for name in ("html", "build.log", "executed"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"]] + [page["file"] for part in TOC["parts"] for chapter in part["chapters"]
                         for page in (chapter, *chapter.get("sections", ()))]
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]


def ready() -> None:
    """Builds the tests' book where something changed since it was built, once for all processes that ask."""
    if TREE != OF_THE_TESTS:
        if not (HTML / "index.html").exists():
            pytest.fail(f"BOOK names {TREE}, and {HTML} is not there: run make book.", pytrace=False)
        return
    OF_THE_TESTS.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with FileLock(OF_THE_TESTS / "lock"):
        done = subprocess.run([sys.executable, "book/build.py", "--sizes", "tests/book/sizes.yaml", "--at-once", "2"],
                              cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        pytest.fail(f"The book could not be built:\n{(done.stdout + done.stderr)[-6000:]}", pytrace=False)
