"""What the published sets share: their crops, the squash of VOC, files that are missing, and `check`."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Cityscapes

from cause_lib.config import Experiment
from cause_lib.data import COUNTS, DATASETS, check_dataset, load_dataset
from cause_lib.data.__main__ import main
from cause_lib.data.published import FACTS, open_pairs, read_list
from cause_lib.data.views import CROPS

VIEWS = {"cocostuff27": "five", "coco81": "double", "coco171": "double", "cityscapes": "five", "pascalvoc": "super"}
RATIOS = {"double": (0.5, 0.8), "super": (0.3, 0.4, 0.5, 0.6, 0.7)}


def naive_crops(picture, ratios):
    """Corners and centre of the picture, then of its mirror image, for one ratio after the other."""
    views = []
    for ratio in ratios:
        for turned in (picture, picture[..., ::-1]):
            height, width = turned.shape[-2:]
            h, w = int(height * ratio), int(width * ratio)
            middle = round((height - h) / 2), round((width - w) / 2)
            for top, left in ((0, 0), (0, width - w), (height - h, 0), (height - h, width - w), middle):
                views.append(turned[..., top : top + h, left : left + w])
    return views


@pytest.mark.parametrize("name", list(RATIOS))
@pytest.mark.parametrize("size", [(375, 500), (333, 427), (20, 11)])
def test_published_crops_are_ten_a_ratio(name, size):
    places = np.arange(size[0] * size[1]).reshape(size)
    image = torch.from_numpy(np.stack([places % 256, places // 256 % 256, places // 65536]).astype(np.uint8))
    names, cut = CROPS[name]
    views, labels, expected = cut(image, 0.5), cut(torch.from_numpy(places), 0.5), naive_crops(places, RATIOS[name])
    assert len(names) == len(set(names)) == len(views) == len(labels) == len(expected) == 10 * len(RATIOS[name])
    for view, label, naive in zip(views, labels, expected, strict=True):
        assert np.array_equal(label.numpy(), naive)
        view = view.int()
        assert torch.equal(view[0] + 256 * view[1] + 65536 * view[2], label.int())
    assert names[7] == f" ({RATIOS[name][0]}, bottom left, mirrored)"


def test_any_set_can_be_cut_so():
    dataset = load_dataset("scenes", "val", image_size=16, crops="super", limit=2)
    assert len(dataset) == len(dataset.names) == 100
    assert dataset[99]["image"].shape == (3, 16, 16)


def test_preset_lengths_are_the_published_epochs():
    """One epoch of step 1, two of step 2 and, for TR, five of step 3, over all views of all training pictures."""
    for name, crops in VIEWS.items():
        views = COUNTS[name]["train"] * len(CROPS[crops][0])
        run = Experiment(dataset=name, backbone="dino_vitb8")
        for steps, epochs in ((run.concept_steps, 1), (run.head_steps, 2), (run.probe_steps, 5)):
            assert 0 <= steps * run.batch_size - epochs * views < epochs * run.batch_size


def test_lists_of_pictures(tmp_path):
    (tmp_path / "list.txt").write_text("000000000139\r\n\n/JPEGImages/2007_000032.jpg /Segmentation/2007_000032.png\n")
    assert read_list("set train", tmp_path / "list.txt", "put it there") == ["000000000139", "2007_000032"]
    with pytest.raises(FileNotFoundError, match="set train lacks its list of pictures '.*gone.txt': put it there"):
        read_list("set train", tmp_path / "gone.txt", "put it there")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="empty.txt' is empty"):
        read_list("set train", tmp_path / "empty.txt", "put it there")


def test_missing_files_are_counted_and_one_is_named(tmp_path):
    there = tmp_path / "a" / "1.jpg"
    there.parent.mkdir()
    there.touch()
    assert open_pairs("set val", tmp_path, [there], [there], {"sky": (0, 0, 0)}, "put it there").names == ["1.jpg"]
    words = r"set val lacks 1 of 2 pictures .*2.jpg'. and 1 of 1 labels .*1.png'.: put it there"
    with pytest.raises(FileNotFoundError, match=words) as error:
        open_pairs("set val", tmp_path, [there, tmp_path / "a" / "2.jpg"], [tmp_path / "b" / "1.png"], {}, "put it there")
    assert "\n" not in str(error.value)


def test_names_and_colours_are_the_published_ones():
    """Cityscapes' by torchvision; VOC's by its rule, an id's bits dealt in turn to red, green and blue, high ones first."""
    official = {kind.name: list(kind.color) for kind in Cityscapes.classes if 7 <= kind.id <= 33}
    assert list(FACTS["cityscapes"]["classes"].items()) == list(official.items())
    dealt = [[sum((i >> (3 * j + channel) & 1) << (7 - j) for j in range(3)) for channel in range(3)] for i in range(21)]
    assert list(FACTS["pascalvoc"]["classes"].values()) == dealt


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine with no data at all."""
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("scenes", "folder", "camvid")])
def test_a_set_that_is_nowhere(nowhere, name):
    folder = "cocostuff" if name.startswith("coco") else name
    words = rf"{name} is not on this machine.*data/{folder}.*\$CAUSE_DATA"
    with pytest.raises(FileNotFoundError, match=words) as error:
        load_dataset(name, "val", image_size=8, download=False)
    assert "\n" not in str(error.value) and "dataset='scenes'" in str(error.value)
    with pytest.raises(ValueError, match=f"{name} has no split 'test': use one of train, val"):
        load_dataset(name, "test", image_size=8)


def test_check_says_what_is_missing_and_where(nowhere, capsys):
    assert main(["check"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list(COUNTS)  # once a set
    assert all("is not on this machine" in line and "$CAUSE_DATA/" in line for line in said)
    with pytest.raises(ValueError, match="unknown set to check 'citiscapes' .*'cityscapes'"):
        check_dataset("citiscapes")
    with pytest.raises(SystemExit, match="2"):
        main(["check", "mine"])
    assert "known are camvid, cocostuff27" in capsys.readouterr().err


def test_check_counts_files(nowhere, capsys):
    root = nowhere / "data" / "cocostuff"
    for split, there in (("train", 1), ("val", 3)):
        (root / "images" / f"{split}2017").mkdir(parents=True)
        (root / "annotations" / f"{split}2017").mkdir(parents=True)
        listed = root / "curated" / f"{split}2017" / "Coco164kFull_Stuff_Coarse.txt"
        listed.parent.mkdir(parents=True)
        listed.write_text("1\n2\n3\n")
        for i in range(there):
            (root / "images" / f"{split}2017" / f"{i + 1}.jpg").touch()
            (root / "annotations" / f"{split}2017" / f"{i + 1}.png").touch()
    assert main(["check", "coco81"]) == 1
    lines = capsys.readouterr().out.splitlines()
    pictures, labels = root / "images/train2017/2.jpg", root / "annotations/train2017/2.png"
    assert lines[0].startswith(f"coco81 train lacks 2 of 3 pictures (the first is '{pictures}') and 2 of 3 labels (the "
                               f"first is '{labels}'): lay")
    assert lines[1] == "coco81 val: 3 pictures with labels, but 4172 were published"
    assert lines[-1].startswith("to be mended: val: 3 of 3 cannot be used; the first: '") and "1.jpg" in lines[-1]


def test_check_of_a_whole_set(nowhere, monkeypatch):
    for split, count in (("train", 2), ("val", 1)):
        for frame in range(count):
            for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
                path = nowhere / "data" / "cityscapes" / kind / split / "ulm" / f"ulm_{frame}_{ending}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 2)).save(path)
    monkeypatch.setitem(COUNTS, "cityscapes", {"train": 2, "val": 1})
    whole, lines = check_dataset("cityscapes")
    assert whole and lines[1] == "cityscapes val: 1 pictures with labels, as published"
    assert main(["check", "cityscapes"]) == 0
