"""Pascal VOC 2012 in its official layout, drawn small; the squash; and the download against a server of our own."""

import hashlib
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from serving import serve

from cause_lib.data import COUNTS, load_dataset, pascalvoc, resize_and_crop

SPLITS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"], "trainval": ["2007_000032", "2007_000033"]}


def draw(root):
    """VOCdevkit/VOC2012 below `root`: three pictures, 30 x 20, palette labels of all ids and void, and other tasks'."""
    home = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation", "Annotations"):
        (home / folder).mkdir(parents=True)
    for split, names in SPLITS.items():
        (home / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for seed, name in enumerate(sorted({name for names in SPLITS.values() for name in names})):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(home / "JPEGImages" / f"{name}.jpg")
        ids = random.integers(0, 22, (20, 30))
        label = Image.fromarray(np.where(ids == 21, 255, ids).astype(np.uint8)).convert("P")
        label.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
        label.save(home / "SegmentationClass" / f"{name}.png")
        (home / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    return root


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    return draw(tmp_path / "data" / "pascalvoc") / "VOCdevkit" / "VOC2012"


def load(split="train", **options):
    return load_dataset("pascalvoc", split, **({"image_size": 16} | options))


def test_splits_classes_and_colours(tree):
    for split, names in SPLITS.items():
        assert load(split).names == [f"{name}.jpg" for name in names]
    dataset = load()
    assert dataset.num_classes == 21 and COUNTS["pascalvoc"] == {"train": 1464, "val": 1449}
    known = {0: ("background", [0, 0, 0]), 1: ("aeroplane", [128, 0, 0]), 15: ("person", [192, 128, 128]),
             20: ("tv/monitor", [0, 64, 128])}
    assert {i: (dataset.classes[i], dataset.colors[i].tolist()) for i in known} == known
    label = dataset.source.read(0)[1]
    assert label.min() == -1 and label.max() == 20


@pytest.mark.parametrize("size", [16, 44])  # no centre falls between two pixels
def test_whole_pictures_are_squashed_by_pillows_nearest(tree, size):
    item = load("val", image_size=size)[0]
    for folder, suffix, found in (("JPEGImages", "jpg", item["image"]), ("SegmentationClass", "png", item["label"])):
        with Image.open(tree / folder / f"2007_000033.{suffix}") as picture:
            expected = np.asarray(picture.resize((size, size), Image.Resampling.NEAREST)).astype(int)
        if folder == "JPEGImages":
            assert found.dtype == torch.float32
            assert np.array_equal((found * 255).round().int().permute(1, 2, 0).numpy(), expected)
        else:
            assert found.dtype == torch.int64
            assert np.array_equal(found.numpy(), np.where(expected == 255, -1, expected))


def test_squash_at_the_published_size():
    picture = np.random.default_rng(0).integers(0, 256, (375, 500), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((320, 320), Image.Resampling.NEAREST))
    assert np.array_equal(resize_and_crop(torch.from_numpy(picture), 320, squash=True).numpy(), expected)


def test_fifty_views_a_picture_each_squashed(tree):
    dataset = load(crops="super")
    assert len(dataset) == len(set(dataset.names)) == 100
    label = dataset.source.read(1)[1].numpy()
    mirrored = label[:, ::-1][:6, :9]  # top left of the mirror image at 0.3, of 20 x 30 pixels
    rows, columns = (((np.arange(16) + 0.5) * side / 16).astype(int) for side in mirrored.shape)  # under the centres
    expected = mirrored[rows][:, columns]
    item = dataset[50 + 5]
    assert item["index"] == 55 and np.array_equal(item["label"].numpy(), expected)
    with pytest.raises(IndexError):
        dataset[100]


def test_trainaug_where_it_is_present(tree):
    with pytest.raises(FileNotFoundError, match=r"pascalvoc trainaug lacks its list .*Segmentation/trainaug.txt"):
        load("trainaug")
    (tree / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_000039\n")
    words = r"lacks 1 of 1 labels .*SegmentationClassAug/2007_000039.png.*CAUSE_DATA"
    with pytest.raises(FileNotFoundError, match=words):
        load("trainaug")
    (tree / "SegmentationClassAug").mkdir()
    Image.fromarray(np.full((20, 30), 3, dtype=np.uint8)).save(tree / "SegmentationClassAug" / "2007_000039.png")
    assert (load("trainaug")[0]["label"] == 3).all()


def test_an_id_that_voc_does_not_have(tree):
    Image.fromarray(np.full((20, 30), 21, dtype=np.uint8)).save(tree / "SegmentationClass" / "2007_000032.png")
    with pytest.raises(ValueError, match="2007_000032.png' has the class id 21"):
        load()[0]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a tiny archive; the module looks there, with its checksum, and caches in a folder of the test."""
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / pascalvoc.ARCHIVE, "w") as tar:
        tar.add(draw(tmp_path / "drawn") / "VOCdevkit", "VOCdevkit")

    monkeypatch.setattr(pascalvoc, "SHA256", hashlib.sha256((served / pascalvoc.ARCHIVE).read_bytes()).hexdigest())
    with serve(served, monkeypatch, pascalvoc, tmp_path / "cache") as http:
        yield http


def test_download_unpacks_what_is_needed_and_asks_once(server, tmp_path):
    killed = tmp_path / "cache" / "pascalvoc" / "unpacked" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    killed.mkdir(parents=True)  # what a process left that was killed while unpacking
    assert load("val")[0]["image"].shape == (3, 16, 16)
    assert load(download=False).names == ["2007_000032.jpg", "2007_000039.jpg"]
    assert len(server.asked) == 1
    assert {path.name for path in (tmp_path / "cache/pascalvoc").iterdir()} - {".lock"} == {"VOCdevkit"}
    home = tmp_path / "cache" / "pascalvoc" / "VOCdevkit" / "VOC2012"
    assert sorted(path.name for path in home.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClass"]


def test_wrong_checksum_is_refused_and_not_kept(server, tmp_path):
    (server.files / pascalvoc.ARCHIVE).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"'{pascalvoc.ARCHIVE}' from .* SHA-256") as error:
        load()
    assert "\n" not in str(error.value) and not list((tmp_path / "cache").rglob("*.tar"))


def test_offline_says_what_to_do(server, monkeypatch):
    monkeypatch.setattr(pascalvoc, "BASE_URL", "http://127.0.0.1:9/")  # the discard port: nobody answers
    words = r"pascalvoc could not be downloaded.*\$CAUSE_DATA/pascalvoc.*scenes"
    with pytest.raises(RuntimeError, match=words) as error:
        load()
    assert "\n" not in str(error.value)
