"""Artefact folders: whole or absent, and known again when another version of the library made them."""

import json
import warnings

import pytest
import torch

from cause_lib import stages
from cause_lib.runs import store
from cause_lib.runs.store import (
    artefact_folder,
    checkpoint_path,
    is_complete,
    libraries_of,
    library_version,
    load_checkpoint,
    save_checkpoint,
    write_artefact,
    write_whole,
)

ONE = {"a": torch.ones(2)}


@pytest.fixture(autouse=True)
def nothing_recognised_yet():
    store._recognise.cache_clear()
    yield
    store._recognise.cache_clear()


def made_by(folder, library):
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
