"""Nothing lost: stages that are killed, that run out of disk, that share a folder, whose clock goes back.

Every stage is killed (SIGKILL) at random moments, KILLS of them from the environment, and at every change that it makes
to the disk. At every moment each artefact folder has the bits of an undisturbed run or is not there; started again, the
stage ends with those bits and leaves nothing else behind.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import TINY, draw_folder
from mortal import CONTEXT, STAGES, start

from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.runs.store import checkpoint_path, locked

KILLS = int(os.environ.get("KILLS", "4"))
NOT_BITS = ("seconds", "peak_mb", "date", "device", "digest")  # of a record: when and where, not what; hence its digest


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An experiment, and everything that it leaves when nothing happens."""
    home = tmp_path_factory.mktemp("undisturbed")
    folder = draw_folder(home / "data")
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(home / "runs"),
                     **TINY | dict(concept_steps=5, head_steps=5, probe_steps=5, checkpoint_steps=2, head="mlp",
                                   train_size=48, concept_readout=6, crf=True, crf_iterations=1))
    child = start(run, "evaluation")
    child.join()
    assert child.exitcode == 0
    return run


def contents(folder):
    """Everything below a folder of runs, file by file, but for when and where it was made, and for notes on what was
    opened, which hold times (data/noted.py)."""
    found = {}
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file() and not p.match(".opened/[!.]*.json")):
        data = path.read_bytes()
        if path.suffix == ".json" and is_finished(path.relative_to(folder)):
            record = json.loads(data)
            record = {key: value for key, value in record.items() if key not in NOT_BITS}
            record["files"] = {name: digest for name, digest in record.get("files", {}).items() if name != "metrics.json"}
            record["experiment"] = {key: value for key, value in record["experiment"].items() if key != "run_dir"}
            data = json.dumps(record, sort_keys=True)
        found[path.relative_to(folder).as_posix()] = data
    return found


def is_finished(name):
    """Whether a path below a folder of runs, stage/artefact/file, is an artefact's, not of one under way."""
    return len(Path(name).parts) == 3 and not Path(name).parts[1].startswith(".")


def assert_whole_or_absent(folder, expected):
    there = contents(folder)
    artefacts = {Path(name).parent for name in there if is_finished(name)}
    for artefact in artefacts:
        for name, data in expected.items():
            if Path(name).parent == artefact:
                assert there.get(name) == data, f"{name} is not whole"
    assert {Path(name).parent for name in expected} >= artefacts


def before(undisturbed, stage, place):
    """The same experiment in a folder where all but this stage's artefact, and what is made of it, is there already."""
    shutil.copytree(undisturbed.run_dir, place)
    order = list(STAGES)
    for later in ([stage, "evaluation"] if "baseline" in stage else order[order.index(stage):]):
        if stage == "baseline" and later == "evaluation":
            shutil.rmtree(place / "baseline_evaluation", ignore_errors=True)
        shutil.rmtree(place / later, ignore_errors=True)
    return undisturbed.replace(run_dir=str(place))


def finish(run, stage, expected):
    """Runs the stage to its end, and holds what is there against an undisturbed run."""
    child = start(run, stage)
    child.join()
    assert child.exitcode == 0
    there = contents(run.run_dir)
    made = {name: data for name, data in expected.items() if name.split("/")[0] == stage}
    assert made and {name: there.get(name) for name in made} == made
    assert set(there) <= set(expected), "something half-written was left behind"


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments(undisturbed, stage, tmp_path):
    expected, chance = contents(undisturbed.run_dir), random.Random(stage)
    run = before(undisturbed, stage, tmp_path / "runs")
    spare = shutil.copytree(run.run_dir, tmp_path / "spare")
    began = time.monotonic()
    finish(run, stage, expected)
    whole = time.monotonic() - began
    killed = 0
    while killed < KILLS:
        shutil.rmtree(run.run_dir)
        shutil.copytree(spare, run.run_dir)
        while killed < KILLS:  # killed again on its way from the checkpoint, now and then
            child = start(run, stage)
            child.join(chance.uniform(0, whole))
            child.kill()
            child.join()
            killed += child.exitcode == -signal.SIGKILL
            assert_whole_or_absent(run.run_dir, expected)
            if child.exitcode == 0 or chance.random() < 0.5:
                break
        finish(run, stage, expected)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_change_of_the_disk(undisturbed, stage, after, tmp_path):
    expected = contents(undisturbed.run_dir)
    run = before(undisturbed, stage, tmp_path / "runs")
    spare = shutil.copytree(run.run_dir, tmp_path / "spare")
    every, change = max(1, 16 // KILLS), 0
    while True:
        shutil.rmtree(run.run_dir)
        shutil.copytree(spare, run.run_dir)
        child = start(run, stage, dies_at=change, after=after)
        child.join()
        assert_whole_or_absent(run.run_dir, expected)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        finish(run, stage, expected)
        change += every
    assert change >= 12, "the stage hardly wrote anything"


def test_processes_that_ask_for_the_same_at_once_make_it_once(undisturbed, tmp_path):
    run, made = undisturbed.replace(run_dir=str(tmp_path / "runs")), tmp_path / "made"
    together = CONTEXT.Barrier(3)
    children = [start(run, "evaluation", made=str(made), together=together) for _ in range(3)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    expected = contents(undisturbed.run_dir)
    assert contents(run.run_dir) == expected
    lines = made.read_text().splitlines()
    assert sorted(lines) == sorted({Path(name).parts[1] for name in expected})


def test_heads_of_overlapping_tables_neither_wait_for_each_other_nor_are_made_twice(undisturbed, tmp_path):
    runs = [undisturbed.replace(run_dir=str(tmp_path / "runs"), head=head, train_size=48, dropout=dropout)
            for head, dropout in (("mlp", 0.1), ("tr", 0.1), ("mlp", 0.0))]
    together = CONTEXT.Barrier(2)
    children = [CONTEXT.Process(target=fit_several, args=([run.to_dict() for run in some], together))
                for some in (runs[:2], runs[:0:-1])]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    assert all(stages.find(run, "head") for run in runs)
    assert {path.name for path in (tmp_path / "runs").rglob(".*")} <= {".opened"}


def fit_several(fields, together):
    together.wait()
    stages.fit_heads([Experiment.from_dict(some) for some in fields])


def test_a_lock_is_waited_for_and_let_go_by_a_kill(undisturbed, tmp_path):
    folder = tmp_path / "runs" / "head" / "some-head"
    child = CONTEXT.Process(target=hold, args=(folder, tmp_path / "held"))
    child.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    waiter = CONTEXT.Process(target=hold, args=(folder, tmp_path / "second"))
    waiter.start()
    waiter.join(0.5)
    assert waiter.is_alive() and not (tmp_path / "second").exists()
    child.kill()
    while not (tmp_path / "second").exists():
        assert waiter.is_alive()
        time.sleep(0.01)
    waiter.kill()
    waiter.join()
    with locked(folder):
        assert [path.name for path in folder.parent.iterdir()] == [".some-head.lock"]
    assert not list(folder.parent.iterdir())


def hold(folder, sign):
    with locked(folder):
        sign.touch()
        time.sleep(600)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(undisturbed, stage, tmp_path):
    expected = contents(undisturbed.run_dir)
    run = before(undisturbed, stage, tmp_path / "runs")
    for room in (0, 100, 1000, 4000):
        child = start(run, stage, room=room, told=str(tmp_path / "told"))
        child.join()
        assert_whole_or_absent(run.run_dir, expected)
        if child.exitcode:
            kind, text = json.loads((tmp_path / "told").read_text())
            assert child.exitcode == 3 and kind == "WriteError"
            assert run.run_dir in text and "choose a run_dir with room" in text and "\n" not in text
        left = [name for name in contents(run.run_dir) if not is_finished(name) and ".checkpoint." not in name]
        assert left == []
    assert room == 4000 and child.exitcode in (0, 3)
    finish(run, stage, expected)


def test_a_place_that_is_read_only_stops_before_any_work(undisturbed, tmp_path):
    run = undisturbed.replace(run_dir=str(tmp_path / "folder" / "runs"))
    (tmp_path / "folder").symlink_to("/proc")  # where nobody makes folders, root neither
    for stage in STAGES:
        child = start(run, stage, told=str(tmp_path / "told"))
        child.join()
        kind, text = json.loads((tmp_path / "told").read_text())
        assert (child.exitcode, kind) == (3, "WriteError") and "choose a run_dir" in text


def test_a_clock_that_goes_back_changes_no_bit(undisturbed, tmp_path):
    run = undisturbed.replace(run_dir=str(tmp_path / "runs"))
    child = start(run, "evaluation", clock=3600.0)
    child.join()
    assert child.exitcode == 0 and contents(run.run_dir) == contents(undisturbed.run_dir)
    for path in Path(run.run_dir).rglob("artefact.json"):
        assert json.loads(path.read_text())["seconds"] >= 0


def test_a_checkpoint_beside_a_finished_artefact_is_put_away(undisturbed, tmp_path):
    """Killed between the rename and the checkpoint's removal, and finished: the next who looks sees no leftover."""
    run = before(undisturbed, "evaluation", tmp_path / "runs")
    head = stages.find(run, "head")
    checkpoint_path(head).write_bytes(b"left")
    with locked(head):
        assert not checkpoint_path(head).exists()
