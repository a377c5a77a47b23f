"""What is known is not done again: digests of unchanged files, a folder as it was."""

import os
import pickle
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.weights import BUNDLED_PATH
from cause_lib.data import noted, source, views
from cause_lib.data.kept import Kept
from cause_lib.runs import features
from cause_lib.runs.features import open_dataset
from cause_lib.runs.opened import facts_of
from cause_lib.runs.stage import folder_of


@pytest.fixture
def read(monkeypatch):
    """Sizes of the files read as a whole, as bytes or text."""
    sizes, read_bytes, read_text = [], Path.read_bytes, Path.read_text
    monkeypatch.setattr(Path, "read_bytes", lambda path: sizes.append(len(found := read_bytes(path))) or found)
    monkeypatch.setattr(Path, "read_text", lambda path, **as_: sizes.append(len(found := read_text(path, **as_))) or found)
    return sizes


def another_process():
    noted._DIGESTS.clear(), noted.SAID.clear()


@pytest.fixture
def old(tiny):
    """The tiny experiment, its files last changed long enough ago, as their times of status say too."""
    run = tiny()
    Path(run.run_dir).mkdir()
    time.sleep(0.1)
    another_process()
    return run


@pytest.fixture
def quick(monkeypatch):
    """Files may be noted soon after they were changed."""
    monkeypatch.setattr(noted, "RACY", 50_000_000)


def pictures(run):
    return sorted(Path(run.folder).rglob("images/*.png"))


@pytest.mark.usefixtures("quick")
def test_a_second_start_reads_no_file_of_an_unchanged_folder(old, read):
    first = folder_of(old, "evaluation")
    everything = sum(read)
    assert everything > sum(path.stat().st_size for path in pictures(old))
    another_process()
    read.clear()
    assert folder_of(old, "evaluation") == first
    facts = (Path(old.run_dir) / ".opened" / "facts.json").stat().st_size
    card = BUNDLED_PATH.with_suffix(".json").stat().st_size  # which the backbone's weights are held against
    assert sum(read) == 2 * facts + card  # the facts once a role; however many pictures there are


@pytest.mark.usefixtures("quick")
def test_a_file_touched_is_read_again_and_the_others_are_not(old, read):
    first = folder_of(old, "evaluation")
    another_process()
    os.utime(path := pictures(old)[0])
    looked = []
    digest = source.digest_of
    source_digest = lambda path: looked.append(path) or digest(path)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "digest_of", source_digest)
        assert folder_of(old, "evaluation") == first
    assert looked == [path]


@pytest.mark.usefixtures("quick")
def test_other_bytes_of_the_same_size_and_time_are_noticed(old):
    first = folder_of(old, "evaluation")
    another_process()
    path = pictures(old)[0]
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last chunk's checksum
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert folder_of(old, "evaluation") != first


def test_a_file_changed_a_moment_ago_is_read_again(tiny, read):
    run = tiny()
    Path(run.run_dir).mkdir()
    another_process()
    folder_of(run, "evaluation")
    everything = sum(read)
    another_process()
    read.clear()
    folder_of(run, "evaluation")
    assert sum(read) >= everything


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", ["damaged", "file in the way", "of another kind"])
def test_notes_that_cannot_be_used_are_done_without(old, what):
    first = folder_of(old, "evaluation")
    another_process()
    place = Path(old.run_dir) / ".opened"
    for path in list(place.iterdir()):
        path.write_text("{" if what == "damaged" else '{"rule": 3, "files": []}')
        if what == "file in the way":
            path.unlink()
    if what == "file in the way":
        place.rmdir()
        place.write_text("")
    assert folder_of(old, "evaluation") == first


def test_looking_makes_no_folder(tiny):
    run = tiny()
    assert stages.find(run, "evaluation") is None and not Path(run.run_dir).exists()


@pytest.mark.usefixtures("quick")
def test_a_folder_that_is_warned_of_is_warned_of_every_time(old):
    (next(Path(old.folder).glob("train/labels/*"))).unlink()
    time.sleep(0.1)
    for _ in range(2):
        another_process()
        with pytest.warns(UserWarning, match="have no label"):
            facts_of(old, "train")


def test_a_run_warns_of_a_folder_once(tiny):
    """Whatever of it opens the folder, and again in another run of the same process."""
    run = tiny()
    (next(Path(run.folder).glob("train/labels/*"))).unlink()
    for split in ("train", "val"):
        (Path(run.folder) / split / "images" / "notes.txt").write_text("")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stages.check(run), stages.evaluate(run), stages.evaluate(run)
        open_dataset(run.replace(image_size=96), "train", 96)
    found = [str(one.message) for one in said if run.folder in str(one.message)]
    assert len(found) == len(set(found)) == 3
    with noted.one_look():
        assert open_dataset(run, "train", 48).warned == open_dataset(run, "train", 48).warned == [one for one in found if "val" not in one.replace(run.folder, "")]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", ["classes", "picture", "label", "link"])
def test_whatever_names_an_artefact_is_noticed(old, change):
    first = folder_of(old, "evaluation")
    root = Path(old.folder)
    if change == "classes":
        (root / "classes.json").write_text('["air", "grass", "house"]')
    elif change == "picture":
        Image.new("RGB", (64, 56)).save(root / "val/images/9.png")
        Image.new("L", (64, 56)).save(root / "val/labels/9.png")
    elif change == "label":
        Image.new("L", (64, 56)).save(root / "val/labels/0.png")
    else:
        outside = root.parent / "outside"
        (root / "val").rename(outside)
        (root / "val").symlink_to(outside)
        assert folder_of(old, "evaluation") == first
        Image.new("RGB", (64, 56)).save(outside / "images/0.png")
    assert folder_of(old, "evaluation") != first


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("split", ["2024/val", "../b", "a/b/val"])
def test_a_split_that_is_a_path_is_looked_at(old, split):
    root = Path(old.folder)
    home = root / split
    home.parent.mkdir(parents=True, exist_ok=True)
    (root / "val").rename(home)
    run = old.replace(test_split=split)
    time.sleep(0.1)
    first = facts_of(run, "test").fingerprint
    assert (Path(run.run_dir) / ".opened/facts.json").exists()
    another_process()
    Image.new("L", (64, 56)).save(home / "labels/0.png")
    assert facts_of(run, "test").fingerprint != first


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("notes", ["facts.json", "[!f]*.json"])
def test_a_flipped_bit_in_notes_is_noticed(old, notes):
    """Of the facts and of the digests, both of which hold hexadecimal digits that would name other artefacts."""
    first = facts_of(old, "test").fingerprint
    (path,) = (Path(old.run_dir) / ".opened").glob(notes)
    text = path.read_text()
    at = text.index(first) if notes == "facts.json" else text.index(source.digest_of(pictures(old)[-1]))
    path.write_text(text[:at] + ("1" if text[at] == "0" else "0") + text[at + 1:])
    if notes != "facts.json":
        (path.parent / "facts.json").unlink()
    another_process()
    assert facts_of(old, "test").fingerprint == first


CHANGED = "^Pictures or labels in .*data changed while they were read: run again\\.$"


def overwrite(path):
    """Another picture of the same size in pixels, at a later time."""
    time.sleep(0.02)
    Image.new("L" if path.parent.name == "labels" else "RGB", (64, 56), 1).save(path)


@pytest.mark.parametrize("noted_before", [False, True])
def test_labels_changed_during_a_run_are_not_judged_under_the_old_name(old, monkeypatch, quick, noted_before):
    """Whether the test pictures are opened before the change, or their facts were noted and they are opened after it."""
    if noted_before:
        facts_of(old, "test"), facts_of(old, "train")
        another_process()
    label, train = Path(old.folder) / "val/labels/0.png", stages.train
    monkeypatch.setattr(stages, "train", lambda *args, **how: train(*args, **how) or overwrite(label))
    with pytest.raises(ValueError, match=CHANGED):
        stages.evaluate(old)
    made = {path.parts[-3] for path in Path(old.run_dir).glob("*/*/artefact.json")}
    assert {"clusterbook", "head", "probe", "baseline"} <= made and not any("evaluation" in stage for stage in made)
    monkeypatch.setattr(stages, "train", train)
    stages.evaluate(old)


def test_pictures_changed_during_training_leave_no_artefact_and_no_checkpoint(tiny, monkeypatch):
    run, train = tiny(cache_gb=0), stages.train
    monkeypatch.setattr(stages, "train", lambda *args, **how: train(*args, **how) or overwrite(
        Path(run.folder) / "train/images/1.png"))
    with pytest.raises(ValueError, match=CHANGED):
        stages.fit_clusterbook(run)
    assert not list(Path(run.run_dir).glob("clusterbook/*"))


@pytest.mark.parametrize("how", ["overwritten", "removed", "put back"])
def test_pictures_changed_under_the_backbone_leave_no_tokens(tiny, monkeypatch, how):
    run, see = tiny(), features.FrozenFeatures.see
    path = Path(run.folder) / "train/images/1.png"

    def change(self, images):
        content = path.read_bytes()
        overwrite(path)
        if how == "removed":
            path.unlink()
        elif how == "put back":
            path.write_bytes(content)
        monkeypatch.setattr(features.FrozenFeatures, "see", see)
        return see(self, images)

    monkeypatch.setattr(features.FrozenFeatures, "see", change)
    with pytest.raises(ValueError, match=CHANGED):
        stages.fit_clusterbook(run)
    assert not list(Path(run.run_dir).glob("*/*"))


def test_looking_again_lists_no_folder_and_reads_no_picture(tiny, read, monkeypatch):
    run = tiny()
    stamped, stamps_of = [], features.stamps_of
    dataset = open_dataset(run, "train", 48)
    read.clear()
    (Path(run.folder) / "train/images/1.png").chmod(0o600)  # other rights are no change
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("a folder was listed"))
    features.refuse_changed(run, dataset, Path(run.run_dir) / "x")
    assert not read and len(dataset.source.stamps) == 8
    monkeypatch.undo()
    monkeypatch.setattr(features, "stamps_of", lambda files: stamped.append(1) or stamps_of(files))
    stages.evaluate(run)
    made = len(stamped)
    assert made == len(list(Path(run.run_dir).glob("*/*/artefact.json")))  # once an artefact
    stages.evaluate(run)
    assert len(stamped) == made


def test_a_run_opens_each_folder_once(tiny, monkeypatch):
    opened, walk = [], os.walk
    run = tiny()
    monkeypatch.setattr(source.os, "walk", lambda top, **how: opened.append(str(top)) or walk(top, **how))
    stages.evaluate(run)
    assert max(map(opened.count, opened)) <= 4  # pictures and labels of a split, and the labels of all, of both roles


def test_experiments_of_other_sets_note_nothing(tmp_path):
    run = Experiment(dataset="scenes", image_size=48, train_images=2, test_images=2, run_dir=str(tmp_path / "runs"))
    Path(run.run_dir).mkdir()
    folder_of(run, "evaluation")
    assert not any(Path(run.run_dir).iterdir())


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that were decoded, one for each time."""
    paths, load = [], source.load_image
    monkeypatch.setattr(source, "load_image", lambda path: paths.append(path) or load(path))
    return paths


def test_each_picture_is_decoded_once_a_run(tiny, decoded):
    stages.evaluate(tiny())
    assert sorted(decoded) == pictures(tiny())  # for two sizes, two directions, two evaluations


def test_without_room_each_is_decoded_once_a_training_size(tiny, decoded, monkeypatch):
    monkeypatch.setattr(views, "ROOM", 0)
    run = tiny(head="mlp")
    assert run.train_size != run.image_size
    stages.evaluate(run)
    train = [path for path in decoded if "train" in path.parts]
    assert sorted(train) == sorted(2 * [path for path in pictures(run) if "train" in path.parts])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("room", [4.0, 0.0], ids=["with room on disk", "without"])
def test_test_pictures_that_do_not_fit_in_memory_are_decoded_once(tiny, tmp_path, monkeypatch, workers, room):
    """Without room on disk, too: head and baseline are judged in one pass."""
    plain = stages.evaluate(run := tiny(head="mlp"))
    monkeypatch.setattr(views, "ROOM", 0)
    log, load = tmp_path / "decoded", source.load_image

    def logged(path):
        with log.open("a") as file:  # by a worker process, too
            file.write(f"{path}\n")
        return load(path)

    monkeypatch.setattr(source, "load_image", logged)
    again = stages.evaluate(run.replace(run_dir=str(tmp_path / "again"), num_workers=workers, cache_gb=room))
    test = [path for path in pictures(run) if "val" in path.parts]
    assert [log.read_text().splitlines().count(str(path)) for path in test] == [1] * len(test)
    first, second = ([path.read_bytes() for path in folder.glob("gallery.safetensors")] for folder in (plain, again))
    assert len(first) == 1 and first == second
    assert not list((tmp_path / "again").glob("features/.items*"))


def test_items_without_room_are_made_again(tiny, tmp_path, monkeypatch):
    """Of a file that holds one, or none; and in a worker process that is no fork, which has no file."""
    want = open_dataset(tiny(), "test", 48)
    kept = Kept(tmp_path, 48, room=5 * 48**2 + 1)
    image, label = want._made(1)
    kept.put(0, image, label), kept.put(1, image, label)
    assert all(map(torch.equal, kept.get(0), (image, label.short()))) and kept.get(1) is None
    assert pickle.loads(pickle.dumps(kept)).get(0) is None
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with noted.one_look():
        (full := open_dataset(tiny(), "test", 48)).keep(tmp_path, 1e9)
        for _ in range(2):
            assert all(torch.equal(full[0][name], want[0][name]) for name in ("image", "label"))


def test_outside_of_a_run_a_data_set_keeps_no_pictures(tiny, decoded):
    dataset = open_dataset(tiny(), "test", 48)
    assert [dataset[i]["index"] for i in (0, 1, 0)] == [0, 1, 0] and len(decoded) == 3


def test_few_updates_make_few_tokens_to_the_same_bits(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAMPLE_VIEWS", 2)
    monkeypatch.setattr(features, "RUNS", 1)
    few = dict(concept_steps=2, head_steps=1, probe_steps=1, batch_size=1, head="mlp")
    seen, see = [], features.FrozenFeatures.see
    monkeypatch.setattr(features.FrozenFeatures, "see",
                        lambda self, images: seen.append(self.mirrored) or see(self, images))
    asked = stages.evaluate(tiny(**few))
    some = len(seen)
    monkeypatch.setattr(features.FrozenFeatures, "_asked", lambda self: 10**9)
    whole = stages.evaluate(tiny(**few, run_dir=str(tmp_path / "whole")))
    assert some - 8 <= 10 and len(seen) - some == 2 * 20 + 8
    made = sorted((tmp_path / "runs").glob("*/*/*.safetensors"))
    assert {path.parts[-3] for path in made} >= {"clusterbook", "head", "probe", "baseline"}
    for path in made:
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(tmp_path / "runs")).read_bytes()
    assert asked.name == whole.name and not list((tmp_path / "runs/features").glob("*train*"))


def test_few_tokens_without_room_are_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr(features, "SAMPLE_VIEWS", 2)
    monkeypatch.setattr(features, "RUNS", 1)

    def full(self, i, tokens):
        with features.said_whole(self.folder):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.Some, "put", full)
    with pytest.raises(OSError, match=r"^Cannot write the features .* \(No space left on device\): choose .* to 0\.$"):
        stages.fit_clusterbook(tiny(concept_steps=2, head_steps=1, probe_steps=1, batch_size=1))
