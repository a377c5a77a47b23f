"""What stages leave, read again: clusterbooks, heads, read-outs."""

from __future__ import annotations

from pathlib import Path

from cause_lib.clusterbook import Clusterbook
from cause_lib.errors import InputError
from cause_lib.heads import MLPHead, TRHead, restore_head
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.store import load_tensors, read_record


def load_clusterbook(folder: str | Path) -> Clusterbook:
    """The clusterbook of a `fit_clusterbook` folder, on the CPU."""
    return Clusterbook(load_tensors(Path(folder) / "clusterbook.safetensors", ("prototypes",))["prototypes"])


def load_head(folder: str | Path) -> MLPHead | TRHead:
    """The head of a `fit_head` or `fit_probe` folder, on the CPU, frozen, in evaluation mode."""
    record, tensors = read_record(folder), load_tensors(Path(folder) / "head.safetensors")
    try:
        return restore_head(tensors, tuple(record["notes"]["grid"]), record["experiment"]["dropout"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} is damaged, its head.safetensors holds no head that fits its record "
                         f"({' '.join(str(error).split())[:200]}): remove it and run its stage again.") from error


def load_probe(folder: str | Path, readout: str = "modularity") -> ClusterProbe | LinearProbe:
    """A read-out of a `fit_probe` or `fit_baseline` folder, on the CPU, frozen.

    Raises:
        ValueError: the folder has no such read-out; the message names those it has.
    """
    tensors = load_tensors(Path(folder) / "probe.safetensors")
    names = sorted({name.split(".")[0] for name in tensors})
    if readout not in names:
        raise InputError(f"{folder} has no read-out {readout!r}; it has {', '.join(names)}: take one of these.")
    if readout == "linear":
        probe: ClusterProbe | LinearProbe = LinearProbe(*tensors["linear.weight"].shape)
        probe.load_state_dict({"weight": tensors["linear.weight"], "bias": tensors["linear.bias"]})
    else:
        probe = ClusterProbe(*tensors[readout].shape, centroids=tensors[readout])
    return probe.eval().requires_grad_(False)
