"""What stages and `Segmenter.save_pretrained` left, read again: heads, read-outs, backbones, runs."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cause_lib.backbones import FACETS, Backbone, load_backbone
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.errors import InputError, NotFound
from cause_lib.heads import MLPHead, TRHead
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.integrity import what_cannot_be, what_is_broken
from cause_lib.runs.store import as_now, is_complete, load_tensors, read_record
from cause_lib.weights import read_tensors, refuse_misfits

CONFIG, WEIGHTS, BACKBONE, CARD = "config.json", "model.safetensors", "backbone.safetensors", "README.md"
FORMAT = "cause_lib.Segmenter 1"  # what a config.json of ours begins with; another number once its layout changes
READ = ("num_heads", "positions", "layer", "facet", "mean", "std")  # how a config.json says to read the backbone
CRF = ("crf_iterations", "crf_backend", "crf_picture")  # settings of a Segmenter that a config.json has
MATCHINGS = ("assignment", "crf_assignment")  # the class of each cluster, in masks without and with CRF
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


def restore_head(tensors: Mapping[str, Tensor], grid: tuple[int, int], dropout: float = 0.1) -> MLPHead | TRHead:
    """A head from its `state_dict`, strictly, of the tensors' kind and widths: on the CPU, frozen, in evaluation mode.

    Args:
        tensors: by name, as `state_dict` has them.
        grid: rows and columns of patches that a TR head was trained with; unused for an MLP head.
        dropout: for training it on.
    """
    with torch.device("meta"):  # nothing is drawn, so that loading leaves the global random numbers alone
        if "query_pos" in tensors:
            head: MLPHead | TRHead = TRHead(torch.empty_like(tensors["clusterbook.prototypes"]), grid,
                                            len(tensors["mlp.f1.weight"]), hidden_dim=len(tensors["linear1.weight"]),
                                            dropout=dropout)
        else:
            head = MLPHead(tensors["f1.weight"].shape[1], len(tensors["f1.weight"]), dropout)
    head.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
    return head.eval().requires_grad_(False)


def load_clusterbook(folder: str | Path) -> Clusterbook:
    """The clusterbook of a `fit_clusterbook` folder, on the CPU."""
    return Clusterbook(load_tensors(Path(folder) / "clusterbook.safetensors", ("prototypes",))["prototypes"])


def load_head(folder: str | Path, dropout: float | None = None) -> MLPHead | TRHead:
    """The head of a `fit_head` or `fit_probe` folder, on the CPU, frozen, in evaluation mode; dropout None: its own."""
    record, tensors = read_record(folder), load_tensors(Path(folder) / "head.safetensors")
    with refused(f"{folder} is damaged, its head.safetensors holds no head that fits its record", MAKE_ANEW):
        dropout = record["experiment"]["dropout"] if dropout is None else dropout
        return restore_head(tensors, tuple(record["notes"]["grid"]), dropout)


def load_probe(folder: str | Path, readout: str = "modularity") -> ClusterProbe | LinearProbe:
    """A read-out of a `fit_probe` or `fit_baseline` folder, on the CPU, frozen; ValueError names those there."""
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
    return load_backbone(experiment.backbone, image_size, positions=experiment.positions, mean=experiment.image_mean,
                         std=experiment.image_std, **read_as(experiment))


def read_as(experiment: Experiment) -> dict[str, Any]:
    """Which tokens of its backbone a run takes, as `load_backbone` and `check_backbone` are asked for them."""
    return {name: getattr(experiment, name) for name in ("num_heads", "layer", "facet")}


def refuse_others(backbone: Backbone, path: Path | str, sha256: str | None = None, dim: int | None = None) -> None:
    """ValueError if the backbone here has other weights, or another width, than what is at `path` was made with."""
    if sha256 not in (None, backbone.weights_sha256):
        raise InputError(f"{path} belongs to other weights of {backbone.name} (SHA-256 {sha256[:8]}..., here "
                         f"{backbone.weights_sha256[:8]}...): put those into CAUSE_WEIGHTS, or train again.")
    if dim not in (None, backbone.dim):
        raise InputError(f"{path} is for a backbone of width {dim}, and {backbone.name} has width {backbone.dim}: "
                         "give the one that it was made with.")


def run_folder(run: Path) -> Path:
    """The folder of a probe, or of an evaluation of released files, which has no probe; see `Segmenter.load`."""
    if is_complete(run) or (run / "metrics.json").is_file():
        record = read_record(run)
        stage, probe = record.get("stage"), (record.get("upstream") or {}).get("probe")
        if stage == "probe" or stage == "evaluation" and record.get("experiment", {}).get("release"):
            return run
        if stage == "evaluation" and isinstance(probe, str):
            return run.parent.parent / probe
        raise NotFound(f"{run} is a {stage} artefact: give the folder of a probe or an evaluation.")
    found = [path.parent for pattern in ("probe/*", "evaluation/*-release-*")
             for path in sorted(run.glob(f"{pattern}/artefact.json"))]
    if not found:
        raise NotFound(f"{run} holds no trained run: train one with evaluate(Experiment(run_dir=...)).")
    if len(found) > 1:
        raise InputError(f"{run} holds {len(found)} runs; choose one: {', '.join(map(str, found))}.")
    return run_folder(found[0])


def read_experiment(record: dict[str, Any], folder: Path) -> Experiment:
    """The experiment that an artefact records; ValueError naming the folder if there is none that this library runs."""
    with refused(f"{folder} records an experiment that this version cannot read", MAKE_ANEW, (ValueError,)):
        return Experiment.from_dict(record["experiment"])


def judged_as(record: dict[str, Any], folder: Path, readout: str) -> dict[str, Any]:
    """What a Segmenter takes from the record of an evaluation or a probe; matchings are None without labels."""
    experiment, matched = read_experiment(record, folder), {}
    if "results" in record and record["dataset"]["labelled"] and readout != "linear":
        matched = {one["crf"]: one["assignment"] for one in record["results"] if one["readout"] == readout}
    settings = {key: getattr(experiment, key) for key in ("smoothing", *CRF)}
    return settings | {key: matched.get(crf) for crf, key in enumerate(MATCHINGS)}


# --- folders of `Segmenter.save_pretrained` ---

def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The `config.json` of a saved Segmenter; ValueError naming the first entry that cannot be what was written."""
    again = "give what save_pretrained or push_to_hub wrote."
    try:
        config = json.loads(text := (folder / CONFIG).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or config.get("format") != FORMAT or not (folder / WEIGHTS).is_file():
        raise InputError(f"{name} holds no Segmenter ({CONFIG} with format {FORMAT!r}, and {WEIGHTS}): {again}")
    c, side = len(config["classes"]) if isinstance(config.get("classes"), list) else 0, range(1, 4097)
    forms = {
        "sha256": str, "readout": ("modularity", "kmeans", "concepts", "linear"), "grid": [side, 2], "image_size": side,
        "resize": ("nearest", "antialiased", "pillow"), "smoothing": (float, range(2**53)), "squash": (..., bool),
        "crf_iterations": (..., range(1, 1001)), "crf_backend": (..., "torch", "pydensecrf"),
        "crf_picture": (..., "rgb", "released"), "classes": [str, c], "colors": [[range(256), 3], c],
        "assignment": (None, [range(c), c]), "crf_assignment": (..., None, [range(c), c]), "record": (None, dict),
        "backbone": dict, "backbone.name": str, "backbone.sha256": str, "backbone.num_heads": (None, side),
        "backbone.positions": str, "backbone.included": bool, "backbone.layer": (..., None, range(-4096, 4097)),
        "backbone.facet": (..., *FACETS), "backbone.mean": (..., [float, 3]), "backbone.std": (..., [float, 3]),
    }
    for key, form in forms.items():
        outer, _, inner = key.partition(".")
        value = config.get(outer, ...) if not inner else config[outer].get(inner, ...)
        if not _fits(value, form):
            raise InputError(f"{folder / CONFIG} is damaged, {key} is "
                             f"{'missing' if value is ... else str(value)[:60]}: {again}")
    if reason := what_is_broken(text, config):
        raise InputError(f"{folder / CONFIG} is damaged ({reason}): {again[:-1]}, or remove its entry digest if you "
                         "changed it on purpose.")
    with refused(f"{folder / CONFIG} has a record with results that no run writes", again, (*MISFITS, AttributeError)):
        record = config["record"] and as_now(config["record"])
        if reason := what_cannot_be(record or {}):
            raise InputError(reason)
        return config | {"record": record}


def _fits(value: Any, form: Any) -> bool:
    """Whether a value of JSON is of a type, in a range, a list [form, length], or one of a tuple."""
    if isinstance(form, tuple):
        return any(_fits(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and 0 < len(value) == form[1] and all(_fits(one, form[0]) for one in value)
    if isinstance(form, range):
        return type(value) is int and value in form
    return value == form or type(value) is form and (form is not float or 0 <= value < math.inf)


def restore(path: Path, config: dict[str, Any]) -> tuple[nn.Module, nn.Module, int]:
    """Head and read-out of a saved Segmenter, and the width of its tokens; ValueError if they are not its config's."""
    tensors, again = read_tensors(path), "fetch or save both again."
    parts = [{key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
             for part in ("head.", "probe.")]
    with refused(f"{path} holds no head and read-out that fit {CONFIG}", again):
        head, probe = restore_head(parts[0], tuple(config["grid"])), restore_probe(parts[1])
    first = (head.mlp if isinstance(head, TRHead) else head).f1
    found, wanted = tuple(next(probe.parameters()).shape), (len(config["classes"]), first.out_features)
    linear, others = isinstance(probe, LinearProbe), len(tensors) - sum(map(len, parts))
    if others or found != wanted or linear != (config["readout"] == "linear"):
        kind = "linear" if linear else "centroid"
        raise InputError(f"{path} holds a {kind} read-out {found} and {others} tensors more, for the read-out "
                         f"{config['readout']} {wanted} that its head and {CONFIG} have: {again}")
    refuse_misfits(tensors, {key: tuple(value.shape) for key, value in tensors.items()}, path, CONFIG)
    return head, probe, first.in_features
