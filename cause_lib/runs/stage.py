"""What every stage does around its own work: a place, reuse, a lock, a device, a record.

    @made("probe", head=fit_head)
    def fit_probe(experiment, making): ...   # leaves its artefact by making.finish(...)

`fit_probe(experiment)` then returns the artefact's folder. An artefact that is there is used as it is. One that is not
is made after those that it needs, by one of the processes that ask for it; the others wait and find it.
"""

import contextlib
import functools
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cause_lib.backbones import weights_fingerprint
from cause_lib.config import Experiment
from cause_lib.crf import crf_backends
from cause_lib.data import SegmentationDataset
from cause_lib.data.noted import one_look
from cause_lib.runs import health
from cause_lib.runs.check import refuse
from cause_lib.runs.features import FrozenFeatures, device_name, refuse_changed
from cause_lib.runs.loop import Run, session, settled
from cause_lib.runs.opened import Opened, facts_of
from cause_lib.runs.released import released_fingerprint
from cause_lib.runs.store import (artefact_folder, is_made, libraries_of, library_version, made_once, read_record,
                                  write_artefact)


@dataclass
class Making:
    """An artefact that is wanted: its stage, where it goes, the stages that it needs, name -> what gives a folder;
    while it is made, on which device, and those folders."""

    stage: str
    experiment: Experiment
    folder: Path
    needs: Mapping[str, Callable[[], Path]] = field(default_factory=dict)
    accelerator: Accelerator | None = None
    upstream: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, stage: str, needs: Mapping[str, Callable[[Experiment], Path]]) -> "Making":
        """That of a stage, a key of `STAGE_FIELDS`, from the experiment and the stages that it needs."""
        experiment = settled(experiment)
        return cls(stage, experiment, folder_of(experiment, stage),
                   {name: functools.partial(before, experiment) for name, before in needs.items()})

    def finish(self, features: FrozenFeatures, tensors: dict[str, dict[str, Tensor]], notes: dict[str, Any],
               seconds: float = 0.0, *, run: Run | None = None, found: Sequence[str] = (),
               metrics: dict[str, Any] | None = None) -> None:
        """Write the artefact made from these features, by the first process; all go on together.

        Args:
            features: what it was made from; the record names their weights and the pictures left out.
            tensors: file stem -> name -> tensor.
            notes: go into the record, with the warnings and the pictures left out.
            seconds: spent, but for training. run: the training, its loss is kept as the history.
            found: warnings of this stage; shown, and kept after those of the artefacts that this one is made from.
            metrics: of an evaluation, for its `metrics.json`, which has the record too.
        """
        found = [*found, *(health.of_losses(self.stage, run.history["loss"], self.experiment.recipe) if run else [])]
        for sentence in found if self.accelerator.is_main_process else ():
            warnings.warn(sentence, stacklevel=2)
        upstream = self.upstream.values()
        before = [said for path in upstream for said in read_record(path).get("notes", {}).get("warnings", [])]
        record = {"stage": self.stage, "experiment": self.experiment.to_dict(), "library": library_version(),
                  "libraries": libraries_of(upstream), "weights": features.weights,
                  "device": device_name(self.accelerator), "seconds": round(seconds + (run.seconds if run else 0.0), 2),
                  "peak_mb": peak_mb(self.accelerator),
                  "upstream": {name: path.relative_to(self.experiment.run_dir).as_posix()
                               for name, path in self.upstream.items()},
                  "notes": notes | {"warnings": list(dict.fromkeys([*before, *found]))}}
        if metrics is None:
            record["history"] = run.history if run else {}
            record["notes"]["skipped"] = dict(features.dataset.skipped)
        else:
            record["date"] = time.strftime("%Y-%m-%d", time.gmtime())
        if self.accelerator.is_main_process:
            named = facts_of(self.experiment, "test" if metrics else "train") if self.experiment.folder else None
            refuse_changed(self.experiment, features.dataset, self.folder, named)
            write_artefact(self.folder, record, tensors, metrics=metrics and record | metrics)
        self.accelerator.wait_for_everyone()


def made(stage: str, **needs: Callable[[Experiment], Path]) -> Callable[[Callable], Callable[[Experiment], Path]]:
    """A stage, a key of `STAGE_FIELDS`, from the function that makes its artefact from those of the stages it needs."""
    def stage_of(make: Callable[[Experiment, Making], None]) -> Callable[[Experiment], Path]:
        @one_look()
        @functools.wraps(make, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
        def run(experiment: Experiment) -> Path:
            making = Making.of(experiment, stage, needs)
            return obtain([making], lambda makings: make(making.experiment, making))

        del run.__wrapped__  # its signature is (experiment), not that of `make`
        return run

    return stage_of


@one_look()
def obtain(wanted: Sequence[Making], make: Callable[[list[Making]], None], *, refused_as: str = "") -> Path:
    """The folder of the last of these artefacts. Those that are there are used as they are, the others made together.

    Args:
        wanted: artefacts of experiments that agree in device and precision.
        make: is called with those to be made, once what they need is; leaves each by `Making.finish`.
        refused_as: the stage of CAUSE that wants the same of backbone and labels. Empty: their own.
    """
    missing = {making.folder: making for making in wanted if not is_made(making.folder)}
    for making in missing.values():
        refuse(making.experiment, refused_as or making.stage)
    for making in missing.values():
        making.upstream = {name: before() for name, before in making.needs.items()}
    if missing:
        with session(wanted[0].experiment) as accelerator, made_once(list(missing), accelerator) as folders:
            for folder in folders:
                missing[folder].accelerator = accelerator
            if folders:
                make([missing[folder] for folder in folders])
    return wanted[-1].folder


def find(experiment: Experiment, stage: str) -> Path | None:
    """The folder of a stage (a key of `STAGE_FIELDS`) if its artefact is there already, else None; nothing is run."""
    folder = folder_of(experiment, stage)
    return folder if is_made(folder) else None


def folder_of(experiment: Experiment, stage: str,
              opening: Callable[[Experiment, str], SegmentationDataset] | None = None) -> Path:
    """An artefact's place, named by the fields that it depends on, the pictures, the backbone's weights and, but for
    prototypes and heads, the classes' names and colours. `opening` gives what `facts_of` gives of a role, in place of
    it: of a whole table, each data set is opened once."""
    experiment, opening = settled(experiment), opening or facts_of
    judged, released = "evaluation" in stage, stage == "evaluation" and bool(experiment.release)
    datasets = [opening(experiment, role) for role in ["train"] * (not released) + ["test"] * judged]
    if judged and experiment.crf_backend not in crf_backends():
        experiment = experiment.replace(crf=False)  # judged again, with it, once it is installed
    depends = experiment.key(stage) | {"data": "".join(dataset.fingerprint for dataset in datasets),
                                       "weights": weights_fingerprint(experiment.backbone)}
    if stage not in ("clusterbook", "head"):
        depends["names"] = [names_of(dataset) for dataset in datasets]
    if released:  # wherever the files are
        depends["release"] = released_fingerprint(experiment.release, experiment.head)
    parts = [Path(experiment.folder).name or experiment.dataset, experiment.backbone]
    if "baseline" not in stage and stage != "clusterbook":
        parts.append(experiment.head)
    parts.append("release" if released else f"s{experiment.seed}")
    return artefact_folder(experiment.run_dir, stage, "-".join(parts), depends)


def peak_mb(accelerator: Accelerator) -> int | None:
    """The most memory so far, in MB: of this process, on a GPU of its tensors there; None where nobody counts it."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device) // 10**6
    with contextlib.suppress(ImportError):  # Windows has none
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; on macOS bytes
        return most // 10**6 if sys.platform == "darwin" else most * 1024 // 10**6
    return None


def names_of(dataset: SegmentationDataset | Opened) -> dict[str, list]:
    """The classes' names and colours, as records hold them."""
    return {"classes": dataset.classes, "colors": dataset.colors.tolist()}
