"""Many pictures, large and elongated ones: `stream`, `write`, tiles, and how pictures are brought to the working size."""

import json
import os
import warnings
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cause_lib import data
from cause_lib.backbones import load_backbone
from cause_lib.heads import MLPHead
from cause_lib.masks import read_out
from cause_lib.probes import ClusterProbe, mirror_mean
from cause_lib.use.tiled import at_size, mask_of, tile_starts, working_size
from cause_lib.segmenter import Segmenter

NAMES = ["sky", "grass", "house"]


@pytest.fixture(scope="module")
def segment():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(load_backbone("bundled"), MLPHead(192, 8).eval(), ClusterProbe(3, 8), image_size=56,
                         classes=NAMES, colors=[[90, 150, 230], [60, 140, 50], [210, 60, 40]],
                         assignment=[0, 1, 2])


def scene(h=56, w=56, seed=0):
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, h // 14 + 1, w // 14 + 1)))
    return (F.interpolate(coarse, (h, w), mode="nearest")[0] * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "a.png", "b.png", "more/a.png")):
        Image.fromarray(scene(40 + i, 60, i)).save(folder / name)
    return folder


# --- one by one ---

def test_frames_come_one_by_one_and_ahead(segment):
    taken = []

    def frames():
        for i in count():
            taken.append(i)
            yield scene(seed=i)

    found = list(islice(segment.stream(frames()), 3))
    assert [name for name, _ in found] == ["000000", "000001", "000002"] and len(taken) <= 5
    for i, (_, mask) in enumerate(found):
        assert mask.dtype == torch.uint8 and torch.equal(mask.long(), segment(scene(seed=i)))


def test_what_streams(segment, pictures):
    names = ["a.jpg", "a.png", "b.png", "more/a.png"]
    assert [name for name, _ in segment.stream(pictures)] == names
    masks = segment(pictures)
    assert list(masks) == names and all(mask.dtype == torch.uint8 for mask in masks.values())
    assert torch.equal(masks["b.png"].long(), segment(pictures / "b.png"))
    given = [pictures / "b.png", str(pictures / "more"), ("mine", scene()), torch.rand(3, 40, 40)]
    assert [name for name, _ in segment.stream(given)] == ["b.png", "more/a.png", "mine", "000003"]
    assert len(list(segment.stream(np.stack([scene(), scene()])))) == 2
    for one in (scene(), b"bytes", Image.new("RGB", (9, 9)), 3):
        with pytest.raises(ValueError, match="several pictures are wanted .*: of one picture call the Segmenter"):
            list(segment.stream(one))


def test_what_cannot_be_used_in_a_stream(segment, pictures):
    (pictures / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="b.png"):
        list(segment.stream(pictures))
    with pytest.warns(UserWarning, match=r"1 of 4 pictures in '.*pictures' cannot be used and are left out"):
        assert len(list(segment.stream(pictures, allow_corrupt="skip"))) == 3
    with pytest.raises(ValueError, match="allow_corrupt must be one of stop, skip, not 'no'"):
        segment.stream(pictures, allow_corrupt="no")
    with pytest.raises(ValueError, match="2 of 2 pictures cannot be used; the first"):
        list(segment.stream([b"a", b"b"], allow_corrupt="skip"))

    def broken():
        yield scene()
        raise RuntimeError("the film ends here")

    with pytest.raises(RuntimeError, match="the film ends here"):
        list(segment.stream(broken(), allow_corrupt="skip"))


def test_above_256_classes(segment):
    many = Segmenter(segment.backbone, segment.head, ClusterProbe(300, 8), image_size=56, colors=data.palette(300),
                     classes=[str(i) for i in range(300)])
    (_, mask), = many.stream([scene()])
    assert mask.dtype == torch.int16


# --- to files ---

def test_masks_overlays_and_a_table(segment, pictures, tmp_path):
    done = segment.write(pictures, tmp_path / "out")
    assert done == (tmp_path / "out/masks.csv", 4, 0, 0)
    table = pd.read_csv(done.table)
    assert table.columns.tolist() == ["file", "mask", "width", "height", *NAMES]
    assert table["file"].tolist() == ["a.jpg", "a.png", "b.png", "more/a.png"]
    assert table["mask"].tolist() == ["masks/a.png", "masks/a.png.png", "masks/b.png", "masks/more/a.png"]
    for _, line in table.iterrows():
        saved = Image.open(tmp_path / "out" / line["mask"])
        mask = segment(pictures / line["file"]).numpy()
        assert saved.mode == "P" and np.array_equal(np.asarray(saved), mask)
        assert saved.size == (line["width"], line["height"])
        assert np.allclose(line[NAMES].astype(float), np.bincount(mask.ravel(), minlength=3) / mask.size, atol=1e-6)
    over = Image.open(tmp_path / "out/overlays/more/a.jpg")
    assert over.size == (60, 43)
    assert not list((tmp_path / "out").glob(".*")) and not (tmp_path / "out/skipped.csv").exists()


def test_a_rerun_keeps_what_is_of_the_same_origin(segment, pictures, tmp_path):
    out = tmp_path / "out"
    segment.write(pictures, out)
    before = (out / "masks.csv").read_bytes()
    assert segment.write(pictures, out)[1:] == (0, 4, 0) and (out / "masks.csv").read_bytes() == before
    (out / "masks/b.png").write_bytes((out / "masks/b.png").read_bytes()[:60])  # cut off
    (out / "overlays/a.jpg").unlink()
    Image.fromarray(scene(seed=9)).save(pictures / "more/a.png")
    assert segment.write(pictures, out)[1:] == (3, 1, 0)
    assert segment.write(pictures, out, crf=True)[1:] == (4, 0, 0)
    assert segment.write(pictures, out, overlay=False)[1:] == (4, 0, 0)
    assert segment.write([scene()], out)[1:] == segment.write([scene()], out)[1:] == (1, 0, 0)  # no file: made again


def test_what_cannot_be_used_is_listed(segment, pictures, tmp_path):
    (pictures / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="b.png"):
        segment.write(pictures, tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/masks.csv")["file"].tolist() == ["a.jpg", "a.png"]
    with pytest.warns(UserWarning, match="1 of 4 pictures cannot be used and are left out"):
        done = segment.write(pictures, tmp_path / "out", allow_corrupt="skip")
    assert done[1:] == (1, 2, 1)
    skipped = pd.read_csv(tmp_path / "out/skipped.csv")
    assert skipped["file"].tolist() == ["b.png"] and "cannot be read" in skipped["reason"][0]
    Image.fromarray(scene()).save(pictures / "b.png")
    segment.write(pictures, tmp_path / "out")
    assert not (tmp_path / "out/skipped.csv").exists()


def test_a_name_that_is_not_utf8(segment, tmp_path):
    name, folder = os.fsdecode(b"caf\xe9.png"), tmp_path / "in"
    folder.mkdir()
    Image.fromarray(scene()).save(folder / name)
    (folder / os.fsdecode(b"th\xe9.png")).write_bytes(b"no picture")
    for kept in (0, 1):
        with pytest.warns(UserWarning, match="1 of 2 pictures cannot be used"):
            assert segment.write(folder, tmp_path / "out", allow_corrupt="skip")[1:] == (1 - kept, kept, 1)
        assert b"\ncaf\xe9.png,masks/caf\xe9.png," in (tmp_path / "out/masks.csv").read_bytes().replace(b"\r", b"")
        assert b"\nth\xe9.png," in (tmp_path / "out/skipped.csv").read_bytes().replace(b"\r", b"")
    with pytest.raises(ValueError):  # the line of before is read, and stays
        segment.write([folder / os.fsdecode(b"th\xe9.png")], tmp_path / "out")
    assert b"caf\xe9.png," in (tmp_path / "out/masks.csv").read_bytes()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_stop_leaves_whole_files(segment, pictures, tmp_path, monkeypatch, stop):
    save, seen = Image.Image.save, []

    def fail(image, path, *args, **kwargs):
        seen.append(path)
        if len(seen) == 4:
            Path(path).write_bytes(b"half")
            raise stop
        save(image, path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", fail)
        with pytest.raises((KeyboardInterrupt, OSError)) as error:
            segment.write(pictures, tmp_path / "out")
    if isinstance(stop, OSError):
        assert "Cannot write masks and" in str(error.value) and "No space left" in str(error.value)
    else:
        assert pd.read_csv(tmp_path / "out/masks.csv")["file"].tolist() == ["a.jpg"]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".csv"]
    assert {path.relative_to(tmp_path / "out").as_posix() for path in files} == {
        "masks/a.png", "overlays/a.jpg", "overlays/a.png.jpg"}
    for path in files:
        Image.open(path).load()
    left = tmp_path / "out/.masks.csv.0badcafe"  # of a kill
    left.mkdir()
    assert segment.write(pictures, tmp_path / "out")[1:] == (3, 1, 0) and not left.exists()


def test_places_that_are_refused(segment, pictures, tmp_path):
    for out in (pictures, pictures / "out"):
        with pytest.raises(ValueError, match="lies in the folder of the pictures"):
            segment.write(pictures, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot make the folder .*file/out"):
        segment.write(pictures, tmp_path / "file/out")
    for name in ("../a", "/a", ".."):
        with pytest.raises(ValueError, match="names no file below"):
            segment.write([(name, scene())], tmp_path / "out")
    with pytest.raises(ValueError, match="Several pictures are called 'a.png'"):
        segment.write([("a.png", scene())] * 3, tmp_path / "out")
    assert not (tmp_path / "a.png").exists() and not (pictures / "masks").exists()


# --- large and elongated ---

@pytest.mark.parametrize("size", [(56, 224), (224, 56), (90, 130), (56, 56)])
@pytest.mark.parametrize("crf", [False, True])
def test_up_to_four_times_as_long_a_picture_is_seen_whole(segment, size, crf):
    """The masks of before there were tiles."""
    picture = torch.from_numpy(scene(*size)).permute(2, 0, 1)
    h, w = working_size(*size, 56, 8)
    small = F.interpolate(picture[None].float(), (h, w), mode="nearest-exact") * (1 / 255)
    tokens, mirrored = segment.backbone(small), segment.backbone(small.flip(-1))
    with torch.no_grad():
        features = mirror_mean(tokens, mirrored, (h // 8, w // 8), segment.head)
        mask = read_out(small, [(features, [segment.probe])], crf=crf)[crf][:, 0]
    expected = F.interpolate(mask[:, None].double(), size=size, mode="nearest-exact")[0, 0].long()
    assert torch.equal(segment(picture, crf=crf), expected)


@pytest.mark.parametrize("length, tile", [(29, 7), (40, 8), (41, 8), (100, 7), (5, 1), (6400, 40)])
def test_tiles_cover_and_overlap_by_half(length, tile):
    starts = tile_starts(length, tile)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert steps.max() <= max(1, -(-tile // 2)) and steps.min() >= 1


@pytest.mark.parametrize("crf", [False, True])
def test_elongated_pictures_are_seen_in_tiles(segment, crf):
    tall = scene(600, 60)
    mask = segment(tall, crf=crf)
    assert mask.shape == (600, 60) and len(mask.unique()) > 1
    if not crf:  # the middle is that of the middle alone, but for what tiles further away add
        part = segment(np.ascontiguousarray(tall[200:400]))
        assert (mask[200:400][60:-60] == part[60:-60]).double().mean() > 0.85
    sees = []
    forward = type(segment.backbone).forward
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(segment.backbone), "forward", lambda self, x: sees.append(tuple(x.shape)) or forward(self, x))
        assert torch.equal(segment(tall, crf=crf), mask)
    assert set(sees) == {(1, 3, 56, 56)}


def test_tiles_are_averaged_and_read_out_in_bands():
    """With features that are the patches themselves, and a read-out that shows them, tiles change nothing."""
    for shape in ((3, 16, 200), (3, 200, 16)):
        small = torch.rand(shape, generator=torch.Generator().manual_seed(0))

        def read(images, features):
            assert images.shape[2:] == tuple(4 * side for side in features.shape[2:])
            assert max(images.shape[2:]) <= 3 * 16
            return F.interpolate(features, images.shape[2:], mode="bilinear", align_corners=False)[0, 0] > 0.5

        found = mask_of(small, 4, lambda images: F.avg_pool2d(images, 4), read)
        whole = F.interpolate(F.avg_pool2d(small[None], 4), small.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        clear = (whole - 0.5).abs() > 1e-5
        assert torch.equal(found[clear], (whole > 0.5)[clear])


def test_sizes_that_are_refused(segment, tmp_path):
    assert working_size(2, 512, 56, 8) == [56, 256 * 56] and segment(scene(3, 40)).shape == (3, 40)
    with pytest.raises(ValueError, match="513 x 2 pixels, and nothing longer than 256 times .*: cut it into pieces"):
        segment(scene(2, 513))
    with pytest.raises(ValueError, match="is 0 x 56 pixels"):
        segment(scene()[:, :0])
    Image.fromarray(scene(1, 300)).save(tmp_path / "line.png")
    for given in (tmp_path / "line.png", [("line.png", scene(1, 300))]):
        with pytest.raises(ValueError, match="^The picture line.png is 300 x 1 pixels"):
            segment.write(given, tmp_path / "out")


@pytest.mark.parametrize("size", [(1, 1), (97, 97), (68, 699), (30, 500), (1080, 1920)])
def test_places_of_a_mask_are_those_of_interpolate(size):
    mask = torch.randint(0, 200, (56, 360), generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(mask[None, None].double(), size=size, mode="nearest-exact")[0, 0].long()
    assert torch.equal(at_size(mask.byte(), size).long(), expected)


def test_large_pictures_are_read_in_bands(monkeypatch):
    from cause_lib.data import images

    picture = Image.fromarray(scene(57, 91))
    whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    monkeypatch.setattr(images, "BAND", 1000)
    assert torch.equal(images.to_tensor(picture), whole)
    assert images.to_rgb(picture) is picture


# --- as the run's data set does ---

def test_squashed_sets_are_squashed(segment, tmp_path):
    assert [name for name in data.DATASETS if data.is_squashed(name)] == ["pascalvoc"]
    square = Segmenter(segment.backbone, segment.head, segment.probe, image_size=56, classes=NAMES,
                       colors=segment.colors, squash=True)
    picture = scene(60, 120)
    item = data.resize_and_crop(torch.from_numpy(picture).permute(2, 0, 1), 56, squash=True)
    expected = at_size(square(item), (60, 120))
    found = square(picture)
    assert torch.equal(found, expected) and not torch.equal(found, segment(picture))
    folder = square.save_pretrained(tmp_path / "a")
    assert Segmenter.from_pretrained(folder).squash
    config = json.loads((folder / "config.json").read_text())
    del config["squash"], config["digest"]  # as earlier versions wrote it
    (folder / "config.json").write_text(json.dumps(config))
    assert not Segmenter.from_pretrained(folder).squash
    assert square(scene(3, 900)).shape == (3, 900)  # of any length


def test_constant_memory_of_files(segment, pictures, tmp_path):
    """Nothing of a picture outlives it: of many frames at most two are there."""
    import gc
    import weakref

    seen, most = [], []

    def frames():
        for i in range(8):
            frame = scene(seed=i)
            seen.append(weakref.ref(frame))
            gc.collect()
            most.append(sum(other() is not None for other in seen))
            yield frame
            del frame

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment.write(frames(), tmp_path / "out")
    assert max(most) <= 4 and len(os.listdir(tmp_path / "out/masks")) == 8


# --- nothing is mixed up ---

def test_another_picture_of_the_same_name_size_and_time_is_segmented(segment, tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/a.bmp"
    Image.fromarray(scene(seed=1)).save(path)
    before = path.stat()
    segment.write(path.parent, tmp_path / "out")
    Image.fromarray(scene(seed=2)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert segment.write(path.parent, tmp_path / "out")[1:] == (1, 0, 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/masks/a.png")), segment(path).numpy())


def test_no_overlay_of_another_mask_is_left(segment, pictures, tmp_path):
    out = tmp_path / "out"
    segment.write(pictures, out)
    assert segment.write(pictures, out, overlay=False)[1:] == (0, 4, 0) and (out / "overlays/b.jpg").exists()
    Image.fromarray(scene(seed=9)).save(pictures / "b.png")
    assert segment.write(pictures, out, overlay=False)[1:] == (1, 3, 0)
    assert not (out / "overlays/b.jpg").exists() and (out / "overlays/a.jpg").exists()
    assert segment.write(pictures, out)[1:] == (1, 3, 0) and (out / "overlays/b.jpg").exists()


@pytest.mark.parametrize("broken, listed", [("a.jpg", ["a.jpg", "a.png", "b.png", "more/a.png"]),
                                            ("b.png", ["a.jpg", "a.png", "b.png", "more/a.png"])])
def test_a_rerun_that_stops_keeps_its_lines(segment, pictures, tmp_path, broken, listed):
    segment.write(pictures, tmp_path / "out")
    before = pd.read_csv(tmp_path / "out/masks.csv")
    (pictures / broken).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=broken):
        segment.write(pictures, tmp_path / "out")
    after = pd.read_csv(tmp_path / "out/masks.csv")
    assert sorted(after["file"]) == listed and after.sort_values("file", ignore_index=True).equals(before)
    (tmp_path / "out/masks/more/a.png").unlink()  # a line without its mask goes
    with pytest.raises(ValueError, match=broken):
        segment.write(pictures, tmp_path / "out")
    assert sorted(pd.read_csv(tmp_path / "out/masks.csv")["file"]) == listed[:3]


def test_what_is_refused_before_any_work(segment, pictures, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other/more"
    other.mkdir(parents=True)
    Image.fromarray(scene()).save(other / "a.png")
    for given, said in ((str(pictures / "nowhere"), "there is no picture at '.*nowhere'"),
                        ([pictures, "nowhere.png"], "there is no picture at 'nowhere.png'"),
                        ([("a", pictures / "nowhere.png")], "there is no picture at"),
                        ([pictures / "more", other], "Several pictures are called 'more/a.png'"),
                        ("", "name of the pictures is empty"), ([""], "name of the pictures is empty")):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            segment.write(given, out, allow_corrupt="skip")
    assert not out.exists()
    with pytest.raises(ValueError, match="lies in the folder of the pictures"):
        segment.write([other / "a.png", pictures], pictures / "out")
    for call in (lambda: segment(""), lambda: segment([""]), lambda: list(segment.stream(""))):
        with pytest.raises(ValueError, match="name of the pictures is empty"):
            call()
    with pytest.raises(ValueError, match="name of the folder for the masks is empty"):
        segment.write(pictures, "")
    for crf in ("false", 1, None):
        with pytest.raises(ValueError, match=f"crf must be True or False, not {crf!r}"):
            segment(scene(), crf=crf)
    with pytest.raises(ValueError, match="allow_corrupt must be one of stop, skip, not 'skipp'"):
        segment(pictures / "b.png", allow_corrupt="skipp")


def test_labels_beside_images_are_no_pictures(segment, tmp_path):
    for name in ("images/a.png", "labels/a.png", "train/images/b.png", "train/labels/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(tmp_path / name)
    with pytest.warns(UserWarning, match="2 files in '.*' are labels of images: passed over"):
        assert list(segment(tmp_path)) == ["images/a.png", "train/images/b.png"]
    assert list(segment(tmp_path / "labels")) == ["a.png"]
