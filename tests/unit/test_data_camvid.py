"""CamVid: both layouts, drawn small, and the download against a server of our own."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from serving import serve

from cause_lib.data import COUNTS, camvid, load_dataset


def pair(image_path, label_path, void, seed):
    random = np.random.default_rng(seed)
    for path in (image_path, label_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(image_path)
    label = random.integers(0, 11, (9, 12), dtype=np.uint8)
    label[:3] = void
    Image.fromarray(label).save(label_path)


def published(root):
    """A tiny CamVid as the SegNet tutorial lays it out: two train pictures, one val, one test."""
    for seed, name in enumerate(("train/0001.png", "train/0002.png", "val/0003.png", "test/0004.png")):
        split, file = name.split("/")
        pair(root / name, root / f"{split}annot" / file, void=11, seed=seed)
    return root


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a tiny CamVid; the module looks there, with matching checksums, and caches in a folder of the test."""
    served = published(tmp_path / "served")

    files = sorted(path for path in served.rglob("*.png"))
    lines = [f"{p.relative_to(served).as_posix()} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    (tmp_path / "checksums").write_text("\n".join(lines))
    monkeypatch.setattr(camvid, "CHECKSUMS", tmp_path / "checksums")
    with serve(served, monkeypatch, camvid, tmp_path / "cache") as http:
        yield http


def load(split="train", **options):
    return load_dataset("camvid", split, image_size=8, **options)


@pytest.mark.parametrize("layout", ["published", "images and labels"])
def test_both_layouts(tmp_path, monkeypatch, layout):
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    if layout == "published":
        published(tmp_path / "camvid")
    else:
        for i in range(2):
            home = tmp_path / "camvid" / "train"
            pair(home / "images" / f"000{i + 1}.png", home / "labels" / f"000{i + 1}.png", void=255, seed=i)
    dataset = load()
    assert dataset.names == ["0001.png", "0002.png"] and dataset.num_classes == 11
    assert dataset.classes[:3] == ["sky", "building", "pole"] and dataset.colors[3].tolist() == [128, 64, 128]
    label = dataset[0]["label"]
    assert (label[:2] == -1).all() and label.max() <= 10 and (label[4:] >= 0).all()
    assert load(num_classes=11).fingerprint == dataset.fingerprint


def test_a_folder_without_pictures_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    (tmp_path / "camvid").mkdir()
    with pytest.raises(FileNotFoundError, match=r"camvid' has no 'train' pictures.*\$CAUSE_DATA/camvid"):
        load()


def test_other_split():
    with pytest.raises(ValueError, match="no split 'trian': use one of train, val, test"):
        load("trian")


def test_download_then_cache(server, tmp_path):
    assert load().names == ["0001.png", "0002.png"]
    assert len(server.asked) == 4  # two pictures and their labels: only the split that was asked for
    assert load(download=False)[0]["image"].shape == (3, 8, 8)
    assert len(server.asked) == 4  # the second time costs nothing
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".png"]


def test_download_goes_on_where_it_stopped(server, tmp_path):
    kept = tmp_path / "cache" / "camvid" / "train" / "0001.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes((server.files / "train" / "0001.png").read_bytes())
    (kept.parent / "0002.png").write_bytes(b"half of a fi")
    load()[1]
    assert len(server.asked) == 3 and not any("train/0001" in path for path in server.asked)


def test_wrong_checksum_is_refused_and_not_kept(server, tmp_path):
    (server.files / "train" / "0002.png").write_bytes(b"something else")
    with pytest.raises(ValueError, match="'train/0002.png' from .* SHA-256") as error:
        load()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "camvid" / "train" / "0002.png").exists()


def test_file_gone_from_the_server(server):
    (server.files / "trainannot" / "0002.png").unlink()
    with pytest.raises(RuntimeError, match="HTTPError on trainannot/0002.png"):
        load()


def test_offline_says_what_to_do(server, monkeypatch):
    monkeypatch.setattr(camvid, "BASE_URL", "http://127.0.0.1:9/")  # the discard port: nobody answers
    with pytest.raises(RuntimeError, match=r"\$CAUSE_DATA/camvid as train/images.*dataset='scenes'") as error:
        load()
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match=r"not on this machine.*dataset='scenes'"):
        load(download=False)


def test_shipped_checksums_are_the_published_list():
    """Put back into sha256sum's form, the list has the SHA-256 of the one it was made from."""
    lines = [line.split() for line in camvid.CHECKSUMS.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 1402
    counts = Counter(path.split("/")[0] for path, _ in lines)
    assert [counts[split] for split in COUNTS["camvid"]] == [367, 101, 233]
    assert [counts[f"{split}annot"] for split in COUNTS["camvid"]] == [367, 101, 233]
    text = "".join(f"{checksum}  {path}\n" for path, checksum in lines)
    expected = "0cb1e6b114926f16e01f66ad98b4fa01c14a552ee06c480278ade61eab477b1e"
    assert hashlib.sha256(text.encode()).hexdigest() == expected
