"""What stages and `Segmenter.save_pretrained` left, read again: heads, read-outs, backbones, runs.

Whatever is damaged, or does not fit together, is an `InputError` that names the file and the way out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cause_lib.backbones import Backbone, load_backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.errors import InputError, NotFound
from cause_lib.heads import MLPHead, TRHead, restore_head
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.store import is_complete, load_tensors, read_record
from cause_lib.weights import read_tensors, refuse_misfits

CONFIG, WEIGHTS, BACKBONE, CARD = "config.json", "model.safetensors", "backbone.safetensors", "README.md"
FORMAT = "cause_lib.Segmenter 1"  # what a config.json of ours begins with; another number once its layout changes
MAKE_ANEW = "remove it and run its stage again."
MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AssertionError)  # what torch raises for tensors of others


@contextmanager
def refused(what: str, way_out: str, kinds: tuple[type[Exception], ...] = MISFITS) -> Iterator[None]:
    """Errors of these kinds as one InputError, `what` (their reason): `way_out`."""
    try:
        yield
    except kinds as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what} ({type(error).__name__}: {reason}): {way_out}") from error


# --- folders of stages ---

def load_clusterbook(folder: str | Path) -> Clusterbook:
    """The clusterbook of a `fit_clusterbook` folder, on the CPU."""
    return Clusterbook(load_tensors(Path(folder) / "clusterbook.safetensors", ("prototypes",))["prototypes"])


def load_head(folder: str | Path) -> MLPHead | TRHead:
    """The head of a `fit_head` or `fit_probe` folder, on the CPU, frozen, in evaluation mode."""
    record, tensors = read_record(folder), load_tensors(Path(folder) / "head.safetensors")
    with refused(f"{folder} is damaged, its head.safetensors holds no head that fits its record", MAKE_ANEW):
        return restore_head(tensors, tuple(record["notes"]["grid"]), record["experiment"]["dropout"])


def load_probe(folder: str | Path, readout: str = "modularity") -> ClusterProbe | LinearProbe:
    """A read-out of a `fit_probe` or `fit_baseline` folder, on the CPU, frozen.

    Raises:
        ValueError: the folder has no such read-out; the message names those it has.
    """
    tensors = load_tensors(Path(folder) / "probe.safetensors")
    names = sorted({name.split(".")[0] for name in tensors})
    if readout not in names:
        raise InputError(f"{folder} has no read-out {readout!r}; it has {', '.join(names)}: take one of these.")
    with refused(f"{folder} is damaged, its probe.safetensors holds no read-out {readout!r}", MAKE_ANEW):
        linear = {name: tensors[f"linear.{name}"] for name in ("weight", "bias")} if readout == "linear" else None
        return restore_probe(linear or {"centroids": tensors[readout]})


def restore_probe(tensors: Mapping[str, Tensor]) -> ClusterProbe | LinearProbe:
    """A read-out from its `state_dict`, strictly; which kind and how wide is read off the tensors."""
    shape = tensors["weight" if "weight" in tensors else "centroids"].shape
    with torch.device("meta"):
        probe = LinearProbe(*shape) if "weight" in tensors else ClusterProbe(*shape)
    probe.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    return probe.eval().requires_grad_(False)


def open_backbone(experiment: Experiment, image_size: int | None) -> Backbone:
    """The backbone of a run, read as its settings say, on the CPU; raises as `load_backbone`."""
    return load_backbone(experiment.backbone, image_size, num_heads=experiment.num_heads,
                         positions=experiment.positions)


def run_folder(run: Path) -> Path:
    """The folder of a probe, or of an evaluation of released files, which has no probe; see `Segmenter.load`."""
    if is_complete(run):
        record = read_record(run)
        stage, probe = record.get("stage"), (record.get("upstream") or {}).get("probe")
        if stage == "probe" or stage == "evaluation" and record.get("experiment", {}).get("release"):
            return run
        if stage == "evaluation" and isinstance(probe, str):
            return run.parent.parent / probe
        raise NotFound(f"{run} is a {stage} artefact: give the folder of a probe or an evaluation.")
    found = [path.parent for path in sorted(run.glob("probe/*/artefact.json"))]
    found += [path.parent for path in sorted(run.glob("evaluation/*-release-*/artefact.json"))]
    if not found:
        raise NotFound(f"{run} holds no trained run: train one with evaluate(Experiment(run_dir=...)).")
    if len(found) > 1:
        raise InputError(f"{run} holds {len(found)} runs; choose one: {', '.join(map(str, found))}.")
    return found[0]


def read_experiment(record: dict[str, Any], folder: Path) -> Experiment:
    """The experiment that an artefact records; ValueError naming the folder if there is none that this library runs."""
    with refused(f"{folder} records an experiment that cannot be read by this version of the library", MAKE_ANEW,
                 (ValueError,)):
        return Experiment.from_dict(record["experiment"])


def read_assignment(metrics: dict[str, Any], readout: str) -> list[int] | None:
    """Class of each cluster as an evaluation matched them; None without labels, and for a linear probe."""
    if readout == "linear" or not metrics["dataset"]["labelled"]:
        return None
    return next((result["assignment"] for result in metrics["results"] if result["readout"] == readout), None)


# --- folders of `Segmenter.save_pretrained` ---

def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The `config.json` of a saved Segmenter; ValueError naming the first entry that cannot be what was written."""
    again = "give what save_pretrained or push_to_hub wrote."
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or config.get("format") != FORMAT or not (folder / WEIGHTS).is_file():
        raise InputError(f"{name} holds no Segmenter ({CONFIG} with format {FORMAT!r}, and {WEIGHTS}): {again}")

    def whole(value: Any, low: int, high: float = math.inf) -> bool:
        return type(value) is int and low <= value <= high

    def listed(value: Any, length: int | None, fits: Callable[[Any], bool]) -> bool:
        return isinstance(value, list) and len(value) == (length or len(value)) > 0 and all(map(fits, value))

    c = len(config["classes"]) if isinstance(config.get("classes"), list) else 0
    vit = config.get("backbone")
    fits = {
        "sha256": lambda value: isinstance(value, str),
        "readout": lambda value: value in ("modularity", "kmeans", "concepts", "linear"),
        "grid": lambda value: listed(value, 2, lambda side: whole(side, 1, 4096)),
        "image_size": lambda value: whole(value, 1, 4096),
        "resize": lambda value: value in ("nearest", "antialiased"),
        "smoothing": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        "classes": lambda value: listed(value, None, lambda one: isinstance(one, str)),
        "colors": lambda value: listed(value, c, lambda one: listed(one, 3, lambda part: whole(part, 0, 255))),
        "assignment": lambda value: value is None or listed(value, c, lambda one: whole(one, 0, c - 1)),
        "backbone": lambda value: isinstance(vit, dict) and isinstance(vit.get("name"), str)
        and isinstance(vit.get("sha256"), str) and (vit.get("num_heads") is None or whole(vit["num_heads"], 1))
        and isinstance(vit.get("positions"), str) and isinstance(vit.get("included"), bool),
        "record": lambda value: value is None or isinstance(value, dict),
    }
    for key, check in fits.items():
        if key not in config or not check(config[key]):
            said = f"{key} {str(config[key])[:60]!r}" if key in config else f"no {key}"
            raise InputError(f"{folder / CONFIG} is damaged, it has {said}: {again}")
    return config


def restore(path: Path, config: dict[str, Any]) -> tuple[nn.Module, nn.Module, int]:
    """Head and read-out of a saved Segmenter, and the width of its tokens; ValueError if they are not its config's."""
    groups: dict[str, dict[str, Tensor]] = {"head": {}, "probe": {}}
    tensors = read_tensors(path)
    for key, value in tensors.items():
        group, _, rest = key.partition(".")
        groups.setdefault(group, {})[rest] = value
    again = "fetch or save both again."
    with refused(f"{path} holds no head and read-out that fit {CONFIG}", again):
        probe, head = restore_probe(groups["probe"]), restore_head(groups["head"], tuple(config["grid"]))
    first = (head.mlp if isinstance(head, TRHead) else head).f1
    linear = isinstance(probe, LinearProbe)
    found, wanted = tuple(next(probe.parameters()).shape), (len(config["classes"]), first.out_features)
    if len(groups) > 2 or found != wanted or linear != (config["readout"] == "linear"):
        raise InputError(f"{path} holds {', '.join(sorted(groups))}, its read-out {found} for the {wanted} that its "
                         f"head and {CONFIG} have: {again}")
    refuse_misfits(tensors, {key: tuple(value.shape) for key, value in tensors.items()}, path, CONFIG)
    return head, probe, first.in_features
