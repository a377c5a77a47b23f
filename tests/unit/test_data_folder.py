"""Anybody's folder: both layouts, with and without labels and names, and what each mistake says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cause_lib.data import load_dataset
from cause_lib.data.__main__ import main as data_command
from cause_lib.data.folder import splits_of
from cause_lib.data.source import list_pictures
from cause_lib.errors import Refusal


def put(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def photo(height=12, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(largest, height=12, width=16):
    label = np.full((height, width), largest, dtype=np.uint8)
    label[0] = 255
    return label


@pytest.fixture
def labelled(tmp_path):
    """train and val, three pictures each, ids 0 to 2 in train and 4 in val."""
    for split, largest in (("train", 2), ("val", 4)):
        for i, name in enumerate(("b10.JPG", "b2.png", "a.jpeg")):
            put(tmp_path / split / "images" / name, photo(seed=i))
            put(tmp_path / split / "labels" / f"{name.split('.')[0]}.png", ids(largest))
    return tmp_path


def load(folder, split="train", **options):
    return load_dataset("folder", split, image_size=8, folder=str(folder), **options)


def test_split_layout_with_labels(labelled):
    dataset = load(labelled)
    assert dataset.names == ["a.jpeg", "b2.png", "b10.JPG"]  # numbers in the order of people
    assert dataset.has_labels
    assert dataset.classes == [f"class {i}" for i in range(5)] == load(labelled, "val").classes  # over all splits
    label = dataset[0]["label"]
    assert (label == 2).any() and (label == -1).any() and set(label.unique().tolist()) == {-1, 2}


def test_flat_layout_without_labels_serves_every_split(tmp_path):
    for name in ("one.png", "two.webp", "three.bmp", "four.TIF", "five.jpg"):
        put(tmp_path / "images" / name, photo())
    (tmp_path / "images" / "notes.txt").write_text("not a picture")
    (tmp_path / "images" / "._one.png").write_bytes(b"what some file managers leave behind")
    (tmp_path / "images" / "more").mkdir()
    train, val = load(tmp_path), load(tmp_path, "val", num_classes=4)
    assert train.names == val.names == ["five.jpg", "four.TIF", "one.png", "three.bmp", "two.webp"]
    assert not train.has_labels and (train[0]["label"] == -1).all()
    assert train.num_classes == 27 and train.classes[0] == "cluster 0"
    assert val.classes == ["cluster 0", "cluster 1", "cluster 2", "cluster 3"]
    assert len(load(tmp_path, crops="five")) == 25


@pytest.mark.parametrize("above", [False, True])
def test_names_and_colours(labelled, above):
    where = labelled if above else labelled / "train"
    named = ["sky", {"name": "sea", "color": [1, 2, 3]}, {"name": "sand", "color": "#0a0b0c"}]
    (where / "classes.json").write_text(json.dumps(named))
    dataset = load(labelled)
    assert dataset.classes == ["sky", "sea", "sand"] and dataset.num_classes == 3
    assert dataset.colors[1:].tolist() == [[1, 2, 3], [10, 11, 12]]
    dataset[0]
    with pytest.raises(ValueError, match="num_classes=2, but .* has 3 classes, and each needs a cluster"):
        load(labelled, num_classes=2)


def test_class_id_without_a_class(labelled):
    (labelled / "classes.json").write_text('["sky", "sea", "sand"]')
    with pytest.raises(ValueError, match=r"a\.png' has the class id 4, but ids go from 0 to 2"):
        load(labelled, "val")[0]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[3]", '{"sky": 0}', '[{"color": [0, 0, 0]}]']
    + [f'[{{"name": "sky", "color": {color}}}]' for color in ("[0, 0, 300]", "[0, 0]", '"blueish"')],
)
def test_bad_classes_json_is_named(labelled, text):
    (labelled / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=r"classes\.json' is not a list of class names") as error:
        load(labelled)
    assert "\n" not in str(error.value)


def test_unlabelled_split_of_a_labelled_folder(labelled):
    for path in (labelled / "train" / "labels").iterdir():
        path.unlink()
    (labelled / "train" / "labels").rmdir()
    dataset = load(labelled)
    assert not dataset.has_labels and dataset.num_classes == 5 and (dataset[0]["label"] == -1).all()


def test_all_void_labels(tmp_path):
    put(tmp_path / "images" / "a.png", photo())
    put(tmp_path / "labels" / "a.png", np.full((12, 16), 255, dtype=np.uint8))
    dataset = load(tmp_path)
    assert dataset.classes == ["class 0"] and (dataset[0]["label"] == -1).all()


def test_name_below_cause_data(labelled, monkeypatch):
    monkeypatch.setenv("CAUSE_DATA", str(labelled.parent))
    assert len(load(labelled.name)) == 3


def test_missing_label(labelled):
    (labelled / "train" / "labels" / "b2.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 3 pictures in .* have no label .the first is 'b2\.png'"):
        dataset = load(labelled)
    assert (dataset[1]["label"] == -1).all() and (dataset[0]["label"] == 2).any()


def test_label_of_another_size(labelled):
    put(labelled / "train" / "labels" / "a.png", ids(1, height=11))
    with pytest.raises(ValueError, match=r"a\.png' is 16 x 11 .*a\.jpeg' is 16 x 12"):
        load(labelled)[0]


def test_corrupt_picture_in_the_folder(labelled):
    path = labelled / "train" / "images" / "b10.JPG"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b10\.JPG' cannot be read"):
        load(labelled)[2]


def test_tiny_and_rotated_pictures(tmp_path):
    put(tmp_path / "images" / "a.png", photo(1, 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(12, 16)).save(tmp_path / "images" / "b.jpg", exif=exif)
    put(tmp_path / "labels" / "a.png", ids(0, 1, 1))
    put(tmp_path / "labels" / "b.png", ids(3, 16, 12))  # drawn on the picture as it is seen
    dataset = load_dataset("folder", "train", image_size=32, folder=str(tmp_path), crops="five")
    assert all(item["image"].shape == (3, 32, 32) for item in dataset)
    assert (dataset[0]["image"] == dataset[0]["image"][:, :1, :1]).all()


@pytest.mark.parametrize("make", ["nothing", "empty", "no images"])
def test_nothing_there(tmp_path, make):
    folder = tmp_path / "mine"
    if make != "nothing":
        (folder / ("images" if make == "empty" else "photos")).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="mine.*expected <folder>/images/ or <folder>/<split>/images/") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_missing_split_names_those_there(labelled):
    with pytest.raises(FileNotFoundError, match="'test'.*train, val"):
        load(labelled, "test")


def test_no_folder_given():
    with pytest.raises(ValueError, match="needs folder="):
        load_dataset("folder", "train", image_size=8)


def test_fingerprint_follows_pictures_labels_and_the_number_of_classes(labelled):
    first = load(labelled).fingerprint
    assert load(labelled).fingerprint == first != load(labelled, "val").fingerprint
    (labelled / "classes.json").write_text('["a", "b", "c", "d", {"name": "e", "color": "red"}]')
    assert load(labelled).fingerprint == first  # names and colours change nothing that is read
    (labelled / "classes.json").write_text('["a", "b", "c", "d", "e", "f"]')
    seen = {first, load(labelled).fingerprint}
    for path in ("train/images/a.jpeg", "train/labels/a.png"):
        content = bytearray((labelled / path).read_bytes())
        content[-1] ^= 1  # of the same size
        (labelled / path).write_bytes(content)
        seen.add(load(labelled).fingerprint)
    assert len(seen) == 4


def test_fingerprint_does_not_ask_when_a_file_was_written(labelled):
    first = load(labelled).fingerprint
    for path in labelled.rglob("*.*"):
        os.utime(path, ns=(1, 1))
    assert load(labelled).fingerprint == first


def test_limit_spreads_over_the_folder(tmp_path):
    for i in range(10):
        put(tmp_path / "images" / f"{i}.png", photo())
    assert load(tmp_path, limit=2).names == ["0.png", "5.png"]
    assert len(load(tmp_path, limit=99)) == 10


def test_an_absolute_split_is_refused(labelled):
    with pytest.raises(ValueError, match=f"^train_split and test_split are folders below '.*', not '{labelled}/train': give it"):
        load(labelled, str(labelled / "train"))


@pytest.mark.parametrize("folder", ["train/images/more", "train/labels", "val/labels/more", "train/images"])
def test_a_folder_that_cannot_be_read_is_named(labelled, monkeypatch, folder):
    (closed := labelled / folder).mkdir(exist_ok=True)
    scandir = os.scandir

    def scan(path="."):
        if os.path.samefile(path, closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(ValueError, match=f"^'{closed}' cannot be read .Permission denied.: allow that, or move it away$"):
        load(labelled)


def test_splits_below_images_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    put(tmp_path / "images/a.png", photo())

    def scan(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scan)
    for look in (load, splits_of, list_pictures):
        with pytest.raises(Refusal, match="images' cannot be read .Permission denied.: "):
            look(tmp_path / "images" if look is list_pictures else tmp_path)


def test_a_split_that_cannot_be_read_is_not_left_out_of_a_report(labelled, monkeypatch, capsys):
    scandir = os.scandir

    def scan(path="."):
        if os.path.samefile(path, labelled / "val"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(SystemExit):
        data_command(["check", str(labelled)])
    assert f"'{labelled}/val' cannot be read (Permission denied): allow that" in capsys.readouterr().err


def test_a_split_that_cannot_be_looked_into_is_named(labelled, monkeypatch):
    is_dir = Path.is_dir

    def looked(path):
        if path == labelled / "train/images":
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", looked)
    with pytest.raises(Refusal, match="train/images' cannot be read .Permission denied.: "):
        load(labelled)
