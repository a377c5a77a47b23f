"""load_dataset: one shape of item for every set, five views a picture, and arguments that make no sense."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cause_lib.data import DATASETS, load_dataset, palette


def test_an_item_is_what_it_says():
    dataset = load_dataset("scenes", "train", image_size=40, limit=3)
    assert len(dataset) == 3 and len(dataset.names) == 3 and dataset.has_labels
    assert (dataset.name, dataset.split, dataset.num_classes) == ("scenes", "train", len(dataset.classes))
    assert dataset.colors.shape == (dataset.num_classes, 3) and dataset.colors.dtype == np.uint8
    for i, item in enumerate(dataset):
        assert set(item) == {"image", "label", "index"} and item["index"] == i
        assert item["image"].shape == (3, 40, 40) and item["image"].dtype == torch.float32
        assert 0 <= item["image"].min() and item["image"].max() <= 1
        assert item["label"].shape == (40, 40) and item["label"].dtype == torch.int64
        assert 0 <= item["label"].min() and item["label"].max() < dataset.num_classes
    with pytest.raises(IndexError):
        dataset[3]


def test_five_crops_are_the_corners_and_the_centre():
    dataset = load_dataset("scenes", "val", image_size=32, crops="five", crop_ratio=0.5, limit=2)
    assert len(dataset) == 10 and len(set(dataset.names)) == 10
    image, label = dataset.source.read(1)  # drawn at twice the size, so that a crop needs no resizing
    assert image.shape == (3, 64, 64)
    for view, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]):
        item = dataset[5 + view]
        assert item["index"] == 5 + view
        assert torch.equal((item["image"] * 255).round().byte(), image[:, top : top + 32, left : left + 32])
        assert torch.equal(item["label"], label[top : top + 32, left : left + 32].long())


@pytest.mark.parametrize("ratio", [1e-6, 0.37, 1.0])
def test_any_crop_ratio_works(ratio):
    dataset = load_dataset("scenes", "val", image_size=4, crops="five", crop_ratio=max(ratio, 0.05), limit=1)
    assert all(item["image"].shape == (3, 4, 4) for item in dataset)


def test_workers_and_pickles_give_the_same_items():
    dataset = load_dataset("scenes", "train", image_size=24, crops="five", limit=2)
    expected = torch.stack([item["image"] for item in dataset])
    loaded = torch.cat([batch["image"] for batch in DataLoader(dataset, batch_size=3, num_workers=2)])
    assert torch.equal(loaded, expected)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[7]["image"], expected[7])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(name="camvidd"), "unknown dataset 'camvidd' .*'camvid'.*known are scenes, camvid, folder, coco"),
        (dict(name="cocostuff"), "unknown dataset 'cocostuff' .did you mean 'cocostuff27'.*known are"),
        (dict(crops="fiv"), "unknown crops 'fiv' .*'five'"),
        (dict(crop_ratio=0.0), "crop_ratio"),
        (dict(crop_ratio=1.5), "crop_ratio"),
        (dict(image_size=0), "image_size"),
        (dict(limit=0), "limit"),
        (dict(num_classes=0), "num_classes"),
        (dict(num_classes=5), "num_classes=5, but scenes has 12"),
        (dict(folder="mine"), "folder='mine'"),
        (dict(level="parts"), "scenes has no level 'parts' .did you mean 'part'.*: use one of part, object, group"),
        (dict(name="camvid", level="part"), "level='part' goes with dataset 'scenes', not with 'camvid'"),
        (dict(split="test"), "no split 'test': use one of train, val"),
    ],
)
def test_senseless_arguments_are_named(changes, words):
    arguments = dict(name="scenes", split="train", image_size=16) | changes
    with pytest.raises(ValueError, match=words) as error:
        load_dataset(arguments.pop("name"), arguments.pop("split"), **arguments)
    assert "\n" not in str(error.value)


def test_known_names():
    published = ["cocostuff27", "coco81", "coco171", "cityscapes", "pascalvoc"]
    assert list(DATASETS) == ["scenes", "camvid", "folder", *published]


def test_palette_is_distinct_and_grows_from_its_start():
    for count in (1, 8, 27, 171):
        colors = palette(count)
        assert colors.shape == (count, 3) and colors.dtype == np.uint8
        assert len(np.unique(colors, axis=0)) == count
        assert np.array_equal(palette(171)[:count], colors)
