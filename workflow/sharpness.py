"""How sharp should the CRF's unary term be? The published softmax(3 cos), and other factors than 3.

    python -m workflow.sharpness experiments/rivals.csv cause_book/results/sharpness.csv earlier

Of the lines with these names that have been evaluated, with CRF or without, and of each of their read-outs, on at most
60 of the pictures that they are judged on, evenly spaced:

    sharpness   factor s of the cosines in softmax(s cos), the CRF's unary term; 0: without CRF
    miou        in per cent, with one matching for each s; labels enter here alone
    confidence  mean over pixels of the largest probability of softmax(s cos)
    agreement   share of pixels with the same cluster in the picture alone and in its mirror image alone, without CRF

A unary term is calibrated (Guo et al. 2017) where its confidence is its rate of right answers. Without labels the only
answer to compare with is that of another view: `agreement` is that rate, and the same for all s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from cause_lib import stages
from cause_lib.crf import dense_crf
from cause_lib.masks import log_scores, winners
from cause_lib.metrics import SegmentationMetrics
from cause_lib.probes import ClusterProbe, mirror_mean
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import session
from cause_lib.runs.store import write_whole
from workflow.results import with_kept
from workflow.rows import KEYS, Row, read_rows

FACTORS = (1, 2, 3, 5, 8, 12, 20, 40)
PICTURES = 60
COLUMNS = ["line", "row", "dataset", "images", "backbone", "readout", "seed", "sharpness", "miou", "confidence",
           "agreement", "date", "device", "library", "weights", "settings"]


@torch.no_grad()
def swept(row: Row, folder: Path) -> Iterator[dict[str, Any]]:
    """A line of COLUMNS for each read-out of an evaluated line and each sharpness, and for none."""
    run, record, stage = row.experiment, stages.read_record(folder), "baseline" if row.stage == "baseline" else "probe"
    trained = stages.find(run, stage)
    head = None if stage == "baseline" else stages.load_head(trained)
    names = [name for name in stages.collect_metrics(folder)["readout"].unique() if name != "linear"]
    with session(run) as accelerator:
        seen, mirror = (FrozenFeatures(run, "test", run.image_size, accelerator, mirrored=mirrored)
                        for mirrored in (False, True))
        data, device = seen.dataset, accelerator.device
        if not data.has_labels:
            return
        head = None if head is None else head.to(device)
        probes = [stages.load_probe(trained, name).to(device) for name in names]
        counted = {(name, factor): SegmentationMetrics(data.num_classes, real_classes=data.real_classes)
                   for name in names for factor in (0, *FACTORS)}
        confidence = torch.zeros(len(FACTORS), len(names), dtype=torch.float64, device=device)
        agreement = confidence[0].clone()  # (s,)
        batches = torch.arange(0, len(seen), max(1, -(-len(seen) // PICTURES))).split(1)
        size, smoothing = (run.image_size, run.image_size), 0.0 if head is None else run.smoothing
        for items, tokens, mirrored in zip(seen.pictures(batches), seen.stream(batches), mirror.stream(batches)):
            both = [part if head is None else head(part, seen.grid) for part in (tokens, mirrored)]  # (1, n, r)
            own, other = (alone(part, seen.grid, smoothing) for part in both)  # (1, r, rows, columns)
            here, there = (winners(part, size, probes) for part in (own, other.flip(-1)))  # (1, s, h, w)
            agreement += (here == there).double().mean(dim=(0, 2, 3))
            features = mirror_mean(*both, seen.grid, smoothing=smoothing)
            published = log_scores(features, size, probes)  # (1, s, c, h, w), 3 cos up to a constant of the pixel
            masks = {0: winners(features, size, probes)}
            for i, factor in enumerate(FACTORS):
                scores = F.log_softmax(published * (factor / ClusterProbe.sharpness), dim=2)
                confidence[i] += scores.amax(dim=2).exp().double().mean(dim=(0, 2, 3))
                masks[factor] = dense_crf(items["image"], scores, iterations=run.crf_iterations,
                                          picture=run.crf_picture).argmax(dim=2)
            for (name, factor), metrics in counted.items():
                metrics.update(masks[factor][:, names.index(name)], items["label"])
    for (name, factor), metrics in counted.items():
        of = names.index(name)
        yield {"line": row.number, "row": row.label, "dataset": record["dataset"]["name"], "images": len(batches),
               "backbone": run.backbone, "readout": name, "seed": run.seed, "sharpness": factor,
               "miou": 100 * metrics.compute()["miou"],
               "confidence": float(confidence[FACTORS.index(factor), of]) / len(batches) if factor else None,
               "agreement": float(agreement[of]) / len(batches), "date": record["date"], "device": record["device"],
               "library": record["library"], "weights": record["weights"]["sha256"], "settings": row.settings}


def alone(features: Tensor, grid: tuple[int, int], smoothing: float) -> Tensor:
    """Features (b, n, r) of one view as those of two are averaged and smoothed: (b, r, rows, columns) float32."""
    turned = features.unflatten(1, grid).flip(2).flatten(1, 2)  # as if of the mirror image: the mean changes nothing
    return mirror_mean(features, turned, grid, smoothing=smoothing)


def evaluated(row: Row) -> Path | None:
    """The folder of a line's evaluation, with CRF or without."""
    run, stage = row.experiment, KEYS[row.stage]
    return stages.find(run, stage) or stages.find(run.replace(crf=False), stage)


def main(source: str, target: str, *names: str) -> None:
    lines: list[dict[str, Any]] = []
    for row in read_rows(source):
        if row.label in names and row.stage != "rival" and (folder := evaluated(row)):
            if found := [*swept(row, folder)]:
                lines += found
                table = pd.DataFrame(lines, columns=COLUMNS).round({"miou": 2, "confidence": 4, "agreement": 4})
                write_whole(Path(target), with_kept(table, target).to_csv(index=False))
                print(f"line {row.number}, {row.label}, seed {row.experiment.seed}: {len(found)} results in {target}")
    if not lines:
        sys.exit(f"No line of {source} called {' or '.join(names) or 'nothing'} has been run here, with labels: run "
                 f"`make table TABLE={source}` first, and give names of its column row.")


if __name__ == "__main__":
    main(*sys.argv[1:])
