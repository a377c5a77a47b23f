"""`resize="pillow"` takes the released code's source pixels, and Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image

from cause_lib.data import load_dataset
from cause_lib.data.images import pillow_places, resize_and_crop
from cause_lib.segmenter import Segmenter
from vectors import load

CASES = sorted({name.rpartition("/")[0] for name in load("nearest")})


def parse(case):
    """crop or square, width, height, side of the result."""
    kind, sizes = case.split("/")
    old, size = sizes.split("to")
    return kind, *map(int, old.split("x")), int(size)


@pytest.mark.parametrize("case", CASES)
def test_takes_the_released_codes_pixels(case):
    kind, width, height, size = parse(case)
    places = torch.arange(height * width, dtype=torch.int32).view(height, width)
    taken = resize_and_crop(places, size, "pillow", squash=kind == "square").numpy()
    vectors = load("nearest")
    assert np.array_equal(taken, vectors[f"{case}/rows"][:, None] * width + vectors[f"{case}/columns"])


def test_the_vectors_tell_pillows_rounding_from_exact_centres():
    """Of these arrays of places about a third are others by the default rule, in up to 67 places."""
    vectors, others = load("nearest"), 0
    for case in CASES:
        kind, width, height, size = parse(case)
        places = torch.arange(height * width, dtype=torch.int32).view(height, width)
        taken = resize_and_crop(places, size, squash=kind == "square").numpy()
        others += not np.array_equal(taken[:, 0] // width, vectors[f"{case}/rows"])
        others += not np.array_equal(taken[0] % width, vectors[f"{case}/columns"])
    assert 2 * len(CASES) == 162 and others > 40


@pytest.mark.parametrize("case", ["crop/640x426to320", "crop/97x311to322", "crop/480x61to224", "square/500x333to322"])
def test_pillow_itself_takes_the_same_pixels(case):
    kind, width, height, size = parse(case)
    new = (size, size) if kind == "square" else tuple(
        size if side == min(width, height) else int(size * side / min(width, height)) for side in (width, height))
    left, top = (round((side - size) / 2) for side in new)
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
                    rng.integers(0, 2**31, (height, width), dtype=np.int32)):
        theirs = np.asarray(Image.fromarray(picture).resize(new, Image.Resampling.NEAREST))
        theirs = theirs[top:top + size, left:left + size]
        planes = torch.from_numpy(picture if picture.ndim == 2 else picture.transpose(2, 0, 1).copy())
        ours = resize_and_crop(planes, size, "pillow", squash=kind == "square").numpy()
        assert ours.dtype == picture.dtype
        assert np.array_equal(ours if picture.ndim == 2 else ours.transpose(1, 2, 0), theirs)


@pytest.mark.parametrize("old, new", [(1, 3000), (3000, 1), (61, 224), (2048, 320), (97, 311), (5, 5), (4999, 3001)])
def test_places_are_pillows(old, new):
    row = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    assert np.array_equal(pillow_places(old, new), np.asarray(row.resize((new, 1), Image.Resampling.NEAREST))[0])


def test_labels_take_the_pixels_that_pictures_take(tmp_path):
    """Of a picture whose colours are its labels, both are the same again."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 100, (426, 640), dtype=np.uint8)  # where the rules differ
    for part, array in (("images", np.repeat(label[..., None], 3, 2)), ("labels", label)):
        (tmp_path / "train" / part).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "train" / part / "one.png")
    (tmp_path / "classes.json").write_text(str([f"c{i}" for i in range(100)]).replace("'", '"'))
    items = {rule: load_dataset("folder", "train", folder=str(tmp_path), image_size=320, resize=rule)[0]
             for rule in ("pillow", "nearest", "antialiased")}
    assert torch.equal((items["pillow"]["image"][0] * 255).round().long(), items["pillow"]["label"])
    assert torch.equal(items["pillow"]["label"], resize_and_crop(torch.from_numpy(label), 320, "pillow").long())
    assert torch.equal(items["nearest"]["label"], items["antialiased"]["label"])
    assert not torch.equal(items["pillow"]["label"], items["nearest"]["label"])




def test_a_segmenter_of_such_a_run_resizes_by_it(monkeypatch, tmp_path):
    from cause_lib.backbones import load_backbone
    from cause_lib.heads import MLPHead
    from cause_lib.probes import ClusterProbe

    backbone = load_backbone("bundled", 48)
    first = Segmenter(backbone, MLPHead(backbone.dim, 5), ClusterProbe(3, 5), image_size=48, classes=["a", "b", "c"],
                      colors=[[0, 0, 0]] * 3, resize="pillow")
    segment = Segmenter.from_pretrained(first.save_pretrained(tmp_path / "saved"))
    assert segment.resize == "pillow"
    seen = []
    forward = segment.backbone.forward
    monkeypatch.setattr(segment.backbone, "forward", lambda images: (seen.append(images), forward(images))[1])
    image = torch.rand(3, 97, 131, generator=torch.Generator().manual_seed(0))
    assert segment(image).shape == (97, 131)
    assert torch.equal(seen[0][0], image[:, pillow_places(97, 48)[:, None], pillow_places(131, 64)])
