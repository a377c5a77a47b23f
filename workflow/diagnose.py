"""Who lives, and what it is worth, in runs that have been made: chapter 10's diagnosis as a table, whatever the pictures.

    python -m workflow.diagnose experiments/alive.csv cause_book/results/diagnosis.csv

Of every line of the table that is called `published` or `alive` and has been run, on the pictures it is judged on. Step
1 and the probe are trained once more by `usage.watch`, with the bits of the stages, to see what they did on the way.
The labels are asked here, to judge; nothing that was trained with them is kept. A line of the result is one number:

    subject     `prototypes`; `pairs` (of patches in the batches of step 2, by the run's thresholds); `centroids from
                random numbers`, `... k-means`, `... the classes` (the mean feature of each true class), on one head
    update      of step 1, or of the probe
    quantity    winning, effective, H, reached, purity, purity_by_chance, ami; others, positives, negatives, lonely
                (share of anchors without a positive), median (of D_M); miou, pacc (of patches)

If the file is there already, its lines stay for whatever this machine has no run of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cause_book.granularity import agreement, count_table, patch_labels
from cause_book.usage import class_means, modularity, neighbours, reached, seen_by, watch, wins
from cause_lib import stages
from cause_lib.clusterbook import Clusterbook, thin_grid
from cause_lib.config import Experiment
from cause_lib.metrics import SegmentationMetrics, effective_number
from cause_lib.probes import ClusterProbe
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import generator_for, seed_for, session
from cause_lib.runs.store import write_whole
from workflow.results import with_kept
from workflow.rows import Row, read_rows

COLUMNS = ["row", "dataset", "images", "backbone", "head", "seed", "subject", "update", "quantity", "value", "of", "date",
           "device", "library", "weights", "settings"]
LABELS = ("published", "alive")
STOPS, HEAD_BATCHES, DRAWS = 10, 8, 20  # looks at a training; batches of step 2; random tables for what chance gives

Line = tuple[str, int, str, float, float | None]  # subject, update, quantity, value, out of how many


def diagnose(run: Experiment) -> list[Line]:
    """The numbers of one run whose probe has been fitted, see above.

    Raises:
        ValueError: the pictures that it is judged on have no labels.
    """
    probe = stages.fit_probe(run)
    head, book = stages.load_head(probe), stages.load_clusterbook(stages.fit_clusterbook(run))
    with session(run) as accelerator:
        device = accelerator.device
        seen = FrozenFeatures(run, "test", run.image_size, accelerator)
        if not seen.dataset.has_labels:
            raise ValueError(f"{run.dataset} {run.folder} has no labels, and a diagnosis is judged by them.")
        batches = torch.arange(len(seen)).split(run.batch_size)
        tokens = torch.cat([part.cpu() for part in seen.stream(batches)])  # (g, n, d)
        features = torch.cat([head.to(device)(part, seen.grid).cpu() for part in seen.stream(batches)])  # (g, n, r)
        labels = torch.cat([items["label"].cpu() for items in seen.pictures(batches)])  # (g, h, w)
        labels = patch_labels(labels, run.image_size // seen.grid[0])  # (g, n)
        kept = thin_grid(seen.grid, run.thin, generator_for(run, "diagnosis"))  # (n',)
        wide = FrozenFeatures(run, "train", run.image_size, accelerator)  # what step 1 sees
        narrow = FrozenFeatures(run, "train", run.train_size, accelerator)  # what head and probe see
        lines = list(_prototypes(run, book, wide, tokens, labels, kept, device))
        lines += _pairs(run, book, [book.assign(part.cpu()) for part in seen_by(run, "head", narrow, HEAD_BATCHES)])
        torch.manual_seed(seed_for(run, "probe"))
        num_classes = seen.dataset.num_classes
        starts = {"random numbers": ClusterProbe(num_classes, run.reduced_dim).centroids,
                  "k-means": stages.load_probe(probe, "kmeans").centroids,
                  "the classes": class_means(features, labels, num_classes)}
        for name, start in starts.items():
            stream = seen_by(run, "probe", narrow, run.probe_steps, head)
            lines += _centroids(run, name, watch(start.to(device), stream, lr=run.lr,
                                                 every=max(1, run.probe_steps // STOPS)), features, labels, kept)
    return lines


def _prototypes(run: Experiment, book: Clusterbook, views: FrozenFeatures, tokens: Tensor, labels: Tensor, kept: Tensor,
                device: torch.device) -> Iterator[Line]:
    updates, each = [0], book.prototypes[None]  # with no update of step 1, the start is the end
    if run.concept_steps:
        updates, each = watch(stages.first_prototypes(run, views).to(device),
                              seen_by(run, "clusterbook", views, run.concept_steps), lr=run.lr,
                              temperature=run.modularity_temperature, every=max(1, run.concept_steps // STOPS))
    batch = next(seen_by(run, "clusterbook", views, 1)).cpu()  # (b, n', d)
    for update, prototypes in zip(updates, each.cpu()):
        won = wins(tokens, prototypes)
        yield "prototypes", update, "winning", int((won > 0).sum()), len(won)
        yield "prototypes", update, "effective", effective_number(won), len(won)
        yield "prototypes", update, "H", modularity(tokens[:, kept], prototypes, run.modularity_temperature), None
        if update in (updates[0], updates[-1]):
            yield "prototypes", update, "reached", int(reached(batch, prototypes).sum()), len(won)
    table = count_table(book.assign(tokens), labels, len(book.prototypes), int(labels.max()) + 1)
    numbers = agreement(table, draws=DRAWS)
    for quantity in ("purity", "purity_by_chance", "ami"):
        yield "prototypes", updates[-1], quantity, numbers[quantity], None


def _pairs(run: Experiment, book: Clusterbook, batches: list[Tensor]) -> Iterator[Line]:
    thresholds = stages.thresholds_for(run, book)
    counts = [neighbours(concepts, book.similarity, *thresholds) for concepts in batches]  # of (b, n') each
    positives, negatives = (torch.cat([pair[i].flatten() for pair in counts]).double() for i in (0, 1))
    others = float(sum(len(concepts.flatten()) ** 2 for concepts in batches) / len(positives) - 1)
    # torch's lower median: Clusterbook.thresholds(0.5, 0.5) rounds to its neighbour, other digits than those kept so far
    off_diagonal = book.similarity[~torch.eye(len(book.similarity), dtype=torch.bool)]
    yield "pairs", 0, "others", others, None
    yield "pairs", 0, "positives", float(positives.mean()), others
    yield "pairs", 0, "negatives", float(negatives.mean()), others
    yield "pairs", 0, "lonely", float((positives == 0).double().mean()), None
    yield "pairs", 0, "median", float(off_diagonal.median()), None


def _centroids(run: Experiment, name: str, watched: tuple[list[int], Tensor], features: Tensor, labels: Tensor,
               kept: Tensor) -> Iterator[Line]:
    for update, centroids in zip(*watched):
        centroids = centroids.cpu()
        metrics = SegmentationMetrics(len(centroids))
        metrics.update(Clusterbook(centroids).assign(features), labels)
        numbers, subject = metrics.compute(), f"centroids from {name}"
        yield subject, update, "winning", numbers["clusters_used"], len(centroids)
        yield subject, update, "H", modularity(features[:, kept], centroids, run.modularity_temperature), None
        yield subject, update, "miou", numbers["miou"], None
        yield subject, update, "pacc", numbers["pacc"], None


def diagnosis(rows: list[Row]) -> Iterator[pd.DataFrame]:
    """For each line of the table that is asked and has been run, its numbers: COLUMNS."""
    for row in rows:
        run = row.experiment
        done = [run.replace(crf=crf) for crf in (True, False) if stages.find(run.replace(crf=crf), "evaluation")]
        if row.label not in LABELS or not done:
            continue
        record = stages.read_record(stages.evaluate(done[0]))
        made: dict[str, Any] = {
            "row": row.label, "dataset": record["dataset"]["name"], "images": record["dataset"]["images"],
            "backbone": run.backbone, "head": run.head, "seed": run.seed, "date": record["date"],
            "device": record["device"], "library": record["library"], "weights": record["weights"]["sha256"],
            "settings": row.settings}
        lines = pd.DataFrame(diagnose(run), columns=["subject", "update", "quantity", "value", "of"])
        yield lines.assign(**made)[COLUMNS].round({"value": 6, "of": 2})


def main(source: str, target: str) -> None:
    for lines in diagnosis(read_rows(source)):  # each is kept at once: a diagnosis takes minutes
        write_whole(Path(target), with_kept(lines, target).to_csv(index=False))
        print(f"{lines['dataset'][0]}, {lines['row'][0]}, seed {lines['seed'][0]}: {len(lines)} numbers in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
