"""What test_kill.py runs in processes that may be killed: a stage of an experiment; and how they are killed.

Children come from a fork server that has the library loaded and has computed nothing, so one starts in milliseconds.
"""

import builtins
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.runs import store
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cause_lib.stages"])  # this file is not on the server's path


def fit_features(experiment):
    """The tokens of all views that a run needs."""
    with session(experiment) as accelerator:
        for role, mirrored in (("train", False), ("test", False), ("test", True)):
            FrozenFeatures(experiment, role, experiment.image_size, accelerator, mirrored=mirrored)


#: In their order: the artefacts that each makes, if all before are there.
STAGES = {"features": fit_features, "clusterbook": stages.fit_clusterbook, "head": stages.fit_head,
          "probe": stages.fit_probe, "baseline": stages.fit_baseline,
          "baseline_evaluation": stages.evaluate_baseline, "evaluation": stages.evaluate}


def start(run, stage, **how):
    """A child that runs a stage; `how` is given to `live`."""
    child = CONTEXT.Process(target=live, args=(run.to_dict(), stage), kwargs=how)
    child.start()
    return child


def live(fields, stage, *, dies_at=None, after=False, room=None, clock=None, told=None, made=None, together=None):
    """Runs a stage in this process.

    dies_at: SIGKILL at that change of the disk, before it is made, or `after` it. room: no file may grow beyond so many
    bytes. clock: seconds by which the wall clock goes back whenever it is asked. told: a file that gets the error's
    type and text. made: a file that gets a line an artefact that is written. together: a barrier to wait at first.
    """
    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)  # bars would go to a file, which has as little room
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    if dies_at is not None:
        count_changes(dies_at, after)
    if room is not None:
        import timm  # noqa: F401  (PyTorch's compiler, which it loads, asks for a temporary folder)

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if clock is not None:
        ticks = itertools.count()
        time.time = lambda began=time.time(): began - clock * next(ticks)
    if made is not None:
        write = store.os.replace

        def noted(source, target):
            write(source, target)
            if Path(target).is_dir():
                with open(made, "a") as file:
                    file.write(f"{Path(target).name}\n")
        store.os.replace = noted
    if together is not None:
        together.wait()
    try:
        STAGES[stage](Experiment.from_dict(fields))
    except Exception as error:
        if told is None:
            raise
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
        Path(told).write_text(json.dumps([type(error).__name__, str(error)]))
        sys.exit(3)


def count_changes(dies_at, after):
    """From now on this process counts its changes of the disk, and dies at the given one."""
    changes = itertools.count()

    def mortal(change):
        def changed(*arguments, **options):
            last = next(changes) == dies_at
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return change(*arguments, **options)
            finally:
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)
        return changed

    for module, name in ((os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "unlink"), (os, "rmdir"),
                         (shutil, "rmtree"), (store, "save_file")):
        setattr(module, name, mortal(getattr(module, name)))
    # of opening, only what opens for writing
    for module in (builtins, __import__("io")):
        opened = mortal(module.open)
        module.open = lambda *a, plain=module.open, opened=opened, **o: (
            opened if any(letter in str(o.get("mode", a[1] if len(a) > 1 else "r")) for letter in "wax+") else plain
        )(*a, **o)
