"""Judging: a mask of every test picture by every read-out (masks.py), counted, matched and kept.

One Hungarian matching over the whole test split gives mIoU and pixel accuracy (metrics.py), without and with the CRF.
The counts, and the masks of a few pictures, stay on the device to the end, so that no batch waits for another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.crf import crf_backends
from cause_lib.data import SegmentationDataset
from cause_lib.data.labels import what_is_odd
from cause_lib.masks import read_out
from cause_lib.metrics import SegmentationMetrics, count
from cause_lib.probes import mirror_mean
from cause_lib.runs import health
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.parallel import total_counts
from cause_lib.runs.saved import refused
from cause_lib.runs.stage import Making
from cause_lib.runs.store import checkpoint_path, load_checkpoint, load_tensors, save_checkpoint

GALLERY = 8  # pictures whose masks are kept


@dataclass
class Judged:
    """An evaluation under way: what it judges; from `begin` on, what it counts and keeps, by the names of its rows:
    `modularity`, `modularity.crf` and so on.

    Args:
        method: its name in tables.
        head: tokens -> features. None: the tokens themselves are read out, and never smoothed.
        readouts: name -> probe.
        book: whose concepts are counted, too.
        notes: kept in the record.

    Attributes: `rows` (name -> read-out, with CRF, metrics), `gallery` (name -> kept pictures and masks, of the test
    pictures `kept`), `wins` (k,), patches by their nearest prototype.
    """

    making: Making
    method: str
    head: nn.Module | None
    readouts: dict[str, nn.Module]
    book: Clusterbook | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def begin(self, dataset: SegmentationDataset, crf: bool) -> None:
        """Nothing counted yet, or what the checkpoint has: `done` pictures, and the seconds `before`."""
        experiment, device = self.making.experiment, self.making.accelerator.device
        for module in (self.head, self.book, *self.readouts.values()):
            if module is not None:
                module.to(device)
        size, places = experiment.image_size, min(GALLERY, len(dataset))
        self.rows = {name + ".crf" * with_crf: (name, with_crf, SegmentationMetrics(
            dataset.num_classes, match=name != "linear", real_classes=dataset.real_classes,
            pictures=len(dataset) * experiment.per_image))
            for name in self.readouts for with_crf in ((False, True) if crf else (False,))}
        self.kept = [i * len(dataset) // places for i in range(places)]
        self.gallery = {"image": torch.zeros(places, 3, size, size, dtype=torch.uint8, device=device)}
        self.gallery |= {name: torch.zeros(places, size, size, dtype=torch.int16, device=device)
                         for name in ("label", *self.rows)}
        self.wins = torch.zeros(experiment.num_concepts, dtype=torch.int64, device=device)
        self.done, self.before = 0, 0.0
        if (saved := load_checkpoint(self.making.folder)) is not None:
            with refused(f"The checkpoint {checkpoint_path(self.making.folder)} is not of this run", "remove it."):
                if self.making.accelerator.is_main_process:  # of several processes the others begin at 0
                    self.take(saved[1])
                self.done, self.before = saved[0]["done"], saved[0]["seconds"]

    def add(self, first: int, items: dict[str, Tensor], tokens: Tensor,
            masks: dict[bool, Tensor]) -> dict[bool, Tensor]:
        """A batch of test pictures from number `first` on: tokens (b, n, d) and masks (b, s, h, w), the first of which
        are of these read-outs. Returns the others."""
        new = {"image": (items["image"] * 255).round(), "label": items["label"]}  # (b, 3, h, w), (b, h, w)
        for row, (name, with_crf, metrics) in self.rows.items():
            new[row] = masks[with_crf][:, list(self.readouts).index(name)]  # (b, h, w)
            metrics.update(new[row], items["label"], first)
        for place, i in enumerate(self.kept):
            if first <= i < first + len(items["label"]):
                for name, value in new.items():
                    self.gallery[name][place] = value[i - first]
        if self.book is not None:
            self.wins += count(self.book.assign(tokens), len(self.wins))
        return {with_crf: found[:, len(self.readouts):] for with_crf, found in masks.items()}

    def save(self, done: int, each: float) -> None:
        """Replace the checkpoint. The read-outs took so many seconds each."""
        tensors = total_counts(self.making.accelerator, self.tensors())
        if self.making.accelerator.is_main_process:
            spent = self.before + len(self.readouts) * each
            save_checkpoint(self.making.folder, {"done": done, "seconds": spent}, tensors)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by the names of the checkpoint."""
        return ({"wins": self.wins} | {f"gallery/{name}": value for name, value in self.gallery.items()}
                | {f"counts/{row}": metrics.counts for row, (*_, metrics) in self.rows.items()}
                | {f"alone/{row}": metrics.alone for row, (*_, metrics) in self.rows.items() if len(metrics.alone)})

    def take(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.wins = tensors["wins"].to(self.wins.device)
        self.gallery = {name: tensors[f"gallery/{name}"].to(self.wins.device) for name in self.gallery}
        for row, (*_, metrics) in self.rows.items():
            metrics.counts = tensors[f"counts/{row}"]
            metrics.alone = tensors.get(f"alone/{row}", metrics.alone)

    def report(self, seen: FrozenFeatures, each: float) -> None:
        """Numbers from the counts of all processes; writes the artefact. For `each` see `save`."""
        making, dataset, experiment = self.making, seen.dataset, self.making.experiment
        self.take(total_counts(making.accelerator, self.tensors()))
        gallery = {name: value.cpu() for name, value in self.gallery.items()} | {"index": torch.tensor(self.kept)}
        results, found = [], []
        real = {"num_classes": dataset.real_classes} if dataset.real_classes < dataset.num_classes else {}
        for row, (name, with_crf, counted) in self.rows.items():
            pixels, numbers, use = counted.pixels, counted.compute(), health.in_use(counted.pixels)
            results.append({"method": self.method, "readout": name, "crf": with_crf,
                            "num_clusters": dataset.num_classes} | real | numbers | {
                                "dead_clusters": (pixels == 0).nonzero().flatten().tolist(),
                                "dead_share": use["dead_share"], "effective_clusters": use["effective"]})
            if not with_crf:  # the CRF removes small regions by design
                found += health.of_clusters(name, pixels, experiment.recipe)
            gallery[row] = torch.tensor(numbers["assignment"], dtype=torch.int16)[gallery[row].long()]
        *pixels, void = counted.counts[:-1].view(dataset.num_classes, -1).sum(dim=0).tolist()  # of the labels, by class
        if dataset.has_labels and (said := what_is_odd(dict(enumerate(pixels)) | {-1: void}, dataset.classes)):
            found.append(said)
        metrics = {"results": results, "dataset": {
            "name": experiment.folder or experiment.dataset, "split": dataset.split, "images": len(dataset),
            "classes": dataset.classes, "colors": dataset.colors.tolist(),
            "labelled": dataset.has_labels and any(pixels),
            "skipped": {"count": len(dataset.skipped), "pictures": dict(dataset.skipped)}}}
        if self.book is not None:
            metrics["concepts"] = health.in_use(self.wins) | {"used": int((self.wins > 0).sum()),
                                                              "num_concepts": experiment.num_concepts}
        making.finish(seen, {"gallery": gallery}, self.notes, self.before + len(self.readouts) * each,
                      found=found, metrics=metrics)


def judge(judged: Sequence[Judged], features: Callable[..., FrozenFeatures] = FrozenFeatures) -> None:
    """Masks of every test picture by every read-out, without and with CRF, counted and matched; writes the artefacts.

    Args:
        judged: evaluations of one run, in one pass over its pictures. The seconds in the record of each are its part
            of those of the pass, by read-outs.
        features: opens the tokens, called as `FrozenFeatures` is.
    """
    started, experiment, accelerator = time.monotonic(), judged[0].making.experiment, judged[0].making.accelerator
    seen, mirror = (features(experiment, "test", experiment.image_size, accelerator, mirrored=mirrored)
                    for mirrored in (False, True))
    crf = experiment.crf and experiment.crf_backend in crf_backends()
    if experiment.crf and not crf:
        warnings.warn(f"{experiment.crf_backend} is not installed: the rows with CRF are left out.", stacklevel=3)
    for one in judged:
        one.begin(seen.dataset, crf)
    if len({one.done for one in judged}) > 1:  # one was stopped further on than the other
        for one in judged:
            judge([one], features)
        return
    total, done, readouts = len(seen.dataset), judged[0].done, sum(len(one.readouts) for one in judged)
    width = max(readouts * seen.dataset.num_classes,
                *(seen.dim if one.head is None else experiment.reduced_dim for one in judged))
    each, since = batch_pictures(experiment, width), done
    batches = torch.arange(done, total).split(each)[accelerator.process_index::accelerator.num_processes]
    if seen.cached and mirror.cached:
        views = zip(seen.pictures(batches), seen.stream(batches), mirror.stream(batches))
    else:  # no picture is read twice
        views = ((items, seen.see(items["image"]), mirror.see(items["image"])) for items in seen.pictures(batches))
    with tqdm(total=total, initial=done, desc=f"judge {' and '.join(one.method for one in judged)}", leave=False,
              disable=not accelerator.is_main_process) as bar:
        for batch, (items, tokens, mirrored) in zip(batches, views):
            looks = [(mirror_mean(tokens, mirrored, seen.grid, one.head, experiment.smoothing * (one.head is not None)),
                      list(one.readouts.values())) for one in judged]
            masks = read_out(items["image"], looks, crf=crf, iterations=experiment.crf_iterations,
                             backend=experiment.crf_backend, picture=experiment.crf_picture)
            done = min(done + each * accelerator.num_processes, total)  # all processes have had a batch
            bar.update(done - bar.n)
            stop = done - since >= experiment.checkpoint_steps and done < total
            since = done if stop else since
            for one in judged:
                masks = one.add(int(batch[0]), items, tokens, masks)
                if stop:
                    one.save(done, (time.monotonic() - started) / readouts)
    for one in judged:
        one.report(seen, (time.monotonic() - started) / readouts)


def batch_pictures(experiment: Experiment, width: int) -> int:
    """Pictures judged together: their upsampled features, and the scores, of this width stay below 256 MB."""
    return max(1, min(experiment.batch_size, 2**26 // (width * experiment.image_size**2)))


def load_gallery(folder: str | Path) -> dict[str, Tensor]:
    """Pictures and masks kept by an evaluation: `image` uint8 (g, 3, h, w), `label` int16 (g, h, w), `index` (g,), and
    an int16 (g, h, w) mask in class ids for every read-out: `modularity`, `kmeans`, `modularity.crf` and so on."""
    return load_tensors(Path(folder) / "gallery.safetensors")
