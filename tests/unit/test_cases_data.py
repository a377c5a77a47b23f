"""Folders as people really have them: each is read right, or one sentence names the file and the way out."""

import json
import sys
import types
import warnings

import numpy as np
import pytest
from conftest import TINY, draw_folder, without_digests
from faults.pictures import png
from PIL import Image

from cause_lib import Segmenter, stages
from cause_lib.config import Experiment
from cause_lib.data import load_dataset
from cause_lib.data.__main__ import main
from cause_lib.data.images import load_image, reads_heic
from cause_lib.runs.store import read_record
from cause_lib.use.streaming import named

COLORS = np.array([[128, 64, 128], [0, 128, 0], [128, 0, 0]], np.uint8)


def scene(seed=0, height=20, width=24):
    """A picture (h, w, 3) uint8 and its ids (h, w) 0 to 2, in three stripes at places of its own."""
    random = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.uint8)
    ids[random.integers(6, 14):], ids[:, random.integers(16, 22):] = 1, 2
    return (COLORS[ids] + random.integers(0, 60, (height, width, 3))).astype(np.uint8), ids


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def draw(folder, label=None, count=4, **options):
    """Pictures p0.png to p3.png and what `label` makes of their ids, `options` of how those are saved."""
    for i in range(count):
        picture, ids = scene(i)
        save(folder / "images" / f"p{i}.png", picture)
        if label is not None:
            save(folder / "labels" / f"p{i}.png", label(ids), **options)
    return folder


def load(folder, split="train", **options):
    return load_dataset("folder", split, image_size=20, folder=str(folder), **options)


def said(folder, split="train", **options):
    """The data set and the sentences that it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load(folder, split, **options)
    return dataset, [str(warning.message) for warning in caught]


def ids_of(dataset):
    return [dataset.source.read(i)[1].numpy() for i in range(len(dataset))]


def right(dataset, means=lambda ids: ids):
    return all(np.array_equal(found, means(scene(i)[1].astype(int))) for i, found in enumerate(ids_of(dataset)))


# --- values that are no ids ---

@pytest.mark.parametrize(("values", "sentence"), [
    ((0, 0, 255), r"one class, 0, and \d+% of all pixels void"),
    ((1, 1, 255), r"one class, 1, and \d+% of all pixels void"),
    ((0, 0, 0), "one class, 0, and 0% of all pixels void"),
    ((255, 255, 255), "every pixel is void"),
    ((0, 0, 128), r"2 of 129 ids occur \(0, 128; 0% of all pixels void\)"),
    ((0, 17, 200), r"3 of 201 ids occur \(0, 17, 200; 0% of all pixels void\)"),
    ((0, 127, 254), "3 of 255 ids occur"),
    ((1, 2, 255), r"2 of 3 ids occur \(1, 2; \d+% of all pixels void\)"),
])
def test_what_labels_lack_is_said_and_can_be_mended(tmp_path, capsys, values, sentence):
    folder = draw(tmp_path / "mine", lambda ids: np.array(values, np.uint8)[ids])
    with pytest.warns(UserWarning, match=sentence) as caught:
        load(folder)
    [warning] = [str(one.message) for one in caught]
    assert f"python -m cause_lib.data classes '{folder}'" in warning and "classes.json" in warning
    assert main(["classes", str(folder)]) == 0  # the remedy, as it is named
    (folder / "classes.json").write_text(capsys.readouterr().out)
    dataset, warned = said(folder)
    kept = sorted({*values} - {255} if len({*values}) > 2 else {*values})
    assert dataset.classes == [f"class {value}" for value in kept]
    table = np.array([kept.index(value) if value in kept else -1 for value in values])
    assert right(dataset, lambda ids: table[ids]) and (not warned) == (len(kept) > 1)


@pytest.mark.parametrize("file", ["good", "listed"])
def test_labels_as_they_should_be_are_taken_without_a_word(tmp_path, file):
    draw(tmp_path, lambda ids: ids)
    if file == "listed":
        (tmp_path / "classes.json").write_text('["sky", "sea", "sand", "one that never occurs"]')
    dataset, warned = said(tmp_path)
    assert warned == [] and right(dataset)


def test_values_get_names_several_one_class_and_null_void(tmp_path):
    draw(tmp_path, lambda ids: np.array([0, 7, 65535], np.uint16)[ids])
    with pytest.raises(ValueError, match=r"p0\.png' has the class id 65535.*classes\.json"):
        load(tmp_path)
    listed = tmp_path / "classes.json"
    listed.write_text('{"65535": {"name": "sea", "color": "#0000ff"}, "7": "sea", "0": "land", "9": null}')
    dataset, warned = said(tmp_path)
    assert dataset.classes == ["sea", "land"] and dataset.colors[0].tolist() == [0, 0, 255] and not warned
    assert right(dataset, lambda ids: np.array([1, 0, 0])[ids])
    listed.write_text('{"0": null, "7": "sea", "65535": "land"}')
    other = load(tmp_path)
    assert right(other, lambda ids: np.array([-1, 0, 1])[ids]) and other.fingerprint != dataset.fingerprint
    listed.write_text('{"0": "land", "7": "sea"}')
    with pytest.raises(ValueError, match=r"p0\.png' has the class id 65535, but classes\.json lists 0, 7"):
        load(tmp_path)


@pytest.mark.parametrize("text", ['{"sky": 0}', '{"0": 1}', '{"-1": "sky"}', '{"70000": "sky"}', '{"#ggg": "sky"}',
                                  '{"0": null}', "{}", '{"1.5": "sky"}', '{"0": {"color": "red"}}'])
def test_a_classes_json_that_says_nothing_is_named(tmp_path, text):
    draw(tmp_path, lambda ids: ids)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=r"classes\.json' is not a list of class names, .*null for void") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("bits", "values"), [(1, (0, 1, 1)), (2, (0, 1, 2)), (2, (0, 3, 2)), (4, (0, 1, 2)),
                                              (4, (4, 9, 15)), (8, (0, 1, 2))])
def test_grey_labels_of_few_bits_hold_the_ids_as_stored(tmp_path, bits, values):
    draw(tmp_path, lambda ids: np.array(values, np.uint8)[ids], bits=bits)
    with Image.open(tmp_path / "labels" / "p0.png") as stored:
        assert stored.tile[0].args == (f"L;{bits}" if bits in (2, 4) else {1: "1", 8: "L"}[bits])
    dataset, _ = said(tmp_path)
    assert right(dataset, lambda ids: np.array(values)[ids]) and dataset.num_classes == max(values) + 1


# --- colours ---

@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("by_value", [False, True])
def test_colours_of_classes_json_are_the_classes(tmp_path, mode, by_value):
    draw(tmp_path)
    for i in range(4):
        label = Image.fromarray(COLORS[scene(i)[1]])
        (tmp_path / "labels").mkdir(exist_ok=True)
        (label.quantize(3) if mode == "P" else label.convert(mode)).save(tmp_path / "labels" / f"p{i}.png")
    named = {"sky": "#804080", "grass": "#008000", "ball": "#800000"}
    text = ({color: name for name, color in named.items()} if by_value else
            [{"name": name, "color": color} for name, color in named.items()])
    (tmp_path / "classes.json").write_text(json.dumps(text))
    dataset, warned = said(tmp_path)
    assert dataset.classes == [*named] and np.array_equal(dataset.colors, COLORS) and warned == []
    if by_value or mode != "P":  # without colours as keys, a palette picture holds ids
        assert right(dataset)


def test_an_unknown_colour_is_named_and_void_can_be_one(tmp_path, capsys):
    folder = draw(tmp_path / "mine", lambda ids: COLORS[ids])
    for text in (None, '["sky", "grass", "ball"]', '[{"name": "sky", "color": "#804080"}, "grass"]',
                 '[{"name": "sky", "color": "#804080"}, {"name": "sea", "color": "#804080"}]'):
        if text:
            (folder / "classes.json").write_text(text)
        with pytest.raises(ValueError, match=r"labels/p0\.png' has the colour \[\d+, \d+, \d+\].*classes\.json") as error:
            load(folder)
        assert "\n" not in str(error.value)
    main(["classes", str(folder)])
    found = json.loads(capsys.readouterr().out)
    assert [*found] == ["#008000", "#800000", "#804080"]
    (folder / "classes.json").write_text(json.dumps(found | {"#008000": None}))
    first = load(folder)
    assert right(first, lambda ids: np.array([1, -1, 0])[ids])
    (folder / "classes.json").write_text(json.dumps({"#804080": "a", "#800000": "b", "#008000": None}))
    second = load(folder)
    assert right(second, lambda ids: np.array([0, -1, 1])[ids]) and second.fingerprint != first.fingerprint


def test_ids_three_times_the_same_are_ids(tmp_path):
    dataset, warned = said(draw(tmp_path, lambda ids: np.stack([ids] * 3, axis=-1)))
    assert right(dataset) and dataset.num_classes == 3 and warned == []


# --- files that belong to nothing, and pictures without a label ---

def test_litter_and_labels_of_nothing_do_not_count(tmp_path):
    folder = draw(tmp_path / "mine", lambda ids: ids)
    for place in (folder / "images", folder / "labels", folder / "__MACOSX" / "images", folder / "__MACOSX" / "labels"):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("._p0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(b"\0\5\x16\7 Mac OS X")
        save(place / "__MACOSX" / "p0.png", np.full((20, 24), 99, np.uint8))
    save(folder / "labels" / "gone.png", np.full((20, 24), 77, np.uint8))
    save(folder / "labels" / "p0_color.png", np.zeros((20, 24, 3), np.uint8))
    save(folder / "old" / "labels" / "p0.png", np.full((20, 24), 88, np.uint8))
    dataset, warned = said(folder)
    assert dataset.names == [f"p{i}.png" for i in range(4)] and dataset.num_classes == 3 and right(dataset)
    assert warned == []


def test_labels_of_other_pictures_alone_are_named(tmp_path):
    for i in range(2):
        save(tmp_path / "images" / f"p{i}.png", scene(i)[0])
        save(tmp_path / "labels" / f"p{i}_mask.png", scene(i)[1])
    with pytest.raises(FileNotFoundError, match=r"none of 2 pictures .*would be 'p0\.png', and there is 'p0_mask\.png'"):
        load(tmp_path)


@pytest.mark.parametrize("allow_corrupt", ["stop", "skip"])
def test_partly_labelled_is_trained_on_whole_and_judged_in_part(tmp_path, allow_corrupt):
    draw(tmp_path)
    save(tmp_path / "labels" / "p2.png", scene(2)[1])
    everything, warned = said(tmp_path, allow_corrupt=allow_corrupt)
    assert len(everything) == 4 and everything.has_labels and everything.skipped == () and everything.num_classes == 3
    assert len(warned) == 1 and "3 of 4 pictures" in warned[0] and "'p0.png'" in warned[0]
    assert [int(found.max()) for found in ids_of(everything)] == [-1, -1, 2, -1]
    judged, again = said(tmp_path, "val", judged=True, allow_corrupt=allow_corrupt, limit=2)
    assert judged.names == ["p2.png"] and np.array_equal(ids_of(judged)[0], scene(2)[1])
    assert again == [] and judged.warned == warned  # given once a process
    assert judged.skipped == tuple((f"p{i}.png", "it has no label") for i in (0, 1, 3))


def test_a_run_on_a_partly_labelled_folder_counts_both(tmp_path):
    folder = draw_folder(tmp_path / "data")
    for i in (1, 3):
        (folder / "val" / "labels" / f"{i}.png").unlink()
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), **TINY)
    with pytest.warns(UserWarning, match="2 of 4 pictures in '.*val/images' have no label"):
        record = read_record(stages.evaluate_baseline(run))
    assert record["dataset"]["images"] == 2 and record["results"][0]["miou"] > 0
    assert record["dataset"]["skipped"] == {"count": 2, "pictures": dict.fromkeys(("1.png", "3.png"), "it has no label")}


# --- where pictures lie, and what they are ---

@pytest.mark.parametrize("flat_labels", [False, True])
def test_splits_below_images(tmp_path, flat_labels):
    for i, split in enumerate(("train", "train", "val", "val")):
        save(tmp_path / "images" / split / f"p{i}.png", scene(i)[0])
        save(tmp_path / "labels" / ("" if flat_labels else split) / f"p{i}.png", scene(i)[1])
    train, warned = said(tmp_path)
    assert (train.names, load(tmp_path, "val").names) == (["p0.png", "p1.png"], ["p2.png", "p3.png"])
    assert right(train) and train.num_classes == 3 and warned == []
    assert np.array_equal(ids_of(load(tmp_path, "val"))[0], scene(2)[1])
    with pytest.raises(FileNotFoundError, match="'test'.*it has the splits train, val"):
        load(tmp_path, "test")
    save(tmp_path / "images" / "p9.png", scene(9)[0])
    assert ["1 pictures lie in" in sentence for sentence in said(tmp_path)[1]] == [True]


def test_sub_folders_belong_to_the_set(tmp_path):
    for i, place in enumerate(("", "more", "more/b", "other")):
        save(tmp_path / "images" / place / f"p{i}.png", scene(i)[0])
        save(tmp_path / "labels" / place / f"p{i}.png", scene(i)[1])
    save(tmp_path / "images" / "other" / "p0.png", scene(0)[0])  # of the same name, and without a label
    (tmp_path / "images" / "more" / "round").symlink_to("..")
    dataset, warned = said(tmp_path)
    names = ["more/b/p2.png", "more/p1.png", "other/p0.png", "other/p3.png", "p0.png"]
    assert dataset.names == names and ["1 of 5 pictures" in sentence for sentence in warned] == [True]
    assert [int(found.max()) for found in ids_of(dataset)] == [2, 2, -1, 2, 2]
    assert np.array_equal(ids_of(dataset)[0], scene(2)[1])


def test_every_format_that_pillow_reads(tmp_path):
    names = {"a.JPG": "JPEG", "b.avif": "AVIF", "c.gif": "GIF", "d.jfif": "JPEG", "e.ppm": "PPM", "f.png": "PNG",
             "g.jp2": "JPEG2000", "h.tga": "TGA", "i.mpo": "MPO", "j.jpe": "JPEG", "k.webp": "WEBP", "l.TIF": "TIFF"}
    picture = np.full((20, 24, 3), 40, np.uint8)
    picture[:10] = 200
    for name, kind in names.items():
        save(tmp_path / "images" / name, picture, format=kind)
    dataset, warned = said(tmp_path)
    assert dataset.names == [*names] and warned == []
    for item in dataset:
        assert (item["image"][:, 2] * 255 - 200).abs().max() < 8 and (item["image"][:, 17] * 255 - 40).abs().max() < 8


def test_what_is_passed_over_is_counted_and_heic_has_its_package(tmp_path, monkeypatch):
    draw(tmp_path, count=2)
    for name in ("a.heic", "b.HEIC", "c.txt", "d"):
        (tmp_path / "images" / name).write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as where it is not installed
    reads_heic.cache_clear()
    dataset, [sentence] = said(tmp_path)
    assert dataset.names == ["p0.png", "p1.png"] and "4 of 6 files" in sentence and "2 .heic" in sentence
    assert "install the package pillow-heif" in sentence
    asked = []
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=lambda: asked.append(1)))
    reads_heic.cache_clear()
    dataset, [sentence] = said(tmp_path)
    assert dataset.names == ["a.heic", "b.HEIC", "p0.png", "p1.png"] and asked and "heif" not in sentence
    reads_heic.cache_clear()


@pytest.mark.parametrize(("step", "suffix"), [(1, "png"), (16, "png"), (257, "png"), (1, "tif"), (16, "tif")])
def test_sixteen_bit_files_of_fewer_bits_are_not_black(tmp_path, step, suffix):
    grey = scene()[0][..., 0]
    save(tmp_path / f"a.{suffix}", grey.astype(np.uint16) * step)
    save(tmp_path / "b.tif", grey.astype(np.int32) * step)
    for path in (tmp_path / f"a.{suffix}", tmp_path / "b.tif"):
        assert np.array_equal(np.asarray(load_image(path))[..., 0], grey)


def test_colours_of_twelve_bits_that_pillow_cuts_off_are_said(tmp_path):
    """Pillow reads 16 bits a colour as the upper 8; it writes none, so the file is put together here."""
    for name, step in (("dark", 16), ("whole", 257)):
        values = (scene()[0].astype(np.uint16) * step).astype(">u2")
        (tmp_path / f"{name}.png").write_bytes(png(24, 20, 16, 2, b"".join(b"\0" + row.tobytes() for row in values)))
    with pytest.warns(UserWarning, match=r"dark\.png' has 16 bits a colour and values below 4096"):
        load_image(tmp_path / "dark.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(load_image(tmp_path / "whole.png")), scene()[0])


# --- runs ---

def test_void_alone_ends_in_empty_numbers(tmp_path):
    folder = draw_folder(tmp_path / "data")
    for path in folder.rglob("labels/*.png"):
        save(path, np.full((56, 64), 255, np.uint8))
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), **TINY)
    with pytest.warns(UserWarning, match="In the labels of the judged pictures every pixel is void"):
        record = read_record(stages.evaluate(run))
    assert not record["dataset"]["labelled"] and {one["miou"] for one in record["results"]} == {None}
    segment = Segmenter.load(run.run_dir)
    card = (segment.save_pretrained(tmp_path / "head") / "README.md").read_text()
    assert not segment.matched and "so there are no scores" in card
    path = stages.evaluate(run) / "metrics.json"  # as versions before this wrote it
    without_digests(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": record["dataset"] | {"labelled": True}}))
    assert not read_record(path.parent)["dataset"]["labelled"]


def test_one_class_is_said_with_the_number(tmp_path):
    folder = draw_folder(tmp_path / "data")
    for path in folder.rglob("labels/*.png"):
        save(path, np.where(np.eye(56, 64), 255, 0).astype(np.uint8))
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), **TINY)
    with pytest.warns(UserWarning, match="judged pictures there is one class, sky, and 2% of all pixels void"):
        record = read_record(stages.evaluate_baseline(run))
    assert any("one class" in sentence for sentence in record["notes"]["warnings"])


@pytest.mark.parametrize("stage", ["evaluate", "evaluate_baseline", "fit_clusterbook", "fit_head", "fit_probe"])
def test_labels_that_a_run_needs_are_missed_before_any_work(tmp_path, stage):
    folder = draw_folder(tmp_path / "data", labels=False)
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(tmp_path / "runs"), label_free=False, **TINY)
    with pytest.raises(ValueError, match="label_free=False needs labels, and folder .*: set label_free to True"):
        getattr(stages, stage)(run)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_masks_of_sub_folders_have_their_names(tmp_path):
    for place in ("p0.png", "more/p0.png"):
        save(tmp_path / place, scene()[0])
    assert sorted(name for name, _ in named(tmp_path)) == ["more/p0.png", "p0.png"]
