"""Training loops that can be killed: batches, a bar, checkpoints, and random choices that depend on nothing else.

Every random choice is drawn from (seed, what it is for, update). A loop that starts again from its checkpoint therefore
ends with the same bits as one that never stopped, and no state of a random generator is ever stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.artefacts import checkpoint_path, load_checkpoint, save_checkpoint
from cause_lib.clusterbook import thin_grid
from cause_lib.config import Experiment
from cause_lib.features import FrozenFeatures


@contextlib.contextmanager
def session(experiment: Experiment) -> Iterator[Accelerator]:
    """An Accelerator for the run's device and precision; global random numbers are as before when it ends."""
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError('device "cuda" was asked for, but there is no CUDA GPU here: set device to "auto" or "cpu".')
    AcceleratorState._reset_state(reset_partial_state=True)  # the device and precision of an earlier run would stick
    accelerator = Accelerator(cpu=experiment.device == "cpu", mixed_precision=experiment.precision)
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng():
        try:
            if accelerator.device.type == "cpu":
                torch.use_deterministic_algorithms(True)
                torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; every number here is written
            yield accelerator
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def seed_for(experiment: Experiment, *what: Any) -> int:
    """A seed of 63 bits for one random choice of a run."""
    digest = hashlib.sha256(repr((experiment.seed, *what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(experiment: Experiment, *what: Any) -> torch.Generator:
    """A CPU generator for one random choice of a run."""
    return torch.Generator().manual_seed(seed_for(experiment, *what))


def batches_for(experiment: Experiment, stage: str, views: int, steps: int) -> list[Tensor]:
    """For each update its views, (b,) int64: epoch after epoch in a new order, what is left over of one left out."""
    size = min(experiment.batch_size, views)
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = torch.randperm(views, generator=generator_for(experiment, stage, "epoch", len(batches)))
        batches += order[:views - views % size].split(size)
    return batches[:steps]


def descend(accelerator: Accelerator, optimizer: torch.optim.Optimizer, loss: Tensor,
            clip: float | None = None) -> None:
    """One step of the optimiser down `loss`, the gradient's norm bounded by `clip`, its scale undone for fp16."""
    optimizer.zero_grad()
    accelerator.backward(loss)
    scaler = accelerator.scaler if accelerator.mixed_precision == "fp16" else None
    if scaler is not None:
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def train(experiment: Experiment, stage: str, folder: Path, accelerator: Accelerator, features: FrozenFeatures,
           steps: int, optimizer: torch.optim.Optimizer, state: dict[str, Any],
           update: Callable[[Tensor, int], Tensor], *, thinned: bool = False) -> dict[str, Any]:
    """The loop of every training stage: batches, bar, checkpoints.

    Args:
        state: what learns or remembers, by name; each has state_dict() and load_state_dict().
        update: (tokens, step) -> detached loss; makes one update.
        thinned: give `update` only the thinned grid's tokens, (b, n', d), instead of all, (b, n, d).

    Raises:
        RuntimeError: the loss is no longer finite.
    """
    started, before = time.time(), 0.0
    losses = torch.zeros(steps, device=accelerator.device)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        done, before = _restore(saved, state, optimizer, losses, accelerator)
    batches = batches_for(experiment, stage, len(features), steps)
    patches = None
    if thinned:
        patches = [thin_grid(features.grid, experiment.thin, generator_for(experiment, stage, step))
                   for step in range(done, steps)]
    bar = tqdm(total=steps, initial=done, desc=stage, leave=False)
    for step, tokens in zip(range(done, steps), features.stream(batches[done:], patches)):
        torch.manual_seed(seed_for(experiment, stage, step))  # dropout
        losses[step] = update(tokens, step)
        bar.update()
        if (step + 1) % experiment.checkpoint_steps == 0 or step + 1 == steps:
            if not bool(torch.isfinite(losses[:step + 1]).all()):
                checkpoint_path(folder).unlink(missing_ok=True)
                raise RuntimeError(f"Stage {stage} diverged: the loss is not finite by update {step + 1}; "
                                   f"lower lr ({experiment.lr}) or use precision 'no'.")
            bar.set_postfix(loss=f"{float(losses[step]):.4f}")
            if step + 1 < steps:
                _save(folder, state, optimizer, losses, step + 1, before + time.time() - started, accelerator)
    bar.close()
    return {"seconds": before + time.time() - started,
            "history": {"step": list(range(1, steps + 1)), "loss": [round(x, 7) for x in losses.tolist()]}}


def _save(folder: Path, state: dict[str, Any], optimizer: torch.optim.Optimizer, losses: Tensor, done: int,
          seconds: float, accelerator: Accelerator) -> None:
    tensors = {f"{name}/{key}": value for name, part in state.items() for key, value in part.state_dict().items()}
    tensors |= {f"optimizer/{i}/{key}": value for i, slots in optimizer.state_dict()["state"].items()
                for key, value in slots.items()}
    scaler = accelerator.scaler.state_dict() if accelerator.mixed_precision == "fp16" else None
    save_checkpoint(folder, {"done": done, "seconds": seconds, "scaler": scaler}, tensors | {"losses": losses})


def _restore(saved: tuple[dict, dict[str, Tensor]], state: dict[str, Any], optimizer: torch.optim.Optimizer,
             losses: Tensor, accelerator: Accelerator) -> tuple[int, float]:
    record, tensors = saved
    for name, part in state.items():
        part.load_state_dict({key.split("/", 1)[1]: value for key, value in tensors.items()
                              if key.startswith(f"{name}/")})
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if record["scaler"] is not None:
        accelerator.scaler.load_state_dict(record["scaler"])
    losses.copy_(tensors["losses"])
    return record["done"], record["seconds"]
