"""What a data set holds is said, and what a run would refuse is found, before any work."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from conftest import TINY, draw_folder
from PIL import Image
from released_twin import write

from cause_book import plots
from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.data import load_dataset, noted, source
from cause_lib.data.__main__ import main
from cause_lib.data.headers import look_at, read_header
from cause_lib.data.images import load_image
from cause_lib.data.report import Report, report
from cause_lib.runs.check import check, looks
from workflow import check as table_check
from workflow.rows import read_rows


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(*shape, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)


@pytest.fixture
def odd(tmp_path):
    """Two splits with one of everything that may be wrong, or only worth a word."""
    root = tmp_path / "odd"
    for place, split in enumerate(("train", "val")):
        for i in range(3):
            save(root / split / "images" / f"{split}{i}.png", noise(40, 60, 3, seed=10 * place + i))
            save(root / split / "labels" / f"{split}{i}.png", noise(40, 60, top=3))
    train = root / "train" / "images"
    shutil.copy(train / "train0.png", root / "val" / "images" / "copy.png")
    shutil.copy(train / "train1.png", train / "again.png")
    save(root / "train" / "labels" / "again.png", noise(41, 60, top=3))
    save(train / "long.png", noise(4, 100, 3))
    save(root / "train" / "labels" / "long.png", noise(4, 100, top=3), bits=2)
    mark = Image.Exif()
    mark[0x112] = 6
    save(train / "turned.jpg", noise(40, 60, 3), exif=mark)
    whole = (train / "turned.jpg").read_bytes()
    (train / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (train / "none.jpg").write_text("no picture")
    (train / "notes.txt").write_text("not one either")
    save(root / "train" / "labels" / "stray.png", noise(40, 60, top=3))
    return root


def test_a_folder_with_everything(odd):
    found = report("folder", folder=str(odd))
    train, val = found.splits["train"], found.splits["val"]
    assert (train["pictures"], val["pictures"]) == (8, 4)
    assert train["sizes"] == {"smallest": [100, 4], "median": [60, 40], "largest": [40, 60]}
    assert train["passed_over"] == {"count": 1, "first": ["notes.txt"]} and train["turned"] == 2
    assert train["elongated"]["first"] == ["long.png"] and train["kinds"] == {"colour, 8 bits": 7}
    assert sorted(train["unusable"]["first"]) == ["again.png", "cut.jpg", "none.jpg"]
    labels = train["labels"]
    assert labels["kinds"] == {"grey, 8 bits": 4, "grey, 2 bits": 1} and labels["other_size"] == 1
    assert labels["unlabelled"]["count"] == 3 and labels["stray"]["first"] == ["stray.png"]
    assert labels["looked_at"] == 4 and sum(labels["shares"].values()) == pytest.approx(1)
    assert val["labels"]["unlabelled"] == {"count": 1, "first": ["copy.png"]}
    assert [found.copies[where]["count"] for where in ("several_splits", "one_split")] == [1, 1]
    text = str(found)
    for words in ("1 .txt", "1 pictures are in several splits, byte for byte", "1 pictures are there more than once",
                  "train: 1 are more than 8 times as long", "1 labels differ in size", "2 are turned upright",
                  "train: 1 files in labels/ belong to no picture", "to be mended: train: 3 of 8 cannot be used; the first"):
        assert words in text
    assert text == str(found) and json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_the_command_and_what_it_ends_with(odd, tmp_path, capsys):
    good = draw_folder(tmp_path / "good")
    assert main(["check", str(good)]) == 0
    assert capsys.readouterr().out.endswith("nothing has to be mended before a run\n")
    assert main(["check", "--json", "--full", str(good), str(odd)]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said[str(good)]["refused"] == [] and said[str(odd)]["splits"]["val"]["pictures"] == 4
    (tmp_path / "empty" / "images").mkdir(parents=True)
    assert main(["check", str(tmp_path / "empty")]) == 1
    assert "to be mended: " in capsys.readouterr().out
    (good / "classes.json").write_text('["sky", "grass"]')
    assert main(["check", str(good)]) == 1
    assert "4 of 4 cannot be used; the first: label '" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 1, 20, 200])
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp"])
def test_a_file_that_was_cut_off_is_found_without_decoding_the_others(tmp_path, monkeypatch, ending, cut):
    path = save(tmp_path / f"a.{ending}", noise(40, 60, 3))
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) - cut])
    try:
        load_image(path)
        fault = ""
    except ValueError as error:
        fault = str(error)
    decoded = []
    files = source.PictureFiles((path,), None, None)
    monkeypatch.setattr(source, "load_image", lambda path: decoded.append(path) or load_image(path))
    assert [look.fault for look in look_at(files)] == [fault] and (cut or not decoded)


@pytest.mark.parametrize(("mode", "options", "kind"), [
    ("1", {}, "grey, 1 bit"), ("L", {"bits": 4}, "grey, 4 bits"), ("L", {}, "grey, 8 bits"), ("P", {}, "palette, 1 bit"),
    ("I;16", {}, "grey, 16 bits"), ("RGB", {}, "colour, 8 bits"), ("RGBA", {}, "colour with alpha, 8 bits")])
def test_kinds(tmp_path, mode, options, kind):
    Image.new(mode, (5, 4)).save(tmp_path / "a.png", **options)
    assert read_header(tmp_path / "a.png") == ((5, 4), kind, False, True)


def test_generated_and_published_sets(monkeypatch, tmp_path, capsys):
    scenes = report("scenes")
    assert [facts["pictures"] for facts in scenes.splits.values()] == [96, 48] and not scenes.refused
    assert "grass" in scenes.splits["val"]["labels"]["shares"] and "drawn at any size" in str(scenes)
    monkeypatch.setenv("CAUSE_DATA", str(tmp_path))
    for split in ("train", "val"):
        save(tmp_path / f"cityscapes/leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png", noise(4, 8, 3))
        save(tmp_path / f"cityscapes/gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png", noise(4, 8, top=34))
    assert main(["check", "cityscapes"]) == 1  # runnable, and not as published
    said = capsys.readouterr().out
    assert said.startswith("cityscapes train: 1 pictures with labels, but 2975 were published\n")
    assert "1 pictures are in several splits" in said and said.endswith("nothing has to be mended before a run\n")


def test_the_figure(odd, tmp_path):
    many = SimpleNamespace(splits={
        "all": {"pictures": 2, "labels": {"shares": {f"class {i}": 1 / 99 for i in range(99)}}, "common_sizes": []}})
    for found, drawn in ((report("folder", folder=str(odd)), "%p"), (report("scenes"), "%"), (Report("none"), "p"), (many, "%")):
        axes = plots.dataset_report(found)  # what a panel would have nothing of is not drawn
        axes[0].figure.canvas.draw()
        assert [ax.get_xlabel().rpartition("(")[2][0] for ax in axes] == list(drawn)
    assert axes[0].get_title(loc="left") == "The 30 largest of 99 classes"


def test_a_newer_rule_of_reading_is_another_fingerprint(tmp_path, monkeypatch):
    prints = {}
    for name, array, options in (("eight", noise(40, 60, top=3), {}), ("four", noise(40, 60, top=3), {"bits": 4}),
                                 ("sixteen", noise(40, 60).astype(np.uint16), {})):
        save(tmp_path / name / "images" / "a.png", noise(40, 60, 3))
        save(tmp_path / name / "labels" / "a.png", array, **options)
    for rule in (source.LATER_RULE, re.compile("(?!)")):
        monkeypatch.setattr(source, "LATER_RULE", rule)
        noted._DIGESTS.clear()
        for name in ("eight", "four", "sixteen"):
            dataset = load_dataset("folder", "train", image_size=8, folder=str(tmp_path / name))
            prints.setdefault(name, set()).add(dataset.fingerprint)
    noted._DIGESTS.clear()
    assert {name: len(found) for name, found in prints.items()} == {"eight": 1, "four": 2, "sixteen": 2}


# --- before a run ---

@pytest.mark.parametrize(("changes", "sentence"), [
    ({"train_size": 50}, "do not tile 50 x 50 pixels"),
    ({"image_size": 50}, "do not tile 50 x 50 pixels"),
    ({"num_heads": 5}, "5 attention heads cannot share"),
    ({"backbone": "dino_vits17"}, "dino_vits17"),
    ({"device": "cpu", "precision": "fp16"}, "fp16"),
    ({"concept_readout": 2}, "concept_readout 2 is less than the 3 classes"),
    ({"num_classes": 2, "concept_readout": 0}, "num_classes=2, but .* has 3 classes"),
    ({"release": "nowhere"}, "nowhere has no modular.npy"),
])
def test_what_a_run_would_refuse_is_found_before(tiny, changes, sentence):
    experiment = tiny(**changes)
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError), match=sentence):
        check(experiment)


def test_a_good_run_passes_and_so_do_parts_of_one(tiny):
    for stage in ("features", "clusterbook", "head", "probe", "baseline", "evaluation"):
        check(tiny(), stage)
    check(tiny(train_size=50), "clusterbook")  # which no picture is resized to there


def test_files_that_a_run_would_stop_at(tiny):
    experiment = tiny()
    path = Path(experiment.folder) / "val" / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=f"'{path}' cannot be read as a picture"):
        check(experiment)
    with pytest.warns(UserWarning, match="1 of 4 pictures in .* cannot be used and are left out"):
        check(experiment.replace(allow_corrupt="skip"))


def test_a_size_for_training_is_refused_before_the_baseline(tiny, tmp_path):
    for stage in (stages.evaluate, stages.fit_probe, stages.fit_head):
        with pytest.raises(ValueError, match="do not tile 50 x 50 pixels"):
            stage(tiny(train_size=50))
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_released_files_for_other_classes(tmp_path, tiny):
    write(tmp_path / "release", "tr", dim=192, reduced=5, concepts=8, classes=12, side=6)
    experiment = tiny(release=str(tmp_path / "release"))
    for look in (check, stages.evaluate):
        with pytest.raises(ValueError, match="width 192 and 12 classes; bundled has width 192 and folder 3 classes"):
            look(experiment)


def test_a_table_is_checked_in_the_same_words(tmp_path, odd, capsys, monkeypatch):
    bare = draw_folder(tmp_path / "bare", labels=False)
    mask = draw_folder(tmp_path / "mask")
    (mask / "classes.json").unlink()
    for path in mask.rglob("labels/*.png"):
        save(path, np.where(np.eye(56, 64), 255, 0).astype(np.uint8))
    table = tmp_path / "table.csv"
    table.write_text("dataset,folder,label_free,image_size,train_size,device,precision\n"
                     f"folder,{odd},,48,,,\nfolder,{bare},False,48,,,\nfolder,{mask},,48,,,\nscenes,,,48,50,,\n"
                     "scenes,,,48,,cuda,fp16\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert table_check.main([str(table)]) == 0
    said = capsys.readouterr().out
    for words in (f"missing for line 1: 3 pictures of {odd} cannot be used; the first: ", "remark on line 1: 3 of 8 pictures",
                  "missing for line 2: label_free=False needs labels", "remark on line 3: In the labels of",
                  "missing for line 4: bundled cuts images"):
        assert words in said
    assert not any("5" in lines for lines in re.findall(r"(?:missing for|remark on) lines? (\S+): ", said))  # a GPU's
    rows = read_rows(table)
    assert [*looks(rows[3].experiment)][-2:] == [*looks(rows[4].experiment)][-2:]  # looked at once for both


def test_runs_with_labels_of_other_steps_are_marked(tmp_path):
    fields = Experiment(label_free=False, **TINY).to_dict()
    result = {"method": "CAUSE-TR", "num_clusters": 3, "clusters_used": 3, "miou": 0.5, "miou_present": 0.5}
    for name, experiment in (("new", fields), ("old", {k: v for k, v in fields.items() if k != "labels_in_norm"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({
            "stage": "evaluation", "library": "0.1.0+aaaaaaaa", "experiment": experiment, "weights": {"sha256": ""},
            "dataset": {"images": 1}, "results": [result]}))
    warned = stages.collect_metrics(tmp_path).set_index("folder")["warnings"]
    assert warned[str(tmp_path / "new")] == ""
    assert warned[str(tmp_path / "old")].startswith("Made by 0.1.0+aaaaaaaa, where label_free=False")
