"""Made what tests/unit/test_golden.py compares with, on commit 18f7e0d, whose library_version() is 0.1.0+ffce4a70.

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests python tests/data/make_golden.py

It is kept as it ran there (tests/test_golden.py was its neighbour, and modules had other names) and refuses to run on any
other version: what it wrote is what that version left.

golden_runs.tar.xz holds, of the experiment test_golden.RUN:

    finished/           every artefact of a run that nothing happened to, without its cache of features
    killed-<stage>/     what a process that was killed (SIGKILL) in that stage left, with the artefacts before it
    segmenter/          what Segmenter.save_pretrained wrote of the finished run, without backbone.safetensors
    scene.png, mask.npy a picture, and the mask that this Segmenter gives of it

The clock of these runs goes on by test_golden.STEP seconds whenever it is read, so that seconds in a record tell what
was done before the kill.
"""

import itertools
import json
import lzma
import multiprocessing
import os
import shutil
import signal
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cause_lib.artefacts import library_version
from PIL import Image
from test_golden import (CASES, DATA, KILLED, MADE_BY, MAKERS, RUN, STEP, all_digits, case_name, described_runs,
                         experiment_of, named_runs)

from cause_lib import judge, stages
from cause_lib.config import STAGE_FIELDS, Experiment
from cause_lib.data import load_dataset
from cause_lib.release import Segmenter

BEFORE = {"clusterbook": [], "head": ["clusterbook"], "probe": ["clusterbook", "head"],
          "evaluation": ["clusterbook", "head", "probe", "baseline", "baseline_evaluation"]}
UPDATES = 7  # made before the kill; the checkpoint has KILLED[stage] of them


def folders():
    """golden_folders.json, a line a case."""
    fields = {case_name(*case): experiment_of(*case).to_dict() for case in CASES}
    first = next(iter(fields.values()))
    same = {name: value for name, value in first.items() if all(one[name] == value for one in fields.values())}
    parts = {"made_by": MADE_BY, "stages": sorted(STAGE_FIELDS), "digits": all_digits(),
             "names": {case: {stage: stages._folder(run, stage).name for stage in MAKERS}
                       for case, run in named_runs()},
             "fields": {"all": same} | {case: {name: one[name] for name in one if name not in same}
                                        for case, one in fields.items()}}
    return lines(parts, 2)


def lines(content, depth):
    """JSON with a line for each entry down to this depth."""
    if not depth or not isinstance(content, dict):
        return json.dumps(content)
    entries = [f"{json.dumps(name)}: {lines(value, depth - 1)}" for name, value in content.items()]
    return "{\n" + ",\n".join(entries) + "\n}"


def set_clock():
    ticks = itertools.count(0, STEP)
    time.monotonic = lambda: float(next(ticks))


def killed(stage, run_dir):
    """A process of its own: runs the stage until it is killed past a checkpoint."""
    set_clock()
    step, update, save = torch.optim.Adam.step, judge.SegmentationMetrics.update, judge.save_checkpoint
    made, saved = [], []

    def mortal_step(self, *args, **kwargs):
        if len(made) == UPDATES:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(1)
        return step(self, *args, **kwargs)

    def mortal_update(self, *args, **kwargs):
        if saved:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *args, **kwargs)

    torch.optim.Adam.step, judge.SegmentationMetrics.update = mortal_step, mortal_update
    judge.save_checkpoint = lambda *args: (save(*args), saved.append(1))
    MAKERS[stage](Experiment(**RUN, run_dir=run_dir))


def runs(home):
    """Everything that golden_runs.tar.xz holds, below the current folder, `home`."""
    set_clock()
    run = Experiment(**RUN, run_dir="finished")
    stages.evaluate(run)
    for stage in KILLED:
        for upstream in BEFORE[stage]:
            shutil.copytree(home / "finished" / upstream, home / f"killed-{stage}" / upstream)
        child = multiprocessing.get_context("spawn").Process(target=killed, args=(stage, f"killed-{stage}"))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL and list(home.glob(f"killed-{stage}/{stage}/*.checkpoint.safetensors"))
    for features in home.glob("*/features"):
        shutil.rmtree(features)
    segment = Segmenter.load("finished")
    segment.save_pretrained("segmenter", name="golden", licence="mit")
    (home / "segmenter" / "backbone.safetensors").unlink()
    picture = load_dataset("scenes", "val", image_size=96)[1]["image"]  # (3, h, w)
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()[:80]).save("scene.png")  # not a square
    mask = segment("scene.png").numpy()
    np.save("mask.npy", mask.astype(np.uint8))
    print("mask", mask.shape, np.unique(mask, return_counts=True))


def pack(home, target):
    """A tar file that says nothing of who made it when, by file name so that equal files are near each other."""
    def plain(info):
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    paths = sorted(home.rglob("*"), key=lambda path: (path.is_file(), path.name, path.as_posix()))
    with lzma.open(target, "wb", preset=9 | lzma.PRESET_EXTREME) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for path in paths:
                archive.add(path, path.relative_to(home).as_posix(), recursive=False, filter=plain)
    print(target.name, target.stat().st_size, "bytes")


if __name__ == "__main__":
    assert library_version() == MADE_BY, f"this is {library_version()}: see above"
    # for the children, which start in another folder
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        (DATA / "golden_folders.json").write_text(folders() + "\n")
        (DATA / "golden_keys.json").write_text(lines(described_runs("tiny"), 2) + "\n")
        home = Path(place) / "home"
        home.mkdir()
        os.chdir(home)
        runs(home)
        pack(home, DATA / "golden_runs.tar.xz")
        os.chdir(DATA)
