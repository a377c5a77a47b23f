"""The stages of a run: clusterbook, head, probe, evaluation, and the k-means baseline.

    fit_clusterbook   step 1: prototypes M by modularity (Eq. 3)
    fit_head          step 2: head and EMA teacher by concept-wise contrast (Eq. 4), the clusterbook as the mediator
    fit_heads         several of them from one pass of the backbone
    fit_probe         step 3: read-outs of the teacher's features: centroids by Eq. 3, centroids by k-means
    fit_baseline      k-means on the raw tokens
    check             what a run would refuse, before any work
    evaluate, evaluate_baseline   masks, dense CRF, one Hungarian matching, numbers

The training step of each, where Eq. 3 and Eq. 4 are used, is in steps.py. Each takes an `Experiment`, runs what it
needs upstream if that is missing, and returns the folder of its artefact (runs/stage.py): functions under `@made` are
called with the experiment alone. The same experiment again costs nothing; a killed stage goes on from its checkpoint
and ends with the same bits (runs/loop.py). Several processes share the pictures between them (runs/parallel.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook, initial_prototypes
from cause_lib.config import PASS_FIELDS, Experiment
from cause_lib.data.noted import one_look
from cause_lib.probes import concept_kmeans, cosine_kmeans
from cause_lib.runs import health
from cause_lib.runs.check import check, refuse, refuse_other_release
from cause_lib.runs.features import FrozenFeatures, open_dataset
from cause_lib.runs.judging import Judged, judge, load_gallery
from cause_lib.runs.loop import Run, generator_for, seed_for, train
from cause_lib.runs.released import load_released, released_fingerprint
from cause_lib.runs.results import collect_metrics
from cause_lib.runs.saved import load_clusterbook, load_head, load_probe, open_backbone
from cause_lib.runs.stage import Making, find, folder_of, made, names_of, obtain
from cause_lib.runs.store import is_made, read_record
from cause_lib.steps import clusterbook_run, head_run, probe_run, thresholds_for

__all__ = ["check", "collect_metrics", "evaluate", "evaluate_baseline", "find", "first_prototypes", "fit_baseline",
           "fit_clusterbook", "fit_head", "fit_heads", "fit_probe", "load_clusterbook", "load_gallery", "load_head",
           "load_probe", "read_record", "thresholds_for"]

START_POINTS = 25_600  # tokens of which prototypes, or features of which concepts, are made


@made("clusterbook")
def fit_clusterbook(experiment: Experiment, making: Making) -> None:
    """Step 1: the concept clusterbook. The folder holds `clusterbook.safetensors` with `prototypes` (k, d)."""
    features = FrozenFeatures(experiment, "train", experiment.image_size, making.accelerator)
    started = time.monotonic()
    start = first_prototypes(experiment, features)
    starting = time.monotonic() - started
    run = clusterbook_run(experiment, making.folder, start, making.accelerator)
    train([run], "clusterbook", making.accelerator, features, thinned=True)
    prototypes, tokens = run.state["book"]["prototypes"], features.sample()  # (k, d), (m, d)
    used = Clusterbook(prototypes).used(tokens)
    making.finish(features, {"clusterbook": run.state["book"].state_dict()},
                  {"prototypes_used": used, "num_concepts": experiment.num_concepts, "tokens": len(tokens)}, starting,
                  run=run, found=health.of_prototypes(prototypes, used, len(tokens), experiment.recipe))


def first_prototypes(experiment: Experiment, features: FrozenFeatures) -> Tensor:
    """Where step 1 starts, on the views it is trained on: (k, d) float32, as published or from training tokens."""
    generator = generator_for(experiment, "prototypes")
    if experiment.prototype_start == "uniform":
        return initial_prototypes(experiment.num_concepts, features.dim, generator)
    tokens = features.sample()
    tokens = tokens[torch.randperm(len(tokens), generator=generator)[:START_POINTS].to(tokens.device)]
    return cosine_kmeans(tokens, experiment.num_concepts, restarts=1, iterations=3, generator=generator)


def fit_head(experiment: Experiment) -> Path:
    """Step 2: the segmentation head. The folder holds the teacher, `head.safetensors`."""
    return fit_heads([experiment])[0]


@one_look()
def fit_heads(experiments: Sequence[Experiment]) -> list[Path]:
    """Step 2 of several experiments, each batch of tokens computed, or read, once for all heads that see it.

    Heads that agree in `PASS_FIELDS` share a pass, whatever their kind, thresholds, widths, updates or seeds (with
    `order_seed` and `train_size` set the same); heads that do not are trained one group after the other. Each artefact
    holds the bits that `fit_head` alone gives. Returns the folders, in the order of the experiments.
    """
    makings = [Making.of(experiment, "head", {"clusterbook": fit_clusterbook}) for experiment in experiments]
    groups: dict[tuple, list[Making]] = {}
    for making in makings:
        if not is_made(making.folder):
            refuse(making.experiment, "head")
            groups.setdefault(tuple(getattr(making.experiment, name) for name in PASS_FIELDS), []).append(making)
    for members in groups.values():
        obtain(members, _fit_heads)
    return [making.folder for making in makings]


def _fit_heads(makings: list[Making]) -> None:
    first, accelerator = makings[0].experiment, makings[0].accelerator
    features = FrozenFeatures(first, "train", first.train_size, accelerator)
    runs = [head_run(making.experiment, making.folder, load_clusterbook(making.upstream["clusterbook"]), accelerator,
                     features) for making in makings]
    train(runs, "head", accelerator, features)
    for making, run in zip(makings, runs):
        tensors = {"head": run.state["teacher"]["head"].state_dict()}
        if "linear" in run.state:
            tensors["probe"] = _linear(run)
        making.finish(features, tensors, {"grid": features.grid, "bank": len(run.state.get("bank", ())),
                                          "heads_in_the_pass": len(runs)}, run=run)


@made("probe", head=fit_head)
def fit_probe(experiment: Experiment, making: Making) -> None:
    """Step 3: read-outs of the head's features.

    The folder holds `probe.safetensors` with centroids (c, r) of `modularity` and `kmeans`, and `head.safetensors`, the
    head they belong to. With `label_free=True` the head is the one of step 2, untouched, and no label is used. With
    `label_free=False` the released code's step 3 is repeated: a linear probe's cross-entropy trains the head too, and
    `linear.weight`, `linear.bias` are kept as well; it starts from step 2's, if that has one (`labels_in_norm`).
    """
    features = FrozenFeatures(experiment, "train", experiment.train_size, making.accelerator)
    before = making.upstream["head"]
    head = load_head(before, experiment.probe_dropout).to(making.accelerator.device)
    linear = load_probe(before, "linear") if experiment.labels_in_norm else None
    torch.manual_seed(seed_for(experiment, "probe"))
    points, start = _kmeans(experiment, features, head) if experiment.probe_start == "kmeans" else (None, None)
    run = probe_run(experiment, making.folder, head, start, making.accelerator, features, linear)
    train([run], "probe", making.accelerator, features)
    head.eval().requires_grad_(False)
    if points is None or not experiment.label_free:  # the head is another one now
        points, start = _kmeans(experiment, features, head)
    probes = {"modularity": run.state["probe"].centroids, "kmeans": start}
    if experiment.concept_readout:
        generator = generator_for(experiment, "concept k-means")
        some = torch.randperm(len(points), generator=generator)[:START_POINTS].to(points.device)
        probes["concepts"] = concept_kmeans(points[some], features.dataset.num_classes, experiment.concept_readout,
                                            restarts=experiment.kmeans_restarts, generator=generator)
    if not experiment.label_free:
        probes |= _linear(run)
    making.finish(features, {"probe": probes, "head": head.state_dict()},
                  {"grid": features.grid} | names_of(features.dataset), run=run)


def _linear(run: Run) -> dict[str, Tensor]:
    """What the linear probe of a run has learned, by the names that `load_probe` reads."""
    return {f"linear.{name}": value for name, value in run.state["linear"].state_dict().items()}


@made("baseline")
def fit_baseline(experiment: Experiment, making: Making) -> None:
    """The tables' baseline: k-means on the raw tokens. The folder holds `probe.safetensors` with `kmeans` (c, d)."""
    started = time.monotonic()
    features = FrozenFeatures(experiment, "train", experiment.image_size, making.accelerator)
    making.finish(features, {"probe": {"kmeans": _kmeans(experiment, features)[1]}},
                  {"grid": features.grid} | names_of(features.dataset), time.monotonic() - started)


def _kmeans(experiment: Experiment, features: FrozenFeatures, head: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Tokens, or a head's features, of random patches, (m, d or r), and their k-means centroids, (c, d or r)."""
    points = features.sample(head)
    return points, cosine_kmeans(points, features.dataset.num_classes, restarts=experiment.kmeans_restarts,
                                 generator=generator_for(experiment, "k-means"))


@one_look()
def evaluate(experiment: Experiment) -> Path:
    """Judge the head's read-outs on the test split, the baseline beside it; the folder holds `metrics.json`.

    With `release`, the authors' released files are judged instead, without a baseline, and nothing is trained.
    """
    if experiment.release:
        return _evaluate_released(experiment)
    return obtain([Making.of(experiment, "baseline_evaluation", {"baseline": fit_baseline}),
                   Making.of(experiment, "evaluation", {"probe": fit_probe})], _judge)


@one_look()
def evaluate_baseline(experiment: Experiment) -> Path:
    """Judge k-means on the raw tokens in the same way; the folder holds `metrics.json`."""
    return obtain([Making.of(experiment, "baseline_evaluation", {"baseline": fit_baseline})], _judge)


def _judge(makings: list[Making]) -> None:
    """One pass over the test pictures for the head's read-outs and the baseline's."""
    judge([_judged(making, making.experiment, **making.upstream) for making in makings])


def _judged(making: Making, experiment: Experiment, probe: Path | None = None, baseline: Path | None = None) -> Judged:
    """The read-outs of a probe with their head, or those of a baseline."""
    if probe is None:
        return Judged(making, "k-means", None, {"kmeans": load_probe(baseline, "kmeans")})
    readouts = {name: load_probe(probe, name) for name in _readouts(experiment)}
    return Judged(making, f"CAUSE-{experiment.head.upper()}", load_head(probe), readouts,
                  load_clusterbook(fit_clusterbook(experiment)))


def _readouts(experiment: Experiment) -> list[str]:
    """The read-outs that `fit_probe` leaves for a run."""
    return (["modularity", "kmeans"] + ["concepts"] * (experiment.concept_readout > 0)
            + ["linear"] * (not experiment.label_free))


@made("evaluation")
def _evaluate_released(experiment: Experiment, making: Making) -> None:
    released = load_released(experiment.release, experiment.head)
    refuse_other_release(experiment, released, open_backbone(experiment, None).dim,
                         open_dataset(experiment, "test", experiment.image_size).num_classes)
    # What was made with the released code is not label-free: labels reach the head in its step 3.
    making.experiment = experiment.replace(label_free=False, num_concepts=len(released.book.prototypes),
                                           reduced_dim=released.cluster.centroids.shape[1])
    judge([Judged(making, f"CAUSE-{experiment.head.upper()} (released files)", released.head,
                  {"modularity": released.cluster, "linear": released.linear}, released.book,
                  {"release": released_fingerprint(experiment.release, experiment.head)})])
