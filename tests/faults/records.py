"""Faulty artefacts, checkpoints, cached features and tables of experiments."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from conftest import TINY, draw_folder, without_digests

from cause_lib import stages
from cause_lib.config import Experiment
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.store import checkpoint_path, load_checkpoint, load_tensors, read_record, save_checkpoint
from cause_lib.segmenter import Segmenter
from faults.fault import Fault, Runs
from faults.tensors import codes
from workflow.rows import read_rows

NAN = float("nan")


@cache
def trained(root: Path) -> Experiment:
    """A tiny run up to its probe, made once."""
    folder = draw_folder(root / "data", pictures=2)
    run = Experiment(dataset="folder", folder=str(folder), run_dir=str(root / "runs"), head="mlp", crops="none",
                     train_size=48,
                     **TINY | dict(concept_steps=2, head_steps=2, probe_steps=2))
    stages.fit_probe(run)
    without_digests(run.run_dir)  # by which any damage would be found (test_integrity.py): here it is found without
    return run


def copied(folder: Path) -> Experiment:
    """That run, its artefacts copied into `folder`."""
    run = trained(folder.parents[1])
    shutil.copytree(run.run_dir, folder / "runs")
    return run.replace(run_dir=str(folder / "runs"))


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def artefact(name: str, pattern: str, change: Callable[[Path], Any], meet: Callable[[Path], Any], named: str,
             check: Callable | None = None) -> Fault:
    """The tiny run, one file of it, found by a pattern below its run_dir, changed."""

    def make(folder: Path) -> None:
        copied(folder)
        change(only(folder / "runs", pattern))

    return Fault("artefact", name, make, meet, named=named, check=check)


def cut(share: float) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def edit(change: Callable[[dict], Any]) -> Callable[[Path], Any]:
    """Changes a JSON file's entries."""

    def made(path: Path) -> None:
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return made


def retensor(change: Callable[[dict], Any]) -> Callable[[Path], Any]:
    """Changes a safetensors file's tensors."""

    def made(path: Path) -> None:
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)

    return made


def segmenter(folder: Path) -> Any:
    return Segmenter.load(folder / "runs")


def features(folder: Path) -> Any:
    run = trained(folder.parents[1]).replace(run_dir=str(folder / "runs"))
    seen = FrozenFeatures(run, "train", run.image_size, Accelerator(cpu=True))
    return next(seen.stream([torch.arange(2)]))


def _artefacts() -> list[Fault]:
    record, head, probe = "probe/*/artefact.json", "probe/*/head.safetensors", "probe/*/probe.safetensors"
    texts = {"zero-byte": b"", "of zeros": bytes(99), "not UTF-8": b'{"a": "\xff"}', "a list": b"[]", "null": b"null",
             "no entries": b"{}", "100000 brackets": b"[" * 100_000, "code": b"__import__('os').mkdir('ran')"}
    faults = [artefact(f"artefact.json {name}", record, lambda path, text=text: path.write_bytes(text), segmenter,
                       "artefact.json") for name, text in texts.items()]
    faults += [artefact(f"artefact.json cut off at {share:.0%}", record, cut(share), segmenter, "artefact.json")
               for share in (0.1, 0.5, 0.99)]
    faults += [artefact(f"artefact.json without {key}", record, edit(lambda entries, key=key: entries.pop(key)), segmenter,
                        "probe/") for key in ("stage", "experiment", "weights", "notes")]
    faults += [artefact(f"artefact.json, {name}", record, edit(change), segmenter, "probe/") for name, change in {
        "a field unknown": lambda entries: entries["experiment"].update(stranger=1),
        "a field out of range": lambda entries: entries["experiment"].update(image_size=-1),
        "experiment a list": lambda entries: entries.update(experiment=[1]),
        "experiment null": lambda entries: entries.update(experiment=None),
        "other weights": lambda entries: entries["weights"].update(sha256="0" * 64),
        "weights a text": lambda entries: entries.update(weights="x"), "no classes": lambda entries:
        entries["notes"].pop("classes"), "no grid": lambda entries: entries["notes"].pop("grid"),
        "another stage": lambda entries: entries.update(stage="head")}.items()]
    for file, pattern in (("head", head), ("probe", probe)):
        named = f"{file}.safetensors"
        faults += [artefact(f"{named} cut off at {share:.0%}", pattern, cut(share), segmenter, named)
                   for share in (0.0, 0.01, 0.6, 0.99)]
        faults += [
            artefact(f"{named} missing", pattern, lambda path: path.unlink(), segmenter, named),
            artefact(f"{named} a folder", pattern, lambda path: [path.unlink(), path.mkdir()], segmenter, named),
            artefact(f"{named} of code", pattern, lambda path: path.write_bytes(codes(path.parents[3])["torch's zip"]),
                     segmenter, named),
            artefact(f"{named} with NaN", pattern, retensor(lambda t: next(iter(t.values())).view(-1).__setitem__(0, NAN)),
                     segmenter, named)]
    faults += [
        artefact("head.safetensors of the clusterbook", head, lambda path: shutil.copy(
            only(path.parents[2], "clusterbook/*/clusterbook.safetensors"), path), segmenter, "head.safetensors"),
        artefact("head.safetensors with a key unknown", head, retensor(lambda t: t.update(x=torch.ones(1))), segmenter,
                 "head.safetensors"),
        artefact("head.safetensors without a key", head, retensor(lambda t: t.pop("f1.bias")), segmenter,
                 "head.safetensors"),
        artefact("probe.safetensors without the read-out", probe, retensor(lambda t: t.pop("modularity")), segmenter,
                 "probe/"),
        artefact("clusterbook without prototypes", "clusterbook/*/clusterbook.safetensors", retensor(
            lambda t: [t.pop("prototypes"), t.update(x=torch.ones(1))]), lambda folder: stages.load_clusterbook(
                only(folder / "runs", "clusterbook/*")), "clusterbook.safetensors"),
        artefact("clusterbook cut off", "clusterbook/*/clusterbook.safetensors", cut(0.5), lambda folder:
                 load_tensors(only(folder / "runs", "clusterbook/*/*.safetensors")), "clusterbook.safetensors"),
        artefact("no artefact.json", "probe/*/artefact.json", lambda path: path.unlink(), lambda folder: read_record(
            only(folder / "runs", "probe/*")), "artefact.json"),
        Fault("artefact", "run_dir a file", lambda folder: (folder / "runs").write_text("mine"), lambda folder:
              stages.fit_clusterbook(trained(folder.parents[1]).replace(run_dir=str(folder / "runs"))), named="runs"),
        Fault("artefact", "no such run", lambda folder: None, segmenter, named="runs"),
        Fault("artefact", "a folder of anything", lambda folder: (folder / "runs").mkdir(), segmenter, named="runs"),
    ]

    def tokens(array: np.ndarray, **options: Any) -> Callable[[Path], Any]:
        return lambda path: np.save(path, array, **options)

    def whole(found: torch.Tensor) -> None:
        assert found.shape == (2, 36, 192) and found.isfinite().all()

    faults += [artefact(f"tokens.npy {name}", "features/*/tokens.npy", change, features, "tokens.npy")
               for name, change in {
        "cut off at 1%": cut(0.01), "cut off at 50%": cut(0.5), "cut off at 99%": cut(0.99), "zero-byte": cut(0),
        "of garbage": lambda path: path.write_bytes(b"garbage" * 99), "missing": lambda path: path.unlink(),
        "a folder": lambda path: [path.unlink(), path.mkdir()],
        "of another number of pictures": tokens(np.ones((1, 36, 192), np.float32)),
        "of another width": tokens(np.ones((2, 36, 9), np.float32)), "of one axis": tokens(np.ones(9, np.float32)),
        "of whole numbers": tokens(np.ones((2, 36, 192), np.int32)),
        "of code": lambda path: np.save(path, np.array([Runs(path.parents[3])], dtype=object), allow_pickle=True),
    }.items()]
    faults += [artefact(f"features' record {name}", "features/*/artefact.json", change, features, "features/")
               for name, change in {"cut off": cut(0.5), "without a grid": edit(lambda entries: entries["notes"].pop("grid")),
                                    "without notes": edit(lambda entries: entries.pop("notes"))}.items()]
    return faults + [artefact("features untouched", "features/*/tokens.npy", lambda path: None, features, "", whole)]


def _checkpoints() -> list[Fault]:
    """A damaged checkpoint is dropped, with a warning, and its stage begins anew."""

    def fault(name: str, change: Callable[[Path], Any]) -> Fault:
        def make(folder: Path) -> None:
            save_checkpoint(folder / "stage", {"done": 3}, {"losses": torch.ones(1000)})
            change(checkpoint_path(folder / "stage"))

        def meet(folder: Path) -> Any:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                return load_checkpoint(folder / "stage"), [str(warning.message) for warning in said], folder

        def dropped(found: tuple) -> None:
            state, said, folder = found
            assert state is None and not checkpoint_path(folder / "stage").exists()
            assert len(said) == 1 and "stage.checkpoint.safetensors" in said[0] and "begins anew" in said[0]

        return Fault("checkpoint", name, make, meet, check=dropped)

    def without(path: Path, **metadata: str) -> None:
        safetensors.torch.save_file({"losses": torch.ones(3)}, path, metadata=metadata or None)

    return [*(fault(f"cut off at {share:.0%}", cut(share)) for share in (0.0, 0.01, 0.1, 0.5, 0.99)),
            fault("of garbage", lambda path: path.write_bytes(b"garbage" * 99)),
            fault("of zeros", lambda path: path.write_bytes(bytes(999))),
            fault("of code", lambda path: path.write_bytes(codes(path.parent)["a pickle"])),
            fault("without its state", without), fault("of a state that is no JSON", lambda path: without(path, state="{")),
            fault("of a state that is a number", lambda path: without(path, state="3"))]


def _tables() -> list[Fault]:
    def fault(name: str, content: str | bytes | Callable, check: Callable | None = None, named: str = "mine.csv") -> Fault:
        def make(folder: Path) -> None:
            path = folder / "mine.csv"
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

        return Fault("table", name, make, lambda folder: read_rows(folder / "mine.csv"), named=named, check=check)

    def two(rows: list) -> None:
        assert [row.experiment.head for row in rows] == ["tr", "mlp"] and [row.number for row in rows] == [1, 2]

    text = "head,seed\ntr,0\nmlp,1\n"
    broken = {
        "missing": lambda path: None, "folder": lambda path: path.mkdir(), "pipe": os.mkfifo,
        "link to nothing": lambda path: path.symlink_to("gone.csv"), "empty": "", "blank lines": "\n\n\n",
        "heading alone": "head,seed\n", "too few cells": "head,seed\ntr\n", "too many cells": "head,seed\ntr,0,7\n",
        "unknown column": "heads,seed\ntr,0\n", "column twice": "seed,head,seed\n0,tr,1\n", "no heading": "tr,0\nmlp,1\n",
        "semicolons": text.replace(",", ";"), "tabs": text.replace(",", "\t"), "UTF-16": text.encode("utf-16"),
        "latin letters": "row,head\nZürich,tr\n".encode("latin-1"), "a spreadsheet": b"PK\x03\x04" + bytes(range(256)),
        "zeros": bytes(100), "JSON": '[{"head": "tr"}]', "a web page": "<html>\n<body>\n</html>", "open quotes":
        'head,seed\n"tr,0\nmlp,1\n', "a word for a number": "head,seed\ntr,first\n", "decimal commas": 'lr\n"0,001"\n',
        "out of range": "head,seed\ntr,-1\n", "no such head": "head\ncnn\n", "no such data set": "dataset\nfolder\n",
        "two run_dir": "run_dir\nhere\nthere\n", "no such notebook": "notebook\nnotebooks/99_none.ipynb\n",
        "spaces in the heading": "head, seed\ntr,0\n", "yes for true": "label_free\nyes\n", "a field of 200 kB":
        "row,head\n" + "x" * 200_000 + ",tr\n", "NaN": "lr\nnan\n",
    }
    return [*(fault(name, content) for name, content in broken.items()),
            fault("a mark before the text", b"\xef\xbb\xbf" + text.encode(), two),
            fault("Windows' line ends", text.replace("\n", "\r\n"), two), fault("no last line end", text[:-1], two),
            fault("blank lines between", text.replace("\n", "\n\n"), two),
            fault("all in quotes", '"head","seed"\n"tr","0"\n"mlp","1"\n', two),
            fault("a line end in a name", 'row,head\n"one\ntwo",tr\n,mlp\n', two),
            fault("Unicode in a name", "row,head\n照片 🙂,tr\n,mlp\n", two)]


def record_faults() -> list[Fault]:
    return [*_artefacts(), *_checkpoints(), *_tables()]
