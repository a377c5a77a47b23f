"""Where labels enter: weights trained with the real labels against weights trained with replaced ones.

    python -m workflow.labels real.pth replaced.pth --start start.pth --again real_again.pth

Two trainings from the same seed that differ in their labels alone end with the same bits if no label has reached the
weights. `label_share` runs them. The command compares the checkpoints of a program that was run in another way: with
the real labels, with replaced ones, before the first update, and with the real labels once more.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from cause_lib.config import Experiment
from cause_lib.data import SegmentationDataset
from cause_lib.errors import InputError
from cause_lib.runs.store import load_tensors
from cause_lib.stages import fit_head, fit_probe
from cause_lib.weights import read_tensors

Weights = Mapping[str, Tensor]


class Share(NamedTuple):
    """What labels do to one part of the weights; `share` is evidence only where it is above `floor`."""

    largest: float  # largest absolute difference of a weight
    share: float  # ||replaced - real|| / ||real - start||
    floor: float  # the same between two trainings with the real labels; 0: reproducible bit for bit


def label_share(train: Callable[[Any], tuple[Weights, Weights]], labels: Any, replaced: Any = None) -> dict[str, Share]:
    """How far labels move what is evaluated: trains twice with `labels` and once with `replaced`.

    Args:
        train: labels -> (start, end), weights by name before and after training, any shapes and dtypes. It seeds all
            that is random, runs on a CPU, and includes whatever chooses among checkpoints or settings.
        labels: what `train` takes, such as class ids (b, h, w) int64, -1 void.
        replaced: the same with other values; None: zeros, for `labels` that are one tensor.

    Returns:
        For each part a `Share`; a part has the names that agree up to the first dot: `head.f1.weight` is of `head`.

    Raises:
        ValueError: nothing was replaced, or the trainings end with other names, other shapes or no finite numbers.

    Examples:
        >>> def train(labels, detach):
        ...     torch.manual_seed(0)
        ...     head, probe, x = torch.nn.Linear(8, 4), torch.nn.Linear(4, 3), torch.randn(32, 8)
        ...     start = {"head.weight": head.weight.detach().clone()}
        ...     optimizer = torch.optim.Adam([*head.parameters(), *probe.parameters()])
        ...     for _ in range(5):
        ...         features = head(x)
        ...         seen = probe(features.detach() if detach else features)
        ...         loss = features.square().mean() + torch.nn.functional.cross_entropy(seen, labels)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...     return start, {"head.weight": head.weight.detach()}
        >>> label_share(lambda labels: train(labels, detach=True), torch.arange(32) % 3)
        {'head': Share(largest=0.0, share=0.0, floor=0.0)}
        >>> label_share(lambda labels: train(labels, detach=False), torch.arange(32) % 3)["head"].share > 0
        True
    """
    other = torch.zeros_like(labels) if replaced is None else replaced
    if isinstance(other, Tensor) and torch.equal(other, labels):
        raise InputError("The replaced labels are the labels: replace them by others.")
    start, real = train(labels)
    shares = compare(real, train(other)[1], start, again=train(labels)[1])
    if not_same := [part for part, found in shares.items() if found.floor]:
        warnings.warn(f"The same labels gave other weights ({', '.join(not_same)}): training is not reproducible, and "
                      "a share says something only where it is well above the floor.", stacklevel=2)
    return shares


def compare(real: Weights, replaced: Weights, start: Weights | None = None,
            again: Weights | None = None) -> dict[str, Share]:
    """The shares of `label_share`, from weights.

    Args:
        real, replaced: weights by name, trained with the labels and with others.
        start: before the first update; None: zeros, so that shares are of the weights' own length.
        again: trained with the labels once more, for the floor; None: taken to be `real`.
    """
    start = {name: torch.zeros_like(value) for name, value in real.items()} if start is None else start
    sets = {"real": real, "replaced": replaced, "start": start, "again": real if again is None else again}
    for what, weights in sets.items():
        if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in real.items()}:
            raise InputError(f"The weights '{what}' have other names or shapes than 'real': compare one architecture.")
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise InputError(f"The weights '{what}' are not all finite: the training diverged.")
    shares = {}
    for part in dict.fromkeys(name.split(".")[0] for name in real):
        names = [name for name in real if name.split(".")[0] == part]
        whole = {what: torch.cat([weights[name].detach().double().flatten() for name in names])
                 for what, weights in sets.items()}
        moved, floor = whole["replaced"] - whole["real"], whole["again"] - whole["real"]
        way = (whole["real"] - whole["start"]).norm()
        shares[part] = Share(float(moved.abs().max()),
                             *(float(apart.norm() / way) if apart.any() else 0.0 for apart in (moved, floor)))
    return shares


def training_of(experiment: Experiment) -> Callable[[Callable[[Tensor], Tensor]], tuple[Weights, Weights]]:
    """A `train` for `label_share`: steps 2 and 3 of an experiment on the CPU, in a folder that is thrown away.

    It takes a function of label maps (h, w) int64 in place of labels, and gives the parts `head 2` and `head 3`, the
    head after steps 2 and 3, both from the first weights on, and `centroids`, those trained by modularity.
    """
    def train(change: Callable[[Tensor], Tensor]) -> tuple[Weights, Weights]:
        def changed(dataset: SegmentationDataset, place: int) -> dict[str, Any]:
            item = read(dataset, place)
            return item | {"label": change(item["label"])}

        read = SegmentationDataset.__getitem__
        patched = mock.patch.object(SegmentationDataset, "__getitem__", changed)
        with tempfile.TemporaryDirectory() as runs, patched:
            run = experiment.replace(run_dir=runs, device="cpu", num_workers=0)
            untrained = run.replace(head_steps=0)
            first, head = (load_tensors(fit_head(each) / "head.safetensors") for each in (untrained, run))
            at_0, probe = (fit_probe(each) for each in (run.replace(probe_steps=0), run))
            start = {"head 2": first, "head 3": first, "centroids": load_tensors(at_0 / "probe.safetensors")}
            end = {"head 2": head, "head 3": load_tensors(probe / "head.safetensors"),
                   "centroids": load_tensors(probe / "probe.safetensors")}
        return tuple({f"{part}.{name}": value for part, tensors in weights.items() for name, value in tensors.items()
                      if part != "centroids" or name == "modularity"} for weights in (start, end))

    return train


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compares checkpoints trained with real and with replaced labels.")
    parser.add_argument("real", type=Path, help="trained with the labels: a state dict (.pth) or .safetensors")
    parser.add_argument("replaced", type=Path, help="trained with other labels, all else the same")
    parser.add_argument("--start", type=Path, help="before the first update; else shares are of the weights' length")
    parser.add_argument("--again", type=Path, help="trained with the labels once more, for the floor")
    files = [path and read_tensors(path, ("state_dict", "model")) for path in vars(parser.parse_args()).values()]
    print(f"{'part':24} {'largest':>10} {'share':>9} {'floor':>9}")
    for name, found in compare(*files).items():
        print(f"{name:24} {found.largest:10.2e} {found.share:9.2%} {found.floor:9.2%}")
