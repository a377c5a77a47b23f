"""Artefact folders: whole or absent, made once, and recognised when another version of the library made them."""

import errno
import json
import os
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import without_digests

from cause_lib import stages
from cause_lib.errors import NotFound
from cause_lib.runs import store
from cause_lib.runs.store import (artefact_folder, checkpoint_path, is_complete, is_made, libraries_of, library_version,
                                  load_checkpoint, load_tensors, locked, made_once, new_artefact, save_checkpoint,
                                  whole, write_artefact, write_record, write_whole)

ONE = {"a": torch.ones(2)}


@pytest.fixture(autouse=True)
def nothing_recognised_yet():
    store._recognise.cache_clear()
    yield
    store._recognise.cache_clear()


def made_by(folder, library):
    without_digests(folder)
    record = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps(record | {"library": library}))


def test_an_artefact_of_another_version_is_used_and_said_once(tiny):
    run = tiny()
    book = stages.fit_clusterbook(run)
    made_by(book, "0.0.9+01234567")
    store._recognise.cache_clear()
    with pytest.warns(UserWarning, match=r"was made by cause_lib 0\.0\.9\+01234567, and this is .* remove the folder"):
        assert stages.fit_clusterbook(run) == book
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = stages.fit_head(run)
    assert stages.read_record(head)["libraries"] == sorted(["0.0.9+01234567", library_version()])
    metrics = stages.read_record(stages.evaluate(run))
    assert metrics["libraries"] == sorted(["0.0.9+01234567", library_version()])  # it came down to the numbers


def test_an_artefact_of_another_format_is_refused(tmp_path):
    folder = write_artefact(tmp_path / "head" / "x", {"stage": "head", "library": "9.0+0", "format": 2})
    with pytest.raises(ValueError, match=r"has format 2, .* reads format 1: use the version that made it \(9\.0\+0\)"):
        is_complete(folder)


def test_artefacts_from_before_formats_were_written_are_of_the_first(tmp_path):
    folder = write_artefact(tmp_path / "x", {"stage": "head", "library": library_version()})
    without_digests(folder)
    record = json.loads((folder / "artefact.json").read_text())
    assert record.pop("format") == 1
    (folder / "artefact.json").write_text(json.dumps(record))
    assert is_complete(folder) and libraries_of([folder]) == [library_version()]


def test_a_checkpoint_of_another_version_is_not_gone_on_from(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "x", {"done": 3}, ONE)
    assert load_checkpoint(tmp_path / "x")[0] == {"done": 3}
    monkeypatch.setattr(store, "library_version", lambda: "0.2.0+fedcba98")
    with pytest.warns(UserWarning, match="was written by cause_lib .* and this is 0.2.0.*the stage begins anew"):
        assert load_checkpoint(tmp_path / "x") is None
    assert not checkpoint_path(tmp_path / "x").exists()


def test_a_checkpoint_of_another_format_is_not_gone_on_from(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "x", {"done": 3}, ONE)
    monkeypatch.setattr(store, "FORMAT", 2)
    with pytest.warns(UserWarning, match="was written by cause_lib .*the stage begins anew"):
        assert load_checkpoint(tmp_path / "x") is None


def test_versions_of_the_same_bits_go_on_from_each_other_and_say_nothing(tmp_path, monkeypatch):
    """Checkpoints and artefacts made before the version was that of the numeric code alone, and before formats."""
    write_artefact(tmp_path / "y", {"stage": "head", "library": "0.1.0+ffce4a70"})
    monkeypatch.setattr(store, "library_version", lambda: "0.1.0+ffce4a70")
    save_checkpoint(tmp_path / "x", {"done": 3}, ONE)
    monkeypatch.setattr(store, "library_version", lambda: "0.1.0+01234567")
    monkeypatch.setattr(store, "same_bits", lambda *versions: versions == ("0.1.0+ffce4a70", "0.1.0+01234567"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(tmp_path / "x")[0] == {"done": 3}
        assert is_complete(tmp_path / "y")


@pytest.mark.parametrize("damage", [b"", b"\x00" * 8, b"\xff" * 100, None])
def test_a_damaged_checkpoint_costs_the_stage_and_not_the_run(tiny, tmp_path, damage):
    save_checkpoint(tmp_path / "x", {"done": 3}, ONE)
    path = checkpoint_path(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    with pytest.warns(UserWarning, match="is damaged .* the stage begins anew"):
        assert load_checkpoint(tmp_path / "x") is None
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "null"])
def test_a_damaged_record_is_one_sentence(tmp_path, text):
    folder = write_artefact(tmp_path / "x", {"stage": "head"})
    (folder / "artefact.json").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=r"artefact.json is damaged .*: remove .* and run its stage again\.$"):
        is_complete(folder)


OLD = {"miou": 5 / 6, "miou_all": 5 / 9, "pacc": 0.8, "iou": [2 / 3, 1.0, None], "readout": "kmeans"}
NOW = {"miou": 5 / 9, "miou_present": 5 / 6, "pacc": 0.8, "readout": "kmeans"}
COUNTS = [[2, 0, 0], [0, 2, 0], [1, 0, 0]]  # class 2 occurs nowhere, and its cluster wins a pixel


@pytest.mark.parametrize(("written", "read"), [
    (OLD | {"confusion": COUNTS}, NOW | {"confusion": COUNTS, "iou": [2 / 3, 1.0, 0.0]}),
    ({key: value for key, value in OLD.items() if key != "miou_all"} | {"confusion": COUNTS},  # of before `miou_all`
     NOW | {"confusion": COUNTS, "iou": [2 / 3, 1.0, 0.0]}),
    (OLD, NOW | {"iou": OLD["iou"]}),  # as a saved Segmenter has it, without counts
    (NOW | {"miou": 0.1}, NOW | {"miou": 0.1}),  # one of now stays
    (OLD | {"confusion": [[0] * 3] * 3, "miou": None, "miou_all": None, "pacc": None, "iou": [None] * 3},
     NOW | {"confusion": [[0] * 3] * 3, "miou": None, "miou_present": None, "pacc": None, "iou": [None] * 3}),
], ids=["with counts", "before miou_all", "without counts", "of now", "without labels"])
def test_scores_of_before_are_read_with_the_names_of_now(tmp_path, written, read):
    (tmp_path / "metrics.json").write_text(json.dumps({"stage": "evaluation", "results": [written, written]}))
    found = store.read_record(tmp_path)["results"]
    assert [set(one) for one in found] == [set(read)] * 2
    for key, value in read.items():
        assert found[1][key] == (pytest.approx(value) if key in ("miou", "miou_present", "iou") else value)


@pytest.mark.parametrize("results", [3, None, "x", [3], [{"confusion": [[1, 2], [3]]}], [{"confusion": "x"}],
                                     [{"miou_all": 0.5}]])
def test_results_that_cannot_be_read_are_one_sentence(tmp_path, results):
    (tmp_path / "metrics.json").write_text(json.dumps({"stage": "evaluation", "results": results}))
    with pytest.raises(ValueError, match="metrics.json is damaged .*: remove .* and run its stage again"):
        store.read_record(tmp_path)


def test_a_folder_that_is_in_the_way_is_named(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OSError, match="in the way: move it away"):
        write_artefact(tmp_path / "x", {"stage": "head"})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_long_name_of_a_folder_still_fits_into_a_file_name(tmp_path):
    folder = artefact_folder(tmp_path, "head", "ä" * 250, {})
    write_artefact(folder, {"stage": "head"})
    save_checkpoint(folder, {}, ONE)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "new" / "table.csv"
    write_whole(path, "a,b\n")
    assert path.read_text() == "a,b\n"
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(store.os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match=r"Cannot write .*table.csv \(No space left on device\): make room"):
                write_whole(path, "c\n")
        assert [p.name for p in path.parent.iterdir()] == ["table.csv"] and path.read_text() == "a,b\n"
    with pytest.raises(OSError, match="choose another place"):
        write_whole(path / "below", "c\n")


@pytest.mark.parametrize("stage", ["fit_clusterbook", "evaluate_baseline"])
def test_a_checkpoint_of_something_else_is_one_sentence(tiny, stage):
    run = tiny()
    folder = stages.folder_of(run, {"fit_clusterbook": "clusterbook", "evaluate_baseline": "baseline_evaluation"}[stage])
    save_checkpoint(folder, {"done": 1, "seconds": 0.0, "scaler": None}, ONE)
    with pytest.raises(ValueError, match=r"The checkpoint .* is not of this run.*: remove it\.$"):
        getattr(stages, stage)(run)
    assert not is_complete(folder) and checkpoint_path(folder).exists()


# --- whole: a file or a folder, or nothing ---

def test_a_folder_is_written_beside_its_place(tmp_path):
    with whole(tmp_path / "a" / "b") as beside:
        beside.mkdir()
        (beside / "c").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "c").read_text() == "1"


def test_a_folder_that_is_there_gets_its_files_one_by_one(tmp_path, monkeypatch):
    folder, moved, replace = tmp_path / "a", [], os.replace
    folder.mkdir()
    (folder / "kept").write_text("k"), (folder / "z").write_text("old")
    monkeypatch.setattr(store.os, "replace", lambda old, new: moved.append(new.name) or replace(old, new))
    with whole(folder, last="config") as beside:
        beside.mkdir()
        for name in ("config", "z"):
            (beside / name).write_text("new")
    assert moved == ["z", "config"] and sorted(p.name for p in folder.iterdir()) == ["config", "kept", "z"]
    assert (folder / "z").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error, raised, says", [
    (OSError(28, "No space left on device"), OSError,
     r"^Cannot write the book .*x \(No space left on device\): make room\.$"),
    (NotFound("a picture is not there"), FileNotFoundError, "^a picture is not there$"),
    (KeyboardInterrupt("stop"), KeyboardInterrupt, "^stop$"),
])
def test_what_goes_wrong_leaves_nothing(tmp_path, error, raised, says):
    (tmp_path / "x").write_text("old")
    with pytest.raises(raised, match=says), whole(tmp_path / "x", "the book", "make room") as beside:
        beside.write_text("new")
        raise error
    assert (tmp_path / "x").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_of_two_that_write_an_artefact_the_first_stays(tmp_path):
    with new_artefact(tmp_path / "x") as beside:
        write_record(beside, {"stage": "second"})
        write_artefact(tmp_path / "x", {"stage": "first"}, {"some": ONE})
    assert store.read_record(tmp_path / "x")["stage"] == "first" and [p.name for p in tmp_path.iterdir()] == ["x"]
    assert load_tensors(tmp_path / "x" / "some.safetensors")["a"].tolist() == [1, 1]


# --- locks: tests/faults/test_kill.py has them across processes ---

def left_by_a_kill(folder):
    """What killed processes leave beside an artefact."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / f".{folder.name}.0123abcd").mkdir()
    (folder.parent / f".{folder.name}.0123abcd" / "file").write_text("half")
    (folder.parent / f".{folder.name}.checkpoint.safetensors.0123abcd").mkdir()
    (folder.parent / f".{folder.name}.npy").write_text("half")


def test_the_next_holder_sweeps_what_was_left(tmp_path):
    left_by_a_kill(tmp_path / "x")
    save_checkpoint(tmp_path / "x", {"done": 1}, ONE)
    (tmp_path / ".xy.0123abcd").mkdir()  # another artefact's
    with locked(tmp_path / "x"):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".x.lock", ".xy.0123abcd", "x.checkpoint.safetensors"]
    assert not (tmp_path / ".x.lock").exists() and load_checkpoint(tmp_path / "x")[0] == {"done": 1}


def test_who_waits_says_so_once(tmp_path, capsys):
    order, held = [], threading.Event()

    def second():
        held.wait()
        with locked(tmp_path / "x"):
            order.append("second")

    waiter = threading.Thread(target=second)
    waiter.start()
    with locked(tmp_path / "x"):
        held.set()
        time.sleep(0.4)
        order.append("first")
    waiter.join()
    assert order == ["first", "second"] and not list(tmp_path.iterdir())
    assert capsys.readouterr().out == f"Another process is making {tmp_path / 'x'}: waiting for it.\n"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_does_without(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    left_by_a_kill(tmp_path / "x")
    before = sorted(path.name for path in tmp_path.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked(tmp_path / "x"), locked(tmp_path / "x"):  # nobody waits
            write_artefact(tmp_path / "x", {"stage": "head"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [*before, "x"]  # it may be another's: it stays
    assert is_made(tmp_path / "x")


def test_a_lock_that_fails_otherwise_is_one_sentence(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match=r"^Cannot write below .* \(Input/output error\): choose a run_dir"):
        with locked(tmp_path / "x"):
            raise AssertionError


def test_a_finished_artefact_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    folder = write_artefact(tmp_path / "x", {"stage": "head"})
    (tmp_path / ".x.lock").touch()

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.FileLock, "acquire", refuse)
    assert is_made(folder)
    with pytest.raises(OSError, match="Permission denied"), locked(folder):
        pass


def test_what_a_maker_left_who_was_killed_at_the_very_end_is_removed(tmp_path):
    folder = write_artefact(tmp_path / "x", {"stage": "head"})
    (tmp_path / ".x.lock").touch()
    save_checkpoint(folder, {"done": 1}, ONE)
    assert is_made(folder) and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_processes_of_a_run_get_the_same_list_and_the_first_holds_the_locks(tmp_path, monkeypatch):
    folders, taken = [tmp_path / name for name in "cab"], []
    write_artefact(tmp_path / "a", {"stage": "head"})
    monkeypatch.setattr(store, "_sweep", lambda folder: taken.append(folder.name))  # by whoever holds the lock
    for main in (True, False):
        alone = SimpleNamespace(is_main_process=main, wait_for_everyone=lambda: None)
        with made_once(folders, alone) as wanted:
            assert wanted == [tmp_path / "c", tmp_path / "b"]
    assert taken == ["a", "b", "c"]
