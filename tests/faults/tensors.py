"""Faulty weights of backbones, files of the authors' release, and saved Segmenters."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from released_twin import write as write_release

from cause_lib.backbones import BUNDLED_PATH, load_backbone, small_vit
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe
from cause_lib.runs.released import load_released
from cause_lib.runs.saved import BACKBONE, CONFIG, WEIGHTS
from cause_lib.segmenter import Segmenter
from cause_lib.weights import file_sha256
from faults.fault import Fault, Runs

NAN, INF = float("nan"), float("inf")


def saved(state: Any) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def lying(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, bytes or JSON, and this length of it, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def codes(folder: Path) -> dict[str, bytes]:
    """Files that make the folder `ran` if they are unpickled, by what they look like."""
    runs = Runs(folder)
    legacy = io.BytesIO()
    torch.save({"weight": runs}, legacy, _use_new_zipfile_serialization=False)
    return {"a pickle": pickle.dumps(runs), "a pickle of protocol 0": pickle.dumps(runs, protocol=0),
            "torch's zip": saved({"weight": runs}), "torch's old format": legacy.getvalue(),
            "beside tensors": saved({"cls_token": torch.zeros(1, 1, 192), "callback": runs})}


# --- a backbone's weights ---

@cache
def state() -> dict[str, torch.Tensor]:
    """The embedded backbone's tensors."""
    return safetensors.torch.load_file(BUNDLED_PATH)


def changed(**changes: Any) -> dict[str, torch.Tensor]:
    """Those with some replaced; `__` stands for the dot of a name, None takes one out."""
    tensors = dict(state())
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors[key].clone()) if callable(value) else value
    return tensors


def put(value: float, place: int = 0) -> Callable:
    """Puts one number into a tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[place] = value
        return tensor

    return change


def backbone_runs(backbone: Any) -> None:
    tokens = backbone(torch.rand(1, 3, 32, 32))
    assert tokens.shape == (1, 16, 192) and tokens.isfinite().all()


def weights(name: str, content: Any, check: Callable | None = None, *, file: str = "mine.safetensors") -> Fault:
    """A weights file for the embedded backbone: bytes, tensors by name, or a function of the path."""

    def make(folder: Path) -> None:
        path = folder / file
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            safetensors.torch.save_file({key: value.contiguous() for key, value in content.items()}, path)
        else:
            content(path)

    return Fault("weights", name, make, lambda folder: load_backbone("bundled", weights=folder / file), named=file,
                 check=check)


def _write(make: Callable[[], Any], path: Path) -> None:
    """Writes tensors, or what torch.save takes, made when they are needed, not when the corpus is listed."""
    content = make()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in content.items()}, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else saved(content))


def _cut(share: float, path: Path) -> None:
    whole = BUNDLED_PATH.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def _cut_torch(share: float, path: Path) -> None:
    whole = saved(state())
    path.write_bytes(whole[: int(share * len(whole))])


def _weights() -> list[Fault]:
    one = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    faults = [weights(f"safetensors cut off at {share:.5%}", partial(_cut, share))
              for share in (0.0000005, 0.00001, 0.001, 0.2, 0.5, 0.9, 0.9999)]
    faults += [weights(f"pth cut off at {share:.1%}", partial(_cut_torch, share), file="mine.pth")
               for share in (0.001, 0.3, 0.7, 0.999)]
    faults += [weights(f"{name} {suffix}", content, file=f"mine.{suffix}") for suffix in ("safetensors", "pth")
               for name, content in (("zero-byte", b""), ("garbage", bytes(range(256)) * 9), ("zeros", bytes(4096)),
                                     ("text", b"404: Not Found\n"), ("Git LFS pointer", b"version https://git-lfs"))]
    faults += [weights(f"header {name}", content) for name, content in {
        "of 2^63 bytes": lying(one, bytes(8), 2**63), "longer than the file": lying(one, bytes(8), 5000),
        "of no length": lying(b""), "that is no JSON": lying(b"{{{"), "that is a list": lying([1, 2]),
        "with offsets past the end": lying({"x": one["x"] | {"data_offsets": [0, 800]}}, bytes(8)),
        "with offsets backwards": lying({"x": one["x"] | {"data_offsets": [8, 0]}}, bytes(8)),
        "with a negative offset": lying({"x": one["x"] | {"data_offsets": [-8, 0]}}, bytes(8)),
        "of an unknown kind": lying({"x": one["x"] | {"dtype": "F99"}}, bytes(8)),
        "of a huge shape": lying({"x": one["x"] | {"shape": [2**40, 2**40]}}, bytes(8)),
        "with holes": lying({"x": one["x"] | {"data_offsets": [4, 12]}}, bytes(12)),
        "of other tensors": lying(one, bytes(8)), "of nothing": lying({}),
    }.items()]
    changes = {
        "NaN first": dict(cls_token=put(NAN)), "NaN last": dict(norm__weight=put(NAN, -1)),
        "NaN in one of many": dict(blocks__3__mlp__fc1__weight=put(NAN, 777)), "infinite": dict(pos_embed=put(INF, 9)),
        "minus infinite": dict(norm__bias=put(-INF)), "key missing": dict(norm__weight=None),
        "two keys missing": dict(cls_token=None, pos_embed=None), "key unknown": dict(stranger=torch.ones(2)),
        "transposed": dict(blocks__0__mlp__fc1__weight=lambda value: value.T.contiguous()),
        "another shape": dict(cls_token=torch.zeros(1, 1, 191)), "whole numbers": dict(cls_token=lambda value: value.int()),
        "true and false": dict(cls_token=lambda value: value > 0),
        "complex numbers": dict(cls_token=lambda value: value.to(torch.complex64)),
        "no elements": dict(cls_token=torch.zeros(0)),
    }
    faults += [weights(name, partial(_write, partial(changed, **change))) for name, change in changes.items()]
    faults += [
        weights("another width", partial(_write, lambda: small_vit(dim=96).state_dict())),
        weights("fewer blocks", partial(_write, lambda: small_vit(depth=2).state_dict())),
        weights("another picture size", partial(_write, lambda: small_vit(image_size=96).state_dict())),
        weights("a head's", partial(_write, lambda: MLPHead(192, 5).state_dict())),
        weights("a whole module", partial(_write, lambda: MLPHead(4, 2)), file="mine.pth"),
        weights("a list", partial(_write, lambda: [torch.ones(2)]), file="mine.pth"),
        weights("one tensor", partial(_write, lambda: torch.ones(2)), file="mine.pth"),
        weights("numbers", partial(_write, lambda: {"epoch": 3}), file="mine.pth"),
        weights("numbered tensors", partial(_write, lambda: {0: torch.ones(2), 1: torch.ones(2)}), file="mine.pth"),
        weights("nothing", partial(_write, lambda: {}), file="mine.pth"),
        weights("None", partial(_write, lambda: None), file="mine.pth"),
        weights("a sparse tensor", partial(_write, lambda: changed(cls_token=lambda value: value.to_sparse())),
                file="mine.pth"),
        weights("a tensor without numbers", partial(_write, lambda: changed(cls_token=lambda value: value.to("meta"))),
                file="mine.pth"),
        weights("numpy's as safetensors", lambda path: path.write_bytes(_npy(np.ones(3)))),
        weights("torch's as safetensors", lambda path: path.write_bytes(saved(state()))),
        weights("safetensors as pth", lambda path: shutil.copy(BUNDLED_PATH, path), file="mine.pth"),
        weights("folder", lambda path: path.mkdir()), weights("pipe", os.mkfifo),
        weights("pipe of torch's", os.mkfifo, file="mine.pth"), weights("nowhere", lambda path: None),
        weights("link to itself", lambda path: path.symlink_to(path.name)),
        weights("half precision", partial(_write, lambda: {key: value.half() for key, value in state().items()}),
                backbone_runs),
        weights("bfloat16", partial(_write, lambda: {key: value.bfloat16() for key, value in state().items()}),
                backbone_runs),
        weights("wrapped in model", partial(_write, lambda: {"model": state(), "epoch": 3}), backbone_runs,
                file="mine.pth"),
        weights("a space and a newline in the name", lambda path: shutil.copy(BUNDLED_PATH, path), backbone_runs,
                file="my own\nweights.safetensors"),
    ]
    for name in codes(Path()):
        for file in ("mine.pth", "mine.bin", "mine.safetensors"):
            faults.append(weights(f"code in {name} as {Path(file).suffix}",
                                  lambda path, name=name: path.write_bytes(codes(path.parent)[name]), file=file))
    for heads in (5, 7, 1000):
        faults.append(Fault("heads", f"{heads} of them", lambda folder: None,
                            lambda folder, heads=heads: load_backbone("bundled", num_heads=heads), named="num_heads"))
    return faults


# --- the authors' files ---

def _npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def release(name: str, change: Callable, named: str = "", check: Callable | None = None, *, head: str = "mlp",
            sizes: dict | None = None) -> Fault:
    """The authors' files, whole but for what `change(segment, cluster)`, or `change(folder)`, does to them."""

    def make(folder: Path) -> None:
        if change.__code__.co_argcount - len(change.__defaults__ or ()) == 2:
            write_release(folder, head, change=change, **(sizes or {}))
        else:
            write_release(folder, head, **(sizes or {}))
            change(folder)

    return Fault("release", f"{head}, {name}", make, lambda folder: load_released(folder, head), named=named, check=check)


def _release() -> list[Fault]:
    book, pieces = "modular.npy", ("modular.npy", "segment_mlp.pth", "cluster_mlp.pth")
    faults = []
    for file in pieces:
        faults += [
            release(f"{file} missing", lambda folder, file=file: (folder / file).unlink(), file),
            release(f"{file} zero-byte", lambda folder, file=file: (folder / file).write_bytes(b""), file),
            release(f"{file} of text", lambda folder, file=file: (folder / file).write_bytes(b"404 Not Found" * 9), file),
            release(f"{file} a folder", lambda folder, file=file: [(folder / file).unlink(), (folder / file).mkdir()],
                    file),
            release(f"{file} a pipe", lambda folder, file=file: [(folder / file).unlink(), os.mkfifo(folder / file)],
                    file)]
        faults += [release(f"{file} cut off at {share:.0%}", lambda folder, file=file, share=share:
                           (folder / file).write_bytes((folder / file).read_bytes()[: int(
                               share * (folder / file).stat().st_size)]), file) for share in (0.05, 0.5, 0.95)]
        for code in codes(Path()):
            faults.append(release(f"{file} of code in {code}", lambda folder, file=file, code=code:
                                  (folder / file).write_bytes(codes(folder)[code]), file))
    arrays = {
        "of objects that run": lambda folder: _npy(np.array([Runs(folder)], dtype=object), allow_pickle=True),
        "of one axis": lambda _: _npy(np.ones(24, np.float32)),
        "of three axes": lambda _: _npy(np.ones((1, 9, 24), np.float32)),
        "of nothing": lambda _: _npy(np.ones((0, 24), np.float32)),
        "of whole numbers": lambda _: _npy(np.ones((9, 24), np.int64)),
        "of complex numbers": lambda _: _npy(np.ones((9, 24), np.complex64)),
        "of text": lambda _: _npy(np.array([["a"]])),
        "with NaN": lambda _: _npy(np.full((9, 24), NAN, np.float32)),
        "infinite": lambda _: _npy(np.full((9, 24), INF, np.float32)),
        "whose header lies": lambda _: _npy(np.ones((9, 24), np.float32)).replace(b"(9, 24), }", b"(9999999999, 24), }"),
        "whose header is code": lambda _: _npy(np.ones((9, 24), np.float32)).replace(b"'shape': (9, 24)",
                                                                                     b"'shape': f(9,24)"),
        "as a zip of arrays": lambda _: _npz(), "of another width": lambda _: _npy(np.ones((9, 25), np.float32)),
        "of another number": lambda _: _npy(np.ones((8, 24), np.float32)),
    }
    for name, array in arrays.items():
        named = "mlp.pth" if "another" in name else book
        faults.append(release(f"clusterbook {name}", lambda folder, array=array: (folder / book).write_bytes(array(folder)),
                              named))
    faults.append(release("clusterbook in half precision", lambda folder: (folder / book).write_bytes(
        _npy(np.load(folder / book).astype(np.float16))), check=lambda found: found.head, head="mlp"))
    segment, cluster = "segment_mlp.pth", "cluster_mlp.pth"
    first = "head_ema.f1.weight"
    faults += [
        release("key missing", lambda s, c: s.pop(first), segment), release("key unknown", lambda s, c: s.update(
            stranger=torch.ones(1)), segment),
        release("NaN in the teacher", lambda s, c: s[first].view(-1).__setitem__(0, NAN), segment),
        release("infinite student", lambda s, c: s["head.f1.bias"].__setitem__(0, INF), segment),
        release("whole numbers", lambda s, c: s.update({first: s[first].long()}), segment),
        release("transposed", lambda s, c: s.update({first: s[first].transpose(0, 1).contiguous()}), segment),
        release("linear probe of one axis", lambda s, c: s.update({"linear.f.weight": torch.ones(3)}), segment),
        release("NaN in the centroids", lambda s, c: c["cluster_probe"].fill_(NAN), cluster),
        release("no centroids", lambda s, c: c.pop("cluster_probe"), cluster),
        release("centroids for other classes", lambda s, c: c.update(cluster_probe=torch.ones(7, 6)), cluster),
        release("centroids of another width", lambda s, c: c.update(cluster_probe=torch.ones(4, 7)), cluster),
        release("codebook of another number", lambda s, c: c.update(codebook=torch.ones(8, 24)), cluster),
        release("both prefixed and not", lambda s, c: s.update({f"module.{first}": s[first]}), segment),
        release("the other head's files", lambda folder: [os.replace(folder / f"{part}_mlp.pth", folder / f"{part}_tr.pth")
                                                          for part in ("segment", "cluster")], segment),
        release("positions that no square has", lambda s, c: s.update({"head_ema.query_pos": torch.ones(7, 24)}),
                "segment_tr.pth", head="tr"),
        release("no positions", lambda s, c: s.pop("head_ema.query_pos"), "segment_tr.pth", head="tr"),
        release("positions of another width", lambda s, c: s.update({"head_ema.query_pos": torch.ones(25, 9)}),
                "segment_tr.pth", head="tr"),
        release("an mlp under tr's name", lambda folder: write_release_as_tr(folder), "segment_tr.pth", head="tr"),
    ]
    return faults


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


def write_release_as_tr(folder: Path) -> None:
    write_release(folder, "mlp")
    for part in ("segment", "cluster"):
        os.replace(folder / f"{part}_mlp.pth", folder / f"{part}_tr.pth")


# --- a saved Segmenter ---

@cache
def given(root: Path) -> Path:
    """A whole saved Segmenter, untrained, made once."""
    torch.manual_seed(0)
    segment = Segmenter(load_backbone("bundled"), MLPHead(192, 5), ClusterProbe(3, 5), image_size=48,
                        classes=["sky", "sea", "sand"], colors=np.eye(3, dtype=np.uint8), assignment=[2, 0, 1])
    return segment.save_pretrained(root / "given")


def segmenter(name: str, change: Callable[[Path], Any], named: str = CONFIG, check: Callable | None = None) -> Fault:
    """A saved Segmenter, whole but for what `change` does to its folder."""

    def make(folder: Path) -> None:
        for path in given(folder.parents[1]).iterdir():
            if path.name == BACKBONE:
                os.link(path, folder / path.name)
            else:
                shutil.copy(path, folder / path.name)
        change(folder)

    return Fault("segmenter", name, make, Segmenter.from_pretrained, named=named, check=check)


def configured(folder: Path, **changes: Any) -> None:
    """Changes entries of config.json, below `backbone` if there is a dot in their names; ... takes one out."""
    config = json.loads((folder / CONFIG).read_text())
    config.pop("digest")  # by which any change would be found: here it is found without
    for key, value in changes.items():
        *above, last = key.split("__")
        place = config[above[0]] if above else config
        if value is ...:
            del place[last]
        else:
            place[last] = value
    (folder / CONFIG).write_text(json.dumps(config))


def reweighed(folder: Path, change: Callable[[dict], Any]) -> None:
    """Changes the tensors and makes config.json agree, as somebody who means it would."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    configured(folder, sha256=file_sha256(folder / WEIGHTS))


def segments(segment: Any) -> None:
    mask = segment(torch.rand(3, 50, 70))
    assert mask.shape == (50, 70) and 0 <= mask.min() and mask.max() <= 2


def _segmenters() -> list[Fault]:
    keys = ("format", "sha256", "readout", "grid", "image_size", "resize", "smoothing", "classes", "colors", "assignment",
            "backbone", "record", "backbone__name", "backbone__sha256", "backbone__num_heads", "backbone__positions",
            "backbone__included")
    faults = [segmenter(f"no {key}", lambda folder, key=key: configured(folder, **{key: ...})) for key in keys]
    wrong = {"format": "cause_lib.Segmenter 2", "sha256": 3, "readout": "best", "grid": [0, 4], "image_size": "48",
             "resize": "bicubic", "smoothing": -1, "classes": [], "colors": [[0, 0, 300]] * 3, "assignment": [0, 1, 7],
             "backbone": "bundled", "record": [], "backbone__name": None, "backbone__num_heads": "six",
             "backbone__positions": 4, "backbone__included": "no"}
    faults += [segmenter(f"{key} {str(value)!r}", lambda folder, key=key, value=value: configured(folder, **{key: value}))
               for key, value in wrong.items()]
    faults += [segmenter(f"{key} of another length", lambda folder, key=key, value=value: configured(
        folder, **{key: value})) for key, value in {"classes": ["a"], "colors": [[0, 0, 0]], "assignment": [0],
                                                     "grid": [1]}.items()]
    faults += [
        segmenter("image_size of 10^9", lambda folder: configured(folder, image_size=10**9)),
        segmenter("classes and colours of another number", lambda folder: configured(
            folder, classes=["a"], colors=[[0, 0, 0]], assignment=None)),
        segmenter("no such backbone", lambda folder: configured(folder, backbone__name="dino_vits17",
                                                                backbone__included=False), "dino_vits17"),
        segmenter("positions unknown", lambda folder: configured(folder, backbone__positions="cubic"), "positions"),
        segmenter("heads that do not divide", lambda folder: configured(folder, backbone__num_heads=7), "num_heads"),
        segmenter("backbone's hash of another", lambda folder: configured(folder, backbone__sha256="0" * 64), "backbone.safetensors"),
        segmenter("config.json missing", lambda folder: (folder / CONFIG).unlink()),
        segmenter("config.json empty", lambda folder: (folder / CONFIG).write_bytes(b"")),
        segmenter("config.json cut off", lambda folder: (folder / CONFIG).write_bytes((folder / CONFIG).read_bytes()[:99])),
        segmenter("config.json a list", lambda folder: (folder / CONFIG).write_text("[]")),
        segmenter("config.json a folder", lambda folder: [(folder / CONFIG).unlink(), (folder / CONFIG).mkdir()]),
        segmenter("config.json of 100000 brackets", lambda folder: (folder / CONFIG).write_text("[" * 100_000)),
        segmenter("config.json not UTF-8", lambda folder: (folder / CONFIG).write_bytes(b'{"format": "\xff"}')),
        segmenter("weights missing", lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
        segmenter("weights cut off", lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:999]),
                  WEIGHTS),
        segmenter("weights of code", lambda folder: (folder / WEIGHTS).write_bytes(codes(folder)["torch's zip"]), WEIGHTS),
        segmenter("weights of garbage, agreed on", lambda folder: [
            (folder / WEIGHTS).write_bytes(b"garbage" * 99), configured(folder, sha256=file_sha256(folder / WEIGHTS))],
            WEIGHTS),
        segmenter("backbone missing", lambda folder: (folder / BACKBONE).unlink(), BACKBONE),
        segmenter("backbone cut off", lambda folder: _replace(folder / BACKBONE, BUNDLED_PATH.read_bytes()[:9999]),
                  BACKBONE),
        segmenter("backbone zero-byte", lambda folder: _replace(folder / BACKBONE, b""), BACKBONE),
        segmenter("backbone the head's", lambda folder: _replace(folder / BACKBONE, (folder / WEIGHTS).read_bytes()),
                  BACKBONE),
        segmenter("model card missing", lambda folder: (folder / "README.md").unlink(), check=segments),
        segmenter("another file beside", lambda folder: (folder / "notes.pkl").write_bytes(codes(folder)["a pickle"]),
                  check=segments),
        segmenter("smoothing as a whole number", lambda folder: configured(folder, smoothing=0), check=segments),
    ]
    changes = {
        "NaN": lambda t: t["head.f1.weight"].view(-1).__setitem__(0, NAN), "infinite": lambda t:
        t["probe.centroids"].fill_(INF), "no centroids": lambda t: t.pop("probe.centroids"),
        "no head": lambda t: [t.pop(key) for key in list(t) if key.startswith("head")],
        "a key missing": lambda t: t.pop("head.f2.0.bias"), "a key unknown": lambda t: t.update({"head.f9": torch.ones(1)}),
        "a group unknown": lambda t: t.update({"tail.f1": torch.ones(1)}), "no group": lambda t: t.update(
            f1=torch.ones(1)), "whole numbers": lambda t: t.update({"head.f1.bias": t["head.f1.bias"].long()}),
        "another width": lambda t: t.update({f"head.{key}": value for key, value in MLPHead(96, 5).state_dict().items()}),
        "another reduced width": lambda t: t.update({"probe.centroids": torch.ones(3, 7)}),
        "more clusters than classes": lambda t: t.update({"probe.centroids": torch.ones(4, 5)}),
        "centroids of one axis": lambda t: t.update({"probe.centroids": torch.ones(5)}),
    }
    return faults + [segmenter(f"weights changed: {name}", lambda folder, change=change: reweighed(folder, change),
                               WEIGHTS) for name, change in changes.items()]


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # it is a link to the whole one
    path.write_bytes(content)


def tensor_faults() -> list[Fault]:
    return [*_weights(), *_release(), *_segmenters()]
