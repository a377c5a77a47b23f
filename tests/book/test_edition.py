"""An edition of the book on a folder without labels, from its command to its pages. Some minutes: `make check` alone."""

import os
import subprocess
import sys

import pytest
from built import PAGES, ROOT
from torchvision.utils import save_image

from cause_lib import load_dataset

pytestmark = pytest.mark.skipif("BOOK" not in os.environ, reason="some minutes: make check")


def test_a_folder_without_labels_makes_a_whole_book(tmp_path):
    (tmp_path / "holiday/images").mkdir(parents=True)
    for i, item in enumerate(load_dataset("scenes", "val", image_size=96, limit=24)):
        save_image(item["image"], tmp_path / f"holiday/images/{i}.png")
    done = subprocess.run(
        [sys.executable, "book/build.py", "--dataset", "folder", "--folder", tmp_path / "holiday", "--sizes",
         "tests/book/sizes.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    html = ROOT / "_build/folder-holiday-bundled/html"
    for page in PAGES:
        text = (html / f"{page}.html").read_text()
        assert "Edition: data set folder holiday, backbone bundled, 24 training and 12 test pictures" in text, page
        assert str(tmp_path) not in text, page
    assert "holiday has none" in (html / "notebooks/10_alive.html").read_text()
    for page in ("notebooks/08_evaluation", "book/outcome", "book/reproducing"):
        assert "no labels, so there" in (html / f"{page}.html").read_text(), page
