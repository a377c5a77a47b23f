"""Shared fixtures: a tiny folder of labelled pictures, and an experiment that runs in seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cause_lib.config import Experiment

TINY = dict(image_size=48, num_concepts=12, concept_steps=12, thin=2, projection_dim=16, head_steps=8, probe_steps=8,
            batch_size=4, kmeans_restarts=2, checkpoint_steps=3, device="cpu", crf=False)


def draw_folder(root, *, pictures=4, labels=True, label_seed=None):
    """`pictures` drawings of 64 x 56 pixels in three colours; labels true, or noise from `label_seed`."""
    rng = np.random.default_rng(0)
    noise = None if label_seed is None else np.random.default_rng(label_seed)
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
        if labels:
            (root / split / "labels").mkdir()
        for i in range(pictures):
            mask = np.zeros((56, 64), dtype=np.uint8)
            mask[rng.integers(10, 40):] = 1
            mask[:, rng.integers(30, 60):] = 2
            image = np.array([[60, 90, 200], [40, 160, 60], [200, 60, 50]])[mask] + rng.integers(-20, 20, (56, 64, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"{i}.png")
            if labels:
                mask = mask if noise is None else noise.integers(0, 3, mask.shape).astype(np.uint8)
                Image.fromarray(mask).save(root / split / "labels" / f"{i}.png")
    if labels:
        (root / "classes.json").write_text('["sky", "grass", "house"]')
    return root


def without_digests(run_dir):
    """Artefacts below a folder, or it, as versions wrote them that kept no digests: whoever changes one does this."""
    for path in Path(run_dir).rglob("artefact.json"):
        record = json.loads(path.read_text())
        kept = {key: value for key, value in record.items() if key not in ("artefact", "files", "digest", "crc32")}
        path.write_text(json.dumps(kept))


@pytest.fixture(autouse=True)
def no_figures_of_others():
    """No figure that a test leaves open is seen by the next one, whichever that is."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def tiny(tmp_path):
    """A function that makes a tiny experiment on a drawn folder, with changes."""
    folder = draw_folder(tmp_path / "data")

    def make(**changes):
        settings = dict(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs")) | TINY
        return Experiment(**(settings | changes))

    return make
