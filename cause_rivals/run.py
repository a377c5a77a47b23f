"""The two artefacts of a rival: what `fit` trains, and the numbers of `evaluate`.

A method's file has

    Settings                                     what can be set, with defaults
    FACETS                                       what it takes of a patch: `token`, `output`, `key`, ...; side by side
    SIZE                                         the side at which it sees training views: "train_size" or "image_size"
    build(rival, dim, num_classes, grid)         -> head, read-outs: of width dim for each facet, training's grid
    fit(fitting)                                 trains them in place; returns its `Run`, or None where it has no loop

A head turns tokens (b, n, d) of a grid into features (b, n, r), a read-out features into log-probabilities of c
clusters. `own` is the method's read-out; beside it stands `kmeans`, of the head's features, as for CAUSE. Everything
else is the library's: features are cached, loops are resumed, artefacts are whole or absent, one path judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cause_lib.backbones import weights_fingerprint
from cause_lib.config import Experiment
from cause_lib.crf import crf_backends
from cause_lib.data.noted import one_look
from cause_lib.errors import RunError
from cause_lib.probes import ClusterProbe, cosine_kmeans
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.judging import Judged, judge
from cause_lib.runs.loop import Run, generator_for, seed_for, settled, train
from cause_lib.runs.opened import facts_of
from cause_lib.runs.saved import refused
from cause_lib.runs.stage import Making, names_of, obtain
from cause_lib.runs.store import artefact_folder, load_tensors, read_record
from cause_rivals.rival import METHODS, Rival, rival


class SideBySide:
    """Several facets of the same views, as one `FrozenFeatures` of width sum of theirs."""

    def __init__(self, parts: Sequence[FrozenFeatures]) -> None:
        self.parts, first = parts, parts[0]
        self.experiment, self.accelerator, self.dataset = first.experiment, first.accelerator, first.dataset
        self.grid, self.weights, self.dim = first.grid, first.weights, sum(part.dim for part in parts)
        self.cached, self.pictures = all(part.cached for part in parts), first.pictures

    def __len__(self) -> int:
        return len(self.parts[0])

    def stream(self, batches: Sequence[Tensor], patches: Any = None) -> Iterator[Tensor]:
        """As `FrozenFeatures.stream`: (b, n or n', sum of widths)."""
        kept = None if patches is None else list(patches)
        for each in zip(*(part.stream(batches, kept) for part in self.parts)):
            yield torch.cat(each, dim=-1)

    def see(self, images: Tensor) -> Tensor:
        """As `FrozenFeatures.see`."""
        return torch.cat([part.see(images) for part in self.parts], dim=-1)

    sample = FrozenFeatures.sample
    _shape = FrozenFeatures._shape


def open_features(rival: Rival, role: str, accelerator: Accelerator, *, mirrored: bool = False,
                  view: Callable[[Tensor, Tensor], Tensor] | None = None,
                  facets: Sequence[str] | None = None) -> FrozenFeatures | SideBySide:
    """The frozen inputs of a method: its facets of the training views, or of the `test` pictures; see FrozenFeatures.

    facets: these in place of the method's.
    """
    size = getattr(rival.experiment, rival.module.SIZE if role == "train" else "image_size")
    parts = [FrozenFeatures(rival.experiment.replace(facet=facet), role, size, accelerator, mirrored=mirrored,
                            view=view) for facet in facets or rival.module.FACETS]
    return parts[0] if len(parts) == 1 else SideBySide(parts)


@dataclass
class Fitting:
    """A method under training: what it is given, and what it changes."""

    rival: Rival
    folder: Path
    accelerator: Accelerator
    features: FrozenFeatures | SideBySide  # of the training views
    head: nn.Module
    readouts: dict[str, nn.Module]
    notes: dict[str, Any] = field(default_factory=dict)  # for the record

    def other(self, *, view: Callable[[Tensor, Tensor], Tensor] | None = None, mirrored: bool = False,
              facets: Sequence[str] | None = None) -> FrozenFeatures | SideBySide:
        """Other frozen inputs of the same training views, see `open_features`."""
        return open_features(self.rival, "train", self.accelerator, view=view, mirrored=mirrored, facets=facets)

    def tokens(self, views: Tensor, features: FrozenFeatures | SideBySide | None = None) -> Tensor:
        """The inputs of some training views (b,): (b, n, d)."""
        return next(iter((features or self.features).stream([views])))

    def generator(self, *what: Any) -> torch.Generator:
        """A CPU generator for one random choice of the run."""
        return generator_for(self.rival.experiment, self.rival.method, *what)

    def train(self, run: Run) -> Run:
        """The library's loop: checkpoints, and the same bits after a kill."""
        train([run], "rival", self.accelerator, self.features)
        return run


def fit(rival: Rival) -> Path:
    """Train a method. The folder holds `rival.safetensors`: the head, and the read-outs `own` and `kmeans`.

    Raises:
        RuntimeError: several processes, or a loss that is no longer finite.
        ValueError, FileNotFoundError: as for CAUSE.
    """
    return _made(rival, "rival", {}, _fit)


def evaluate(rival: Rival) -> Path:
    """Judge a method as CAUSE is judged; the folder holds `metrics.json` and `gallery.safetensors`."""
    return _made(rival, "rival_evaluation", {"rival": fit}, _evaluate)


def load(folder: str | Path) -> tuple[Rival, nn.Module, dict[str, nn.Module]]:
    """A trained method from its folder: its description, head and read-outs, in evaluation mode on the CPU.

    Raises:
        ValueError, FileNotFoundError: the folder holds none, or is damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    with refused(f"{folder} holds no trained rival that this version can read",
                 "remove the folder and run again.", (LookupError, ValueError, TypeError, RuntimeError)):
        notes = record["notes"]
        made = rival(notes["method"], notes["settings"], **record["experiment"])
        head, readouts = made.module.build(made, notes["dim"], len(notes["classes"]), tuple(notes["grid"]))
        parts = nn.ModuleDict({"head": head, **readouts, "kmeans": nn.Identity()})
        tensors = load_tensors(folder / "rival.safetensors", ("kmeans.centroids",))
        parts["kmeans"] = ClusterProbe(*tensors["kmeans.centroids"].shape)
        parts.load_state_dict(tensors)
    parts.eval().requires_grad_(False)
    return made, parts["head"], {name: module for name, module in parts.items() if name != "head"}


def folder_of(rival: Rival, stage: str, opening: Callable[[Experiment, str], Any] = facts_of) -> Path:
    """An artefact's place, as `cause_lib.runs.stage.folder_of` has it for those of CAUSE."""
    experiment = settled(rival.experiment)
    datasets = [opening(experiment, role) for role in ["train"] + ["test"] * (stage == "rival_evaluation")]
    key = rival.key(stage)
    if "crf" in key and experiment.crf_backend not in crf_backends():
        key["crf"] = False
    depends = key | {"data": "".join(dataset.fingerprint for dataset in datasets),
                     "weights": weights_fingerprint(experiment.backbone),
                     "names": [names_of(dataset) for dataset in datasets]}
    parts = [Path(experiment.folder).name or experiment.dataset, experiment.backbone, rival.method]
    return artefact_folder(experiment.run_dir, stage, "-".join([*parts, f"s{experiment.seed}"]), depends)


@one_look()
def _made(given: Rival, stage: str, needs: dict[str, Callable[[Rival], Path]],
          make: Callable[[Rival, Making], None]) -> Path:
    given = Rival(given.method, settled(given.experiment), given.settings)

    def alone(makings: list[Making]) -> None:
        if makings[0].accelerator.num_processes > 1:
            raise RunError(f"{METHODS[given.method]} runs in one process: leave accelerate launch out.")
        make(given, makings[0])

    return obtain([Making(stage, given.experiment, folder_of(given, stage),
                          {name: partial(before, given) for name, before in needs.items()})], alone, refused_as="head")


def _fit(given: Rival, making: Making) -> None:
    started, device = time.monotonic(), making.accelerator.device
    features = open_features(given, "train", making.accelerator)
    classes, dim = features.dataset.num_classes, features.dim // len(given.module.FACETS)
    torch.manual_seed(seed_for(given.experiment, given.method))
    head, readouts = given.module.build(given, dim, classes, features.grid)
    parts = nn.ModuleDict({"head": head, **readouts}).to(device)
    fitting = Fitting(given, making.folder, making.accelerator, features, head, readouts)
    run = given.module.fit(fitting)
    parts.eval().requires_grad_(False)
    centroids = cosine_kmeans(features.sample(head), classes, restarts=given.experiment.kmeans_restarts,
                              generator=generator_for(given.experiment, "k-means"))
    parts["kmeans"] = ClusterProbe(*centroids.shape, centroids)
    making.finish(features, {"rival": parts.state_dict()},
                  given.to_dict() | {"dim": dim, "grid": features.grid} | fitting.notes | names_of(features.dataset),
                  max(0.0, time.monotonic() - started - (run.seconds if run else 0.0)), run=run)


def _evaluate(given: Rival, making: Making) -> None:
    def opened(_: Experiment, role: str, size: int, accelerator: Accelerator, *, mirrored: bool) -> Any:
        return open_features(given, role, accelerator, mirrored=mirrored)

    _, head, readouts = load(making.upstream["rival"])
    judge([Judged(making, METHODS[given.method], head, readouts, notes=given.to_dict())], opened)
