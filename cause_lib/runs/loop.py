"""The training loop of every stage: batches, progress bar, checkpoints; a loop that was killed goes on where it was.

Every random choice is drawn from (seed, what it is for, update) and from nothing else. A loop that starts again from
its checkpoint therefore ends with the same bits as one that was never stopped, without stored states of generators.

One loop trains any number of models on the same batches, each a `Run`: the tokens of a batch, which take most of the
time, are computed or read once and given to every model. Under `accelerate launch` each process has a part of every
batch (parallel.py), and the first process writes the checkpoints.

Written here because trainers of libraries (Lightning, transformers) resume with the states of random generators, to
other bits once a run is stopped within an epoch, and train one model a loop.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.clusterbook import thin_grid, thin_pictures
from cause_lib.config import Experiment
from cause_lib.errors import RunError
from cause_lib.runs.parallel import WHOLE, Part, part_of
from cause_lib.runs.saved import refused
from cause_lib.runs.store import checkpoint_path, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from cause_lib.runs.features import FrozenFeatures


def seed_of(*what: Any) -> int:
    """A seed of 63 bits from numbers and names."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big") >> 1


def seed_for(experiment: Experiment, *what: Any) -> int:
    """A seed of 63 bits for one random choice of a run."""
    return seed_of(experiment.seed, *what)


def generator_for(experiment: Experiment, *what: Any) -> torch.Generator:
    """A CPU generator for one random choice of a run."""
    return torch.Generator().manual_seed(seed_for(experiment, *what))


def refuse_precision(experiment: Experiment, device: str) -> None:
    """RuntimeError for fp16 on a device of type `cpu`: accelerate would compute, and record, something else."""
    if experiment.precision == "fp16" and device == "cpu":
        raise RunError('precision "fp16" needs a GPU, and this run is on the CPU: set precision to "no" or "bf16", or '
                       'device to "cuda" where there is one.')


def refuse_missing_device(experiment: Experiment) -> None:
    """RuntimeError where a GPU is asked for and there is none."""
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise RunError('device "cuda" was asked for, but there is no CUDA GPU here: set device to "auto" or "cpu".')
    if experiment.device == "mps" and not torch.backends.mps.is_available():
        raise RunError('device "mps" was asked for, but torch has no Apple GPU here: set device to "auto" or "cpu".')


def settled(experiment: Experiment) -> Experiment:
    """The run as it is computed and named here: `auto` is `bf16_backbone` where the device has bfloat16, else `no`."""
    if experiment.precision != "auto":
        return experiment
    on_gpu = experiment.device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        fast = torch.cuda.get_device_capability() >= (8, 0)
    else:  # not what torch can compute, but what this CPU has instructions for; None: nobody knows
        asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        fast = experiment.device in ("auto", "cpu") and any(has() for has in asked if has is not None)
    return experiment.replace(precision="bf16_backbone" if fast else "no")


@contextlib.contextmanager
def session(experiment: Experiment) -> Iterator[Accelerator]:
    """An Accelerator for the run's device and precision; global random numbers are as before when it ends."""
    refuse_missing_device(experiment)
    mixed = "no" if (precision := settled(experiment).precision) == "bf16_backbone" else precision
    AcceleratorState._reset_state(reset_partial_state=True)  # the device and precision of an earlier run would stick
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    patience = InitProcessGroupKwargs(timeout=datetime.timedelta(hours=6))  # while the first process fills the cache
    accelerator = Accelerator(cpu=experiment.device == "cpu" or several and not torch.cuda.is_available(),
                              mixed_precision=mixed, kwargs_handlers=[patience] if several else None)
    refuse_precision(experiment, accelerator.device.type)
    # None: all GPUs here; of several processes each looks at its own only.
    forked = None if not several else [accelerator.device] if accelerator.device.type == "cuda" else []
    deterministic = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=forked):
        try:
            if accelerator.device.type == "cpu":
                torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import its compiler
                torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; every number here is written
            yield accelerator
        finally:
            torch.set_deterministic_debug_mode(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def batches_for(experiment: Experiment, stage: str, views: int, steps: int) -> list[Tensor]:
    """For each update its views, (b,) int64: epoch after epoch in a new order, an incomplete last batch is dropped.

    The order is drawn from `order_seed`, b is at most all views, and the batches of fewer steps are the first of more.
    """
    size = min(experiment.batch_size, views)
    batches: list[Tensor] = []
    while len(batches) < steps:
        drawn = torch.Generator().manual_seed(seed_of(experiment.order_seed, stage, "epoch", len(batches)))
        batches += torch.randperm(views, generator=drawn)[:views - views % size].split(size)
    return batches[:steps]


def kept_patches(experiment: Experiment, grid: tuple[int, int], generator: torch.Generator, size: int,
                 part: Part = WHOLE) -> Tensor:
    """The patches of a batch of `size` pictures that take part in a loss, by `thinning`: (n',), or of this part's
    pictures (b', n')."""
    if experiment.thinning == "batch":
        return thin_grid(grid, experiment.thin, generator)
    return part.cut(thin_pictures(grid, experiment.thin, generator, size))


@dataclass
class Run:
    """One model in a training loop. Of several processes each updates it by the tokens, and the loss, of its part."""

    experiment: Experiment
    folder: Path  # where its artefact will go, its checkpoint beside that
    steps: int  # updates to make
    state: dict[str, Any]  # what learns or remembers, by name; each has state_dict() and load_state_dict()
    optimizer: torch.optim.Optimizer
    update: Callable[[Tensor, int, Part], Tensor]  # (tokens, step, part) -> detached loss; tokens stay as they are
    scaler: Any = None  # of fp16 losses, one a model; None in other precisions
    done: int = field(default=0, init=False)  # updates
    seconds: float = field(default=0.0, init=False)  # that they took
    losses: Tensor = field(init=False)  # (steps,) float32

    @property
    def history(self) -> dict[str, list]:
        """Updates, counted from 1, and their losses."""
        return {"step": list(range(1, self.steps + 1)), "loss": [round(x, 7) for x in self.losses.tolist()]}

    def save(self) -> None:
        """Replace the checkpoint."""
        parts = {name: part.state_dict() for name, part in self.state.items()}
        parts |= {f"optimizer/{i}": slots for i, slots in self.optimizer.state_dict()["state"].items()}
        tensors = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.items()}
        state = {"done": self.done, "seconds": self.seconds, "scaler": self.scaler and self.scaler.state_dict()}
        save_checkpoint(self.folder, state, tensors | {"losses": self.losses})

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one; ValueError if it belongs to another model."""
        if (saved := load_checkpoint(self.folder)) is None:
            return
        record, tensors = saved
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            part, _, key = name.rpartition("/")
            parts[part][key] = value
        with refused(f"The checkpoint {checkpoint_path(self.folder)} is not of this run", "remove it."):
            for name, part in self.state.items():
                part.load_state_dict(parts[name])
            slots = {int(name.split("/")[1]): part for name, part in parts.items() if name.startswith("optimizer/")}
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
            if record["scaler"] is not None:
                self.scaler.load_state_dict(record["scaler"])
            self.losses.copy_(tensors["losses"])
            self.done, self.seconds = record["done"], record["seconds"]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None, scaler: Any = None,
            part: Part = WHOLE) -> None:
    """One step of the optimiser down the loss, summed over all processes' parts; `clip` bounds the norm of the gradient
    by the first of the optimiser's groups."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    (loss if scaler is None else scaler.scale(loss)).backward()
    part.total_gradients(parameters)
    if scaler is not None:
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def train(runs: Sequence[Run], stage: str, accelerator: Accelerator, features: FrozenFeatures, *,
          thinned: bool = False) -> None:
    """The loop of every training stage: batches, bar, checkpoints, until every run has made its updates.

    Each run ends with the bits that it would end with alone. After a kill the loop goes on from the fewest updates
    done; runs that were further wait until it reaches them.

    Args:
        runs: models that see the same batches: their experiments agree in `PASS_FIELDS`.
        stage: `clusterbook`, `head` or `probe`; random choices are drawn by it.
        features: where tokens come from.
        thinned: give `update` the tokens of `kept_patches` alone, (b, n', d), drawn as the first run draws.

    Raises:
        RuntimeError: a loss is no longer finite. That run's checkpoint is removed, the others' stay.
        ValueError: there are more processes than pictures in a batch.
    """
    for run in runs:
        run.losses = torch.zeros(run.steps, device=accelerator.device)
        run.restore()
    first, last, experiment = min(run.done for run in runs), max(run.steps for run in runs), runs[0].experiment
    batches = batches_for(experiment, stage, len(features), last)[first:]
    size = min(experiment.batch_size, len(features))
    part = part_of(accelerator, size)
    patches = (kept_patches(experiment, features.grid, generator_for(experiment, stage, step), size, part)
               for step in range(first, last)) if thinned else None
    then = time.monotonic()  # the wall clock may be set back
    with tqdm(total=last, initial=first, desc=stage, leave=False, disable=not accelerator.is_main_process) as bar:
        for step, tokens in zip(range(first, last), features.stream([part.cut(batch) for batch in batches], patches)):
            busy = [run for run in runs if run.done == step < run.steps]
            for run in busy:
                torch.manual_seed(seed_for(run.experiment, stage, step))  # dropout
                with part.taken():
                    run.losses[step] = part.total(run.update(tokens, step, part))
                run.done = step + 1
            spent, then = time.monotonic() - then, time.monotonic()
            for run in busy:
                run.seconds += spent
                if run.done % run.experiment.checkpoint_steps == 0 or run.done == run.steps:
                    if not bool(torch.isfinite(run.losses[:run.done]).all()):  # no checkpoint to go on from
                        checkpoint_path(run.folder).unlink(missing_ok=True)
                        raise RunError(f"Stage {stage} diverged: the loss of {run.folder.name} is not finite by update "
                                       f"{run.done}; lower lr ({run.experiment.lr}) or use precision 'no'.")
                    bar.set_postfix(loss=f"{float(run.losses[step]):.4f}")
                    if run.done < last and accelerator.is_main_process:
                        run.save()
            bar.update()
