"""Reading every kind of picture that people have, and the resizing that image and label share."""

import io
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from cause_lib.data.images import load_image, resize_and_crop
from cause_lib.data.labels import by_order
from cause_lib.data.views import five_crop

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def two_by_one(left, right, mode="RGB"):
    """A picture 20 wide and 10 high, its halves in two colours."""
    picture = Image.new(mode, (20, 10), left)
    picture.paste(right, (10, 0, 20, 10))
    return picture


def pixels(path):
    picture = load_image(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def close(pixel, color):
    return np.abs(np.subtract(pixel, color, dtype=int)).max() <= 3


def test_grey_palette_and_one_bit(tmp_path):
    two_by_one(0, 200, "L").save(tmp_path / "grey.png")
    two_by_one(RED, BLUE).quantize(4).save(tmp_path / "palette.png")
    two_by_one(0, 1, "1").save(tmp_path / "bit.png")
    assert pixels(tmp_path / "grey.png")[5, 15].tolist() == [200] * 3
    assert pixels(tmp_path / "palette.png")[5, 0].tolist() == list(RED)
    assert pixels(tmp_path / "bit.png")[5, 15].tolist() == [255] * 3


def test_cmyk_jpeg(tmp_path):
    two_by_one(RED, WHITE).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    picture = pixels(tmp_path / "print.jpg")
    assert close(picture[5, 2], RED) and close(picture[5, 17], WHITE)


def test_transparency_is_laid_on_white(tmp_path):
    two_by_one((*RED, 255), (*BLUE, 0), "RGBA").save(tmp_path / "alpha.png")
    two_by_one((0, 255), (0, 0), "LA").save(tmp_path / "grey_alpha.png")
    palette = two_by_one(RED, BLUE).quantize(4)
    palette.save(tmp_path / "palette_alpha.png", transparency=palette.getpixel((17, 5)))
    assert pixels(tmp_path / "alpha.png")[5, [2, 17]].tolist() == [list(RED), list(WHITE)]
    assert pixels(tmp_path / "grey_alpha.png")[5, [2, 17]].tolist() == [[0, 0, 0], list(WHITE)]
    assert pixels(tmp_path / "palette_alpha.png")[5, [2, 17]].tolist() == [list(RED), list(WHITE)]


def test_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 200).astype(np.uint16).reshape(10, 20)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        picture = pixels(tmp_path / name)
        assert picture[0, 0].tolist() == [0] * 3 and picture[-1, -1].tolist() == [255] * 3
        assert np.array_equal(picture[..., 0], ramp // 257)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="float.tif.*floating-point"):
        load_image(tmp_path / "float.tif")


@pytest.mark.parametrize(("orientation", "size"), [(1, (20, 10)), (3, (20, 10)), (6, (10, 20)), (8, (10, 20))])
def test_exif_rotation_is_applied(tmp_path, orientation, size):
    upright = two_by_one(RED, BLUE) if orientation in (1, 3) else two_by_one(RED, BLUE).rotate(90, expand=True)
    back = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]  # what the camera stored before the viewer turns it
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.rotate(back, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    picture = load_image(tmp_path / "turned.jpg")
    assert picture.size == size
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(upright)).mean() < 3


@pytest.mark.parametrize("keep", [0, 40, 600])
def test_corrupt_jpeg_is_named(tmp_path, keep):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
    path = tmp_path / "broken.jpg"
    path.write_bytes(stream.getvalue()[:keep])
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*replace the file") as error:
        load_image(path)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        load_image(tmp_path / "gone.jpg")


def test_label_modes_and_void(tmp_path):
    ids = np.array([[0, 3], [7, 255]], dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "plain.png")
    coloured = Image.fromarray(ids).convert("P")
    coloured.putpalette(list(range(256)) * 3)
    coloured.save(tmp_path / "palette.png")
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("plain.png", "palette.png", "deep.png"):
        label = by_order(8).read(tmp_path / name)
        assert label.dtype == torch.int32 and label.tolist() == [[0, 3], [7, -1]]
    Image.fromarray(np.stack([ids, ids, ids * 0], axis=-1)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match="colours.png.*one channel"):
        by_order(8).read(tmp_path / "colours.png")


def test_resizing_is_pillows_nearest_then_the_centre():
    """On CamVid's size, as the published pipeline does it."""
    picture = np.random.default_rng(0).integers(0, 256, (360, 480), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(picture).resize((426, 320), Image.Resampling.NEAREST))
    assert np.array_equal(resize_and_crop(torch.from_numpy(picture), 320).numpy(), resized[:, 53:373])


@pytest.mark.parametrize("height,width,size", [(213, 320, 320), (213, 320, 96), (33, 20, 64), (5, 7, 3), (2, 2, 16)])
def test_each_pixel_is_the_one_under_its_centre(height, width, size):
    places = resize_and_crop(torch.arange(height * width).reshape(height, width).int(), size)  # (size, size)
    for side, picked in ((height, places[:, 0] // width), (width, places[0] % width)):
        resized = size * side // min(height, width)
        offset = round((resized - size) / 2)
        for i, pixel in enumerate(picked.tolist()):
            exact = Fraction((2 * (i + offset) + 1) * side, 2 * resized)
            assert pixel <= exact <= pixel + 1  # where the centre falls between two pixels, either is nearest


@pytest.mark.parametrize("height,width,size", [(1, 1, 16), (3, 5, 32), (17, 11, 160), (100, 321, 64), (213, 320, 322)])
def test_image_and_label_get_the_same_pixels(height, width, size):
    places = torch.arange(height * width).reshape(height, width)
    image = torch.stack([places % 256, places // 256 % 256, places // 65536]).to(torch.uint8)  # (3, h, w)
    image, label = resize_and_crop(image, size).int(), resize_and_crop(places.int(), size)
    assert label.dtype == torch.int32
    assert torch.equal(image[0] + 256 * image[1] + 65536 * image[2], label)


def test_five_crops_have_at_least_one_pixel():
    assert [tuple(view.shape) for view in five_crop(torch.zeros(3, 2, 9), 0.1)] == [(3, 1, 1)] * 5
    assert [tuple(view.shape) for view in five_crop(torch.zeros(1, 1), 0.5)] == [(1, 1)] * 5
