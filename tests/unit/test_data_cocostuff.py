"""COCO-Stuff in the layout of the public folder, drawn small, labelled in 27, 81 and 171 classes."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from cause_lib.data import COUNTS, load_dataset
from cause_lib.data.cocostuff import FACTS, classes_of

FINE = {name: i for i, (name, _) in enumerate(FACTS["fine"])}
COARSE_SHA256 = "012843589eea677da099c971e44b5b8fff52db0d6e0fe3f63a4e42d68fb0d76e"
NUM_CLASSES = {"cocostuff27": 27, "coco81": 81, "coco171": 171}
LISTS = {"Coco164kFull_Stuff_Coarse": ["000000000009", "000000000025", "000000581929"],
         "Coco164kFull_Stuff_Coarse_7": ["000000000025"]}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Three pictures a split, 20 x 14; the labels run through all fine ids and void; the last picture is grey."""
    root = tmp_path / "cocostuff"
    for split in ("train2017", "val2017"):
        for kind in ("images", "annotations", "curated"):
            (root / kind / split).mkdir(parents=True)
        for name, ids in LISTS.items():
            (root / "curated" / split / f"{name}.txt").write_text("\n".join(ids) + "\n")
        for seed, i in enumerate(LISTS["Coco164kFull_Stuff_Coarse"]):
            random = np.random.default_rng(seed)
            picture = random.integers(0, 256, (14, 20, 3), dtype=np.uint8)
            Image.fromarray(picture[..., 0] if seed == 2 else picture).save(root / "images" / split / f"{i}.jpg")
            fine = np.append(np.arange(182), np.full(14 * 20 - 182, 255)).astype(np.uint8).reshape(14, 20)
            Image.fromarray(np.roll(fine, seed)).save(root / "annotations" / split / f"{i}.png")
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    return root


def load(name="cocostuff27", split="train", **options):
    return load_dataset(name, split, **({"image_size": 14} | options))


@pytest.mark.parametrize("name", list(NUM_CLASSES))
def test_published_lists_and_classes(tree, name):
    train, val = load(name), load(name, "val")
    assert train.names == [f"{i}.jpg" for i in LISTS["Coco164kFull_Stuff_Coarse"]]
    assert len(val) == (1 if name == "cocostuff27" else 3)
    assert train.num_classes == len(set(train.classes)) == NUM_CLASSES[name]
    assert train.colors.shape == (NUM_CLASSES[name], 3) and train.has_labels
    assert COUNTS[name] == {"train": 97702, "val": 2175 if name == "cocostuff27" else 4172}
    assert load(name, num_classes=NUM_CLASSES[name], limit=2).names == train.names[:2]
    assert len(load(name, crops="five")) == 15 and len(load(name, crops="double")) == 60


@pytest.mark.parametrize("name", list(NUM_CLASSES))
def test_every_fine_id_gets_its_class(tree, name):
    """Against a walk over the pixels by name."""
    dataset = load(name)
    image, label = dataset.source.read(1)
    fine = np.asarray(Image.open(tree / "annotations" / "train2017" / "000000000025.png"))
    assert image.shape == (3, 14, 20) and label.dtype == torch.int32
    for found, i in zip(label.flatten().tolist(), fine.flatten().tolist(), strict=True):
        fine_name, coarse = (None, None) if i == 255 else FACTS["fine"][i]
        if name == "cocostuff27":
            expected = coarse
        elif i >= 91 and name == "coco81" and i != 255:
            expected = "stuff"
        else:
            expected = None if fine_name in FACTS["unused"] else fine_name
        assert (dataset.classes[found] if found >= 0 else None) == expected


def test_grey_pictures_have_three_channels(tree):
    image = load()[2]["image"]
    assert image.shape == (3, 14, 14) and torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_the_facts():
    """The map to 27 as a whole, the ends of the others, and names that a reader can check."""
    coarse = classes_of("cocostuff27")[1]
    assert hashlib.sha256(json.dumps(coarse).encode()).hexdigest() == COARSE_SHA256
    assert len(FINE) == 182 and len(FACTS["unused"]) == 11 and set(FACTS["unused"]) <= set(FINE)
    named = {"person": "person", "grass": "plant", "sky-other": "sky", "wall-tile": "wall", "road": "ground",
             "banana": "food", "salad": "food stuff", "tv": "electronic", "sea": "water", "cloth": "textile"}
    assert {name: FACTS["fine"][FINE[name]][1] for name in named} == named
    classes, table = classes_of("coco81")
    assert (classes[0], classes[1], classes[80]) == ("stuff", "person", "toothbrush")
    assert table[91:] == (0,) * 91 and [i for i in table if i > 0] == list(range(1, 81))
    classes, table = classes_of("coco171")
    assert (classes[0], classes[80], classes[170]) == ("person", "banner", "wood")
    assert [i for i in table if i >= 0] == list(range(171)) and table[FINE["street sign"]] == -1


def test_what_is_missing_is_named(tree):
    (tree / "annotations" / "train2017" / "000000000025.png").unlink()
    words = r"lacks 1 of 3 labels .*annotations/train2017/000000000025.png.*CAUSE_DATA"
    with pytest.raises(FileNotFoundError, match=words):
        load()
    (tree / "curated" / "val2017" / "Coco164kFull_Stuff_Coarse_7.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"cocostuff27 val lacks its list .*curated/val2017/.*_7.txt.*curated"):
        load(split="val")
    assert len(load("coco81", "val")) == 3


def test_an_id_that_coco_stuff_does_not_have(tree):
    path = tree / "annotations" / "train2017" / "000000000009.png"
    Image.fromarray(np.full((14, 20), 182, dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match="000000000009.png' has the class id 182"):
        load()[0]


def test_sets_on_the_same_files_have_fingerprints_of_their_own(tree):
    prints = {load(name).fingerprint for name in NUM_CLASSES}
    assert len(prints) == 3 and load().fingerprint in prints and load(limit=2).fingerprint not in prints
