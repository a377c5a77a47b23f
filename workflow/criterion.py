"""Can runs be ranked without labels? Numbers that need none, of every run of a table, beside its mIoU.

    python -m workflow.criterion experiments/earlier.csv cause_book/results/criterion.csv

Of every line that has been run, and each of its read-outs, on the patches of the pictures that it is judged on:

    explained   share of the variance of the tokens, at unit length, that lies between the clusters
    agreement   mean normalised mutual information with the clusters of the other lines, of the same pictures and
                backbone: all their seeds and read-outs
    seeds       the same with the other seeds of this line and read-out
    mirrored    the same with the clusters of the mirrored pictures
    modularity  of the clusters, Newman's, on each picture's positive cosines of tokens; the mean over pictures
    effective   effective number of clusters, exp of the entropy of their shares

The labels, if there are any, enter `miou` alone, from the evaluation, in per cent, without CRF. Tokens are the line's
own, those that its head was trained on. Pictures and backbones that this machine has no run of keep their lines in the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib import stages
from cause_lib.metrics import count, effective_number
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session
from cause_lib.runs.store import write_whole
from workflow.results import with_kept
from workflow.rows import KEYS, Row, read_rows

CRITERIA = ["explained", "agreement", "seeds", "mirrored", "modularity", "effective"]
COLUMNS = ["line", "row", "dataset", "images", "backbone", "readout", "seed", "miou", *CRITERIA, "date", "device",
           "library", "weights", "settings"]


def shared_information(labellings: Tensor) -> Tensor:
    """Normalised mutual information of every two labellings of the same points, as scikit-learn's: 2 I / (H + H').

    Args:
        labellings: (l, m) int64, the cluster of each of m points, from 0, by each of l labellings.

    Returns:
        (l, l) float64 in [0, 1].

    Examples:
        >>> shared_information(torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]])).round(decimals=3)
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)
    """
    sizes = labellings.amax(dim=1) + 1
    ids = labellings + (sizes.cumsum(0) - sizes)[:, None]  # clusters of all labellings, numbered through
    owner = torch.arange(len(sizes)).repeat_interleave(sizes)
    joint = torch.zeros(len(owner), len(owner), dtype=torch.float64)
    for part in ids.split(4096, dim=1):  # counts in a part are exact in float32
        member = torch.zeros(part.shape[1], len(owner)).scatter_(1, part.T, 1)
        joint += member.T @ member
    joint /= labellings.shape[1]
    entropy = torch.zeros(len(sizes), len(owner), dtype=joint.dtype).index_add_(0, owner, -torch.xlogy(joint, joint))
    entropy = torch.zeros(len(sizes), len(sizes), dtype=joint.dtype).index_add_(1, owner, entropy)  # of every two
    own = entropy.diagonal()
    total = own[:, None] + own
    return torch.where(total > 0, 2 * (total - entropy) / total, 1).clamp(0, 1)


def explained(tokens: Tensor, clusters: Tensor) -> float:
    """Share of the variance of tokens (m, d) that lies between the clusters (m,) int64: in [0, 1]."""
    centred = tokens - tokens.mean(dim=0)
    sums = centred.new_zeros(int(clusters.max()) + 1, centred.shape[1]).index_add_(0, clusters, centred)
    sizes = count(clusters, len(sums)).clamp(min=1)
    return float((sums.square().sum(dim=1) / sizes).sum() / centred.square().sum())


def modularity(tokens: Tensor, clusters: Tensor) -> float:
    """Newman's modularity of clusters (b, n) int64 on the graph of a picture's positive cosines; the mean over b.

    tokens: (b, n, d) of unit length."""
    affinity = (tokens @ tokens.transpose(1, 2)).clamp(min=0)  # (b, n, n)
    degrees = affinity.sum(dim=2)
    total = degrees.sum(dim=1)
    member = F.one_hot(clusters, int(clusters.max()) + 1).to(tokens)  # (b, n, k)
    inside = (affinity @ member * member).sum(dim=(1, 2))
    expected = (degrees[:, None] @ member).square().sum(dim=(1, 2)) / total
    return float(((inside - expected) / total).mean())


@torch.no_grad()
def judged(row: Row, folder: Path) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Of each read-out of a line that has been evaluated: its numbers, and the clusters (g n,) of the patches."""
    run, record, stage = row.experiment, stages.read_record(folder), "baseline" if row.stage == "baseline" else "probe"
    head = None if stage == "baseline" else stages.load_head(stages.find(run, stage))
    with session(run) as accelerator:
        seen, mirror = (FrozenFeatures(run, "test", run.image_size, accelerator, mirrored=mirrored)
                        for mirrored in (False, True))
        batches = torch.arange(len(seen)).split(run.batch_size)
        tokens, mirrored = ([part.cpu() for part in each.stream(batches)] for each in (seen, mirror))  # (b, n, d) each
    features, turned = (parts if head is None else [head(part, seen.grid) for part in parts]
                        for parts in (tokens, mirrored))
    unit = [F.normalize(part, dim=-1) for part in tokens]
    points = torch.cat(unit).flatten(0, 1)  # (g n, d)
    for result in stages.collect_metrics(folder).itertuples():
        if result.crf or result.readout == "linear":  # a linear probe has seen labels
            continue
        probe = stages.load_probe(stages.find(run, stage), result.readout)
        here, there = (torch.cat([probe(part).argmax(dim=-1) for part in parts]) for parts in (features, turned))
        back = there.unflatten(1, seen.grid).flip(2).flatten()
        each = [modularity(part, clusters) * len(part) for part, clusters in zip(unit, here.split(run.batch_size))]
        yield {
            "line": row.number, "row": row.label, "dataset": record["dataset"]["name"], "images": len(here),
            "backbone": run.backbone, "readout": result.readout, "seed": run.seed,
            "miou": None if pd.isna(result.miou) else 100 * result.miou,  # without labels
            "explained": explained(points, here.flatten()),
            "mirrored": float(shared_information(torch.stack([here.flatten(), back]))[0, 1]),
            "modularity": sum(each) / len(here), "effective": effective_number(count(here, int(here.max()) + 1)),
            "date": record["date"], "device": record["device"], "library": record["library"],
            "weights": record["weights"]["sha256"], "settings": row.settings}, here.flatten()


def compared(lines: list[dict[str, Any]], clusters: list[Tensor]) -> pd.DataFrame:
    """The lines of the same pictures and backbone, with what their clusters share: COLUMNS."""
    table, shared = pd.DataFrame(lines), shared_information(torch.stack(clusters)).numpy()
    row, kind, seed = (of.to_numpy() for of in (table["row"], table["row"] + "\n" + table["readout"], table["seed"]))
    for name, others in (("agreement", row[:, None] != row),
                         ("seeds", (kind[:, None] == kind) & (seed[:, None] != seed))):
        with np.errstate(invalid="ignore"):  # NaN where there is no other
            table[name] = (shared * others).sum(axis=1) / others.sum(axis=1)
    return table[COLUMNS].round({"miou": 2} | dict.fromkeys(CRITERIA, 5))


def criteria(rows: list[Row]) -> Iterator[pd.DataFrame]:
    """A table for every set of pictures and backbone that has been run."""
    blocks: dict[tuple[str, str, str], list[tuple[dict[str, Any], Tensor]]] = {}
    for row in rows:
        run, stage = row.experiment, KEYS[row.stage]
        if row.stage != "rival" and (folder := stages.find(run, stage)):
            blocks.setdefault((run.dataset, run.folder, run.backbone), []).extend(judged(row, folder))
    yield from (compared(*map(list, zip(*block))) for block in blocks.values() if block)


def main(source: str, target: str) -> None:
    lines = None
    for lines in criteria(read_rows(source)):
        write_whole(Path(target), with_kept(lines, target).to_csv(index=False))
        print(f"{lines['dataset'][0]}, {lines['backbone'][0]}: {len(lines)} results of {lines['line'].nunique()} lines "
              f"in {target}")
    if lines is None:
        sys.exit(f"No line of {source} has been run here: run `make table TABLE={source}` first.")


if __name__ == "__main__":
    main(*sys.argv[1:])
