"""Labels and folders as other programs leave them: each is read right, or one sentence names the file and the way out.

Where each was reported is on the page book/errors.md.
"""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from cause_lib.data import load_dataset


def scene(seed=0, height=20, width=24):
    """A picture (h, w, 3) uint8 and its ids (h, w) 0 to 2, in stripes at places of its own."""
    random = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.uint8)
    ids[random.integers(6, 14):], ids[:, random.integers(16, 22):] = 1, 2
    return (ids[..., None] * 80 + random.integers(0, 60, (height, width, 3))).astype(np.uint8), ids


def draw(folder, picture="{}.jpg", label="{}.png", change=lambda ids: ids, count=3, **options):
    """Pictures and labels under these names, in `options` how pictures are saved; label None: none."""
    for i in range(count):
        pixels, ids = scene(i)
        for place, name, array in (("images", picture, pixels), ("labels", label, change(ids))):
            if name:
                path = folder / place / name.format(f"p{i}")
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn = array if isinstance(array, Image.Image) else Image.fromarray(array)
                drawn.save(path, **(options if place == "images" else {}))
    return folder


def load(folder):
    """The data set and the sentences that it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load_dataset("folder", "train", image_size=20, folder=str(folder))
    return dataset, [str(warning.message) for warning in caught]


def right(dataset):
    return all(np.array_equal(dataset.source.read(i)[1].numpy(), scene(i)[1]) for i in range(len(dataset)))


def refusal(folder):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        right(load(folder)[0])  # reads every picture and label
    assert "\n" not in str(error.value)
    return str(error.value)


# --- names ---

@pytest.mark.parametrize(("picture", "label"), [("{}.JPG", "{}.PNG"), ("{}.jpg", "{}.jpg.png"), ("{}.tiff", "{}.TIF")])
def test_names_that_mean_one_picture_are_paired(tmp_path, picture, label):
    dataset, warned = load(draw(tmp_path, picture, label))
    assert right(dataset) and not warned


def test_two_pictures_of_one_stem_have_labels_by_their_whole_names(tmp_path):
    draw(tmp_path, "p.jpg", "p.jpg.png", count=1)
    pixels, ids = scene(1)
    Image.fromarray(pixels).save(tmp_path / "images/p.png")
    Image.fromarray(ids).save(tmp_path / "labels/p.png.png")
    assert right(load(tmp_path)[0])


@pytest.mark.parametrize(("picture", "label", "expected"), [
    ("{}.jpg", "{}_mask.png", "p0.png"), ("{}.png", "{}_labelIds.png", "p0.png"), ("{}.jpg", "{}-sky.png", "p0.png"),
    ("{}_leftImg8bit.png", "{}_gtFine_labelIds.png", "p0_leftImg8bit.png"), ("{}.jpg", "sky/{}.png", "p0.png")])
def test_labels_of_other_names_are_named_beside_the_expected_one(tmp_path, picture, label, expected):
    if "/" in label:  # two, since a folder that all labels lie in is a matter of taste
        draw(tmp_path, picture, "sea/{}.png")
    said = refusal(draw(tmp_path, picture, label))
    assert f"that of the first would be '{expected}', and there is '" in said
    assert "name labels as their pictures, one a picture" in said


def test_a_label_that_fits_nearly_is_named_where_some_are_missing(tmp_path):
    draw(tmp_path)
    (tmp_path / "labels/p1.png").rename(tmp_path / "labels/p1_mask.png")
    said = load(tmp_path)[1][0]
    assert "1 of 3 pictures" in said and "'p1.jpg', and there is 'p1_mask.png'" in said


@pytest.mark.parametrize("end", ["_mask", "_label", "_gtFine_labelIds"])
def test_masks_among_the_pictures_are_no_pictures(tmp_path, end):
    draw(tmp_path, label=None)
    draw(tmp_path, f"{{}}{end}.png", None, count=2)
    assert f"2 of 5 pictures in '{tmp_path / 'images'}' are named as masks" in refusal(tmp_path)
    for path in (tmp_path / "images").glob("*.png"):  # without the pictures beside them, these are the pictures
        path.with_suffix(".jpg").with_stem(path.stem.removesuffix(end)).unlink()
    assert len(load(tmp_path)[0]) == 3


# --- kinds of files ---

@pytest.mark.parametrize(("ending", "what"), [
    (".jpg", "a JPEG, which does not keep ids"), (".webp", "a WebP"), (".json", "outlines, as labelme and COCO"),
    (".txt", "outlines, as YOLO"), (".npy", "an array")])
def test_what_is_no_label_picture_is_said(tmp_path, ending, what):
    draw(tmp_path, label=None)
    (tmp_path / "labels").mkdir()
    for i in range(3):
        (tmp_path / f"labels/p{i}{ending}").write_bytes(b"{}")
    said = refusal(tmp_path)
    assert f"there is 'p0{ending}', {what}" in said and "save labels as PNGs with one class id a pixel" in said
    Image.fromarray(scene(1)[1]).save(tmp_path / "labels/p1.png")
    assert f"'p0.jpg', and there is 'p0{ending}', {what}" in load(tmp_path)[1][0]


def test_floating_point_ids_are_read_where_they_are_whole(tmp_path):
    dataset, warned = load(draw(tmp_path / "a", label="{}.tif", change=lambda ids: ids.astype(np.float32)))
    assert right(dataset) and not warned
    for i, change in enumerate((lambda ids: ids / np.float32(2), lambda ids: np.where(ids, np.float32("nan"), 0))):
        said = refusal(draw(tmp_path / f"b{i}", label="{}.tif", change=change))
        assert "p0.tif' is a F picture: save it with one channel of class ids" in said


def test_labels_of_several_pages_are_refused(tmp_path):
    draw(tmp_path, label=None)
    (tmp_path / "labels").mkdir()
    pages = [Image.fromarray(np.where(scene()[1] == i, 255, 0).astype(np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "labels/p0.tif", save_all=True, append_images=pages[1:])
    assert "p0.tif' has 3 pages: save it as one picture, with one class id a pixel" in refusal(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_labels_are_refused_and_opaque_ones_read(tmp_path, mode):
    dataset, warned = load(draw(tmp_path / "a", change=lambda ids: Image.fromarray(ids).convert(mode)))
    assert right(dataset) and not warned

    def hide(ids):
        label = Image.fromarray(ids).convert(mode)
        label.putalpha(Image.fromarray(np.where(ids == 2, 0, 255).astype(np.uint8)))
        return label

    assert "p0.png' has transparent pixels, whose class nobody knows" in refusal(draw(tmp_path / "b", change=hide))


@pytest.mark.parametrize("mark", [1, 3, 6, 8])
def test_a_label_that_lies_as_the_picture_is_stored(tmp_path, mark):
    exif = Image.Exif()
    exif[0x0112] = mark
    draw(tmp_path / "stored", exif=exif)
    draw(tmp_path / "upright", change=lambda ids: np.ascontiguousarray(np.rot90(ids)), exif=exif)
    if mark > 4:  # shown with its sides exchanged
        said = refusal(tmp_path / "stored")
        assert "the picture's EXIF mark turns it" in said and "turn the label, or save the picture upright" in said
        assert load(tmp_path / "upright")[0].source.read(0)[1].shape == (24, 20)
    else:
        assert right(load(tmp_path / "stored")[0])
        assert refusal(tmp_path / "upright").endswith("24 x 20: save the label again in the same size")


def test_pictures_for_print_are_read(tmp_path):
    draw(tmp_path)
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as picture:
            picture.convert("CMYK").save(path)
    dataset, warned = load(tmp_path)
    assert right(dataset) and not warned and dataset.source.read(0)[0].shape == (3, 20, 24)


# --- folders ---

@pytest.mark.parametrize("name", ["masks", "mask", "annotations", "SegmentationClass", "gt", "annotations.json",
                                  "labels.zip"])
def test_labels_elsewhere_are_not_passed_over_in_silence(tmp_path, name):
    draw(tmp_path, label=None)
    (tmp_path / name).write_text("") if "." in name else (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("")
    dataset, warned = load(tmp_path)
    assert len(dataset) == 3 and not dataset.source.has_labels
    assert warned == [f"'{tmp_path}' has no folder 'labels', and '{name}' is not read, so nothing is judged: labels are "
                      "PNGs of class ids in a folder of that name"]


def test_a_folder_within_a_folder_is_named(tmp_path):
    draw(tmp_path / "once/more")
    assert f"(if '{tmp_path / 'once/more'}' is meant, give that as folder)" in refusal(tmp_path / "once")


@pytest.mark.parametrize("name", ["pictures", "JPEGImages"])
def test_what_is_there_is_said_where_images_is_missing(tmp_path, name):
    draw(tmp_path)
    (tmp_path / "images").rename(tmp_path / name)
    there = ", ".join(map(repr, sorted([name, "labels"])))
    assert f"no pictures for split 'train' in '{tmp_path}' (there is {there})" in refusal(tmp_path)


def test_pictures_without_a_folder_of_their_own_are_named(tmp_path):
    draw(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "images").rmdir()
    (tmp_path / "classes.json").write_text(json.dumps(["a", "b", "c"]))
    assert "(there is 'classes.json', 'labels', 'p0.jpg', ...): expected <folder>/images/" in refusal(tmp_path)
