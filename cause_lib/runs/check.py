"""What a run would refuse, found before any work, in the run's own sentences.

A notebook's first cell calls `check`; `workflow.check` makes the `looks` of all lines of a table, equal ones once; the
stages themselves make those that cost nothing (`refuse`), before what is upstream of them is made.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch

from cause_lib.backbones import check_backbone, weights_fingerprint
from cause_lib.config import Experiment
from cause_lib.data.headers import look_at
from cause_lib.data.source import PictureFiles, spread
from cause_lib.errors import InputError
from cause_lib.runs.features import open_dataset, refuse_unlabelled
from cause_lib.runs.loop import refuse_missing_device, refuse_precision
from cause_lib.runs.released import Released, load_released
from cause_lib.runs.saved import open_backbone, read_as

HEADERS = 5000  # that a notebook's first cell looks at of a split; a table's check looks at all


def check(experiment: Experiment, stage: str = "evaluation") -> None:
    """Looks for whatever a run up to `stage`, on this machine, would refuse; fetches data and weights, trains nothing.

    Args:
        stage: `features` for one that looks at test pictures alone; `clusterbook`, `head`, `probe`, `baseline`,
            `evaluation`.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: what the run itself would raise later, the first that is found.
    """
    for look in looks(experiment, stage).values():
        look()


def refuse(experiment: Experiment, stage: str) -> None:
    """The part of `check` that costs nothing: sizes and heads against the backbone, labels where they are needed."""
    check_backbone(experiment.backbone, *_sizes(experiment, stage), **read_as(experiment))
    refuse_unlabelled(experiment)


def looks(experiment: Experiment, stage: str = "evaluation", *, here: bool = True,
          fetch: bool = True) -> dict[Hashable, Callable[[], object]]:
    """What `check` looks at, in its order: a key, the same for looks that find the same -> a function that raises.

    Args:
        stage: as for `check`.
        here: the run is on this machine: its device must be there, and of very many pictures some are looked at.
        fetch: whether data may be fetched.
    """
    e, released, read = experiment, _released(experiment, stage), read_as(experiment)
    found: dict[Hashable, Callable[[], object]] = {
        ("device", e.device, e.precision): lambda: _look_at_device(e, here),
        ("backbone", e.backbone, *read.values(), *_sizes(e, stage)): lambda: check_backbone(
            e.backbone, *_sizes(e, stage), **read)}
    if released:
        found["release", e.release, e.head] = lambda: load_released(e.release, e.head)
    for role in ["train"] * (stage != "features" and not released) + ["test"]:
        split, limit = (getattr(e, f"{role}_{name}") for name in ("split", "images"))
        found[role, e.dataset, e.folder, split, limit, e.num_classes, e.allow_corrupt, e.label_free,
              e.concept_readout] = lambda role=role: _look_at_data(e, role, here, fetch)
    found["weights", e.backbone] = lambda: weights_fingerprint(e.backbone)
    found[("read", e.backbone, *read.values())] = lambda: open_backbone(e, None)
    if released:
        found["fits", e.release, e.head, e.backbone, e.dataset, e.folder, e.num_classes] = lambda: refuse_other_release(
            e, load_released(e.release, e.head), open_backbone(e, None).dim,
            open_dataset(e, "test", e.image_size, fetch).num_classes)
    return found


def refuse_other_release(experiment: Experiment, released: Released, dim: int, num_classes: int) -> None:
    """ValueError unless released files are for tokens of width `dim` and so many classes."""
    theirs = released.book.prototypes.shape[1], len(released.cluster.centroids)
    if theirs != (dim, num_classes):
        raise InputError(f"The files in {experiment.release} are for a backbone of width {theirs[0]} and {theirs[1]} "
                         f"classes; {experiment.backbone} has width {dim} and {experiment.dataset} {num_classes} "
                         "classes: set backbone and dataset to theirs.")


def _released(experiment: Experiment, stage: str) -> bool:
    return stage == "evaluation" and bool(experiment.release)


def _sizes(experiment: Experiment, stage: str) -> list[int]:
    """The sides of pictures that the backbone sees up to a stage."""
    trains = stage in ("head", "probe", "evaluation") and not _released(experiment, stage)
    return [experiment.image_size] + [experiment.train_size] * trains


def _look_at_device(experiment: Experiment, here: bool) -> None:
    device = experiment.device
    if here:
        refuse_missing_device(experiment)
        if device == "auto" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            device = "cpu"
    refuse_precision(experiment, device)


def _look_at_data(experiment: Experiment, role: str, here: bool, fetch: bool) -> None:
    dataset = open_dataset(experiment, role, experiment.image_size, fetch)
    if role == "train":
        refuse_unlabelled(experiment, dataset)
        if 0 < experiment.concept_readout < dataset.num_classes:
            raise InputError(f"concept_readout {experiment.concept_readout} is less than the {dataset.num_classes} "
                             "classes: clusters are made of these concepts, so raise it, or set it to 0.")
    files = dataset.source.read
    if isinstance(files, PictureFiles) and experiment.allow_corrupt == "stop":  # else all have been decoded
        if faults := _faults(files, dataset.fingerprint, HEADERS if here else None):
            raise InputError(faults[0] if len(faults) == 1 else
                             f"{len(faults)} pictures of {experiment.folder or experiment.dataset} cannot be used; the "
                             f"first: {faults[0]}")


@lru_cache(maxsize=8)
def _faults(files: PictureFiles, fingerprint: str, most: int | None) -> list[str]:
    some = spread(range(len(files.images)), most)
    images, labels = (paths and tuple(paths[i] for i in some) for paths in (files.images, files.labels))
    return [look.fault for look in look_at(PictureFiles(images, labels, files.codes)) if look.fault]
