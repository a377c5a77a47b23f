"""The files that the authors of CAUSE released, as our modules.

    modular.npy            the clusterbook, (k, d)
    segment_{mlp,tr}.pth   head, projection_head (student), head_ema, projection_head_ema (teacher), linear (a probe)
    cluster_{mlp,tr}.pth   codebook (k, d), the clusterbook again, and cluster_probe (c, r), the centroids

The teacher `head_ema` is the head that is judged. Every key of a file is accounted for, its shape too: the student and
the projections must be whole, though nothing needs them. Their 1 x 1 convolutions (r, d, 1, 1) are our linear layers
(r, d). No pickle is executed. Names as in the authors' code at `SOURCE`; formulas in heads.py and probes.py.
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cause_lib.clusterbook import Clusterbook
from cause_lib.errors import InputError, NotFound
from cause_lib.heads import MLPHead, TRHead
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.saved import refused, restore_head, restore_probe
from cause_lib.weights import file_sha256, read_tensors, refuse_misfits, strip_prefixes

SOURCE = "https://github.com/ByungKwanLee/Causal-Unsupervised-Segmentation"


class Released(NamedTuple):
    """What the authors released for one data set, backbone and head; all frozen, float32, on the CPU."""

    head: MLPHead | TRHead
    cluster: ClusterProbe
    linear: LinearProbe
    book: Clusterbook


def released_files(folder: str | Path, head: str) -> dict[str, Path]:
    """File name -> path of the three that a head (`mlp` or `tr`) needs; FileNotFoundError says which are missing."""
    names, place = ("modular.npy", f"segment_{head}.pth", f"cluster_{head}.pth"), Path(folder).expanduser()
    paths = {name: place / name for name in names}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise NotFound(f"{folder} has no {' and no '.join(missing)}: of the links in the tables at {SOURCE}, put "
                       f"modular.npy (from 'Concept ClusterBook'), segment_{head}.pth and cluster_{head}.pth (from "
                       "'Seg Head Parameter') into that folder.")
    return paths


def released_fingerprint(folder: str | Path, head: str) -> dict[str, str]:
    """File name -> SHA-256 (hex); raises as `released_files`."""
    return {name: file_sha256(path) for name, path in released_files(folder, head).items()}


def load_released(folder: str | Path, head: str = "tr") -> Released:
    """The authors' files of one row of their tables: the three in `folder` that a head (`mlp` or `tr`) needs.

    Raises:
        FileNotFoundError: as `released_files`. ValueError: a file that holds more than tensors, or whose keys or shapes
        are not those of the authors; the message names the file and the first of them.
    """
    book_path, segment_path, cluster_path = released_files(folder, head).values()
    prototypes = _read_prototypes(book_path)  # (k, d)
    segment, cluster = (strip_prefixes(read_tensors(path), ("module.",), path) for path in (segment_path, cluster_path))
    # the projections and the linear probe wrap one layer each, called f
    plain = {key: key.replace(".f.", ".") for key in segment}
    segment = {key if plain[key] in segment else plain[key]: value[..., 0, 0] if value.shape[2:] == (1, 1) else value
               for key, value in segment.items()}
    count, (num_classes, reduced_dim) = _size(segment, "head_ema.query_pos")[0], _size(segment, "linear.weight")
    grid = (math.isqrt(count),) * 2
    if math.prod(grid) != count:
        raise InputError(f"{segment_path} has {count} positions (head_ema.query_pos), and no square grid has so many "
                         "patches: put the authors' own file there.")
    with torch.device("meta"):
        ours = MLPHead(prototypes.shape[1], reduced_dim) if head == "mlp" else TRHead(
            torch.empty(prototypes.shape), grid, reduced_dim,
            hidden_dim=_size(segment, "head_ema.tr.linear1.weight")[0])
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items() if key != "clusterbook.prototypes"}
    # our key -> theirs: of TR, all but the positions is below `tr`, the MLP too
    theirs = {key: key if head == "mlp" or key == "query_pos" else f"tr.{key.removeprefix('mlp.')}" for key in shapes}
    width = _size(segment, "projection_head_ema.weight")[0]
    expected = {f"{group}.{theirs[key]}": shape for group in ("head", "head_ema") for key, shape in shapes.items()}
    for group, out in (("projection_head", width), ("projection_head_ema", width), ("linear", num_classes)):
        expected |= {f"{group}.weight": (out, reduced_dim), f"{group}.bias": (out,)}
    refuse_misfits(segment, expected, segment_path, f"CAUSE-{head.upper()}")
    refuse_misfits(cluster, {"codebook": tuple(prototypes.shape), "cluster_probe": (num_classes, reduced_dim)},
                   cluster_path, f"{book_path.name} and {segment_path.name}")
    if not torch.equal(cluster["codebook"].float(), prototypes):
        warnings.warn(f"{cluster_path} has another clusterbook than {book_path}, which is taken, as in the authors' "
                      "code.", stacklevel=2)
    segment = {key: value.float() for key, value in segment.items()}
    teacher = {key: segment[f"head_ema.{name}"] for key, name in theirs.items()}
    if head == "tr":
        teacher["clusterbook.prototypes"] = prototypes
    linear = restore_probe({key: segment[f"linear.{key}"] for key in ("weight", "bias")})
    centroids = restore_probe({"centroids": cluster["cluster_probe"].float()})
    return Released(restore_head(teacher, grid), centroids, linear, Clusterbook(prototypes))


def _read_prototypes(path: Path) -> Tensor:
    again = f"fetch it again from the links in the tables at {SOURCE}."
    with refused(f"{path} is no array that numpy reads without running code", again, (Exception,)):
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header that lies allocates nothing
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not array.size or array.dtype.kind != "f":
        found = f"{array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise InputError(f"{path} must hold prototypes (k, d), floating, not {found}: {again}")
    prototypes = torch.from_numpy(array.astype(np.float32))  # (k, d)
    refuse_misfits({"prototypes": prototypes}, {"prototypes": array.shape}, path, "a clusterbook")
    return prototypes


def _size(tensors: dict[str, Tensor], key: str) -> tuple[int, int]:
    """Widths that the file itself decides; 1 if the tensor is not there, which is found out when keys are compared."""
    return tuple(tensors[key].shape) if key in tensors and tensors[key].ndim == 2 else (1, 1)
