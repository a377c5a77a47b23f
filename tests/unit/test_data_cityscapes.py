"""Cityscapes in its official layout, drawn small: 27 of its label ids, the rest void."""

import numpy as np
import pytest
from PIL import Image

from cause_lib.data import COUNTS, load_dataset

FRAMES = {"train": ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"],
          "val": ["munster_000002_000019"]}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Frames of 34 x 6 pixels, whose columns are the label ids 0 to 33; beside them what the archives also hold."""
    root = tmp_path / "cityscapes"
    for split, frames in FRAMES.items():
        for seed, frame in enumerate(frames):
            city = frame.split("_")[0]
            pictures, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
            pictures.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(seed).integers(0, 256, (6, 34, 3), dtype=np.uint8)
            Image.fromarray(picture).save(pictures / f"{frame}_leftImg8bit.png")
            label = np.tile(np.arange(34, dtype=np.uint8), (6, 1))
            label[0] = 255
            Image.fromarray(label).save(labels / f"{frame}_gtFine_labelIds.png")
            Image.fromarray(picture).save(labels / f"{frame}_gtFine_color.png")
            (labels / f"{frame}_gtFine_polygons.json").write_text("{}")
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    return root


def load(split="train", **options):
    return load_dataset("cityscapes", split, **({"image_size": 6} | options))


def test_frames_in_the_order_of_cities(tree):
    assert load().names == [f"{frame}_leftImg8bit.png" for frame in FRAMES["train"]]
    assert load("val").names == ["munster_000002_000019_leftImg8bit.png"]
    assert len(load(crops="five")) == 15 and COUNTS["cityscapes"] == {"train": 2975, "val": 500}
    assert load(limit=2).names == [load().names[0], load().names[1]]


def test_label_ids_7_to_33_are_the_classes(tree):
    dataset = load()
    image, label = dataset.source.read(0)
    assert image.shape == (3, 6, 34)
    assert label[1].tolist() == [-1] * 7 + list(range(27)) and (label[0] == -1).all()
    assert dataset.num_classes == len(set(dataset.classes)) == 27
    ends = {0: ("road", [128, 64, 128]), 16: ("sky", [70, 130, 180]), 26: ("bicycle", [119, 11, 32])}
    assert {i: (dataset.classes[i], dataset.colors[i].tolist()) for i in ends} == ends


@pytest.mark.parametrize("kind", ["picture", "label"])
def test_half_of_a_pair_is_missed(tree, kind):
    folder, ending = ("leftImg8bit", "leftImg8bit") if kind == "picture" else ("gtFine", "gtFine_labelIds")
    (tree / folder / "train" / "ulm" / f"ulm_000000_000019_{ending}.png").unlink()
    words = rf"cityscapes train lacks 1 of 3 {kind}s .*{folder}/train/ulm/ulm_000000_000019_{ending}.png.*CAUSE_DATA"
    with pytest.raises(FileNotFoundError, match=words):
        load()


def test_no_frames_at_all(tree):
    for folder in ("leftImg8bit", "gtFine"):
        (tree / folder / "val").rename(tree / folder / "elsewhere")
    words = "cityscapes val has neither pictures .*leftImg8bit/val.*gtFine/val"
    with pytest.raises(FileNotFoundError, match=words) as error:
        load("val")
    assert "\n" not in str(error.value)
