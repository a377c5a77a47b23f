"""Judging: a mask of every test picture by every read-out (masks.py), counted, matched and kept.

One Hungarian matching over the whole test split gives mIoU and pixel accuracy (metrics.py), without and with the CRF.
The counts, and the masks of a few pictures, stay on the device to the end, so that no batch waits for another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.crf import crf_backends
from cause_lib.data import SegmentationDataset
from cause_lib.errors import InputError
from cause_lib.masks import predict
from cause_lib.metrics import SegmentationMetrics, count
from cause_lib.probes import mirror_mean
from cause_lib.runs import health
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.parallel import total_counts
from cause_lib.runs.stage import Making
from cause_lib.runs.store import checkpoint_path, load_checkpoint, load_tensors, save_checkpoint

__all__ = ["judge", "load_gallery", "mirror_mean"]

GALLERY = 8  # pictures whose masks are kept


def judge(making: Making, method: str, head: nn.Module | None, readouts: dict[str, nn.Module],
          book: Clusterbook | None = None, notes: dict[str, Any] | None = None) -> None:
    """Masks of every test picture by every read-out, without and with CRF, counted and matched; writes the artefact.

    Args:
        making: the evaluation under way. method: its name in tables.
        head: tokens -> features. None: the tokens themselves are read out, and never smoothed.
        readouts: name -> probe. book: whose concepts are counted, too. notes: kept in the record.
    """
    started, experiment, accelerator = time.monotonic(), making.experiment, making.accelerator
    seen = FrozenFeatures(experiment, "test", experiment.image_size, accelerator)
    mirror = FrozenFeatures(experiment, "test", experiment.image_size, accelerator, mirrored=True)
    head, book = (None if module is None else module.to(accelerator.device) for module in (head, book))
    probes = [probe.to(accelerator.device) for probe in readouts.values()]
    crf = experiment.crf and experiment.crf_backend in crf_backends()
    if experiment.crf and not crf:
        warnings.warn(f"{experiment.crf_backend} is not installed: the rows with CRF are left out.", stacklevel=3)
    tally = Tally(experiment, seen.dataset, list(readouts), crf, accelerator.device)
    total = len(seen.dataset)
    done, before = tally.restore(making)
    width = max(len(readouts) * seen.dataset.num_classes, seen.dim if head is None else experiment.reduced_dim)
    batches = torch.arange(done, total).split(batch_pictures(experiment, width))
    several = accelerator.num_processes  # in every round each of them takes a batch
    ends = [int(these[-1][-1]) + 1 for these in (batches[i:i + several] for i in range(0, len(batches), several))]
    batches = batches[accelerator.process_index::several]
    bar = tqdm(total=total, initial=done, desc=f"judge {method}", leave=False, disable=not accelerator.is_main_process)
    since = done
    for views, end, (items, tokens, mirrored) in zip(batches, ends, _look(seen, mirror, batches)):
        masks = predict(items["image"], tokens, mirrored, seen.grid, head, probes, crf=crf,
                        smoothing=0.0 if head is None else experiment.smoothing,
                        iterations=experiment.crf_iterations, backend=experiment.crf_backend)
        tally.add(int(views[0]), items, masks, None if book is None else book.assign(tokens))
        bar.update(end - done)
        done = end
        if done - since >= experiment.checkpoint_steps and done < total:
            since = done
            tally.save(making, {"done": done, "seconds": before + time.monotonic() - started})
    bar.close()
    _report(making, method, seen, tally, book is not None, before + time.monotonic() - started, notes or {})


class Tally:
    """What an evaluation counts and keeps, row by row: (read-out, with CRF).

    Attributes: `metrics` a row, `gallery` (name -> kept pictures and masks, of the test pictures `kept`), `wins` (k,),
    how many patches each prototype is the nearest of.
    """

    def __init__(self, experiment: Experiment, dataset: SegmentationDataset, readouts: list[str], crf: bool,
                 device: torch.device) -> None:
        total, size = len(dataset), experiment.image_size
        self.readouts, self.device = readouts, device
        self.rows = [(name, with_crf) for name in readouts for with_crf in ((False, True) if crf else (False,))]
        self.metrics = {row: SegmentationMetrics(dataset.num_classes, match=row[0] != "linear") for row in self.rows}
        self.kept = [i * total // GALLERY for i in range(GALLERY)] if total > GALLERY else list(range(total))
        self.gallery = {"image": torch.zeros(len(self.kept), 3, size, size, dtype=torch.uint8, device=device)}
        self.gallery |= {name: torch.zeros(len(self.kept), size, size, dtype=torch.int16, device=device)
                         for name in ("label", *map(row_name, self.rows))}
        self.wins = torch.zeros(experiment.num_concepts, dtype=torch.int64, device=device)

    def add(self, first: int, items: dict[str, Tensor], masks: dict[bool, Tensor], concepts: Tensor | None) -> None:
        """A batch of test pictures from number `first` on: its masks (b, s, h, w), and its patches' concepts (b, n)."""
        images, labels = items["image"], items["label"]  # (b, 3, h, w), (b, h, w)
        places = [(place, i - first) for place, i in enumerate(self.kept) if first <= i < first + len(images)]
        for place, i in places:
            self.gallery["image"][place], self.gallery["label"][place] = (images[i] * 255).round(), labels[i]
        for with_crf, of_readouts in masks.items():
            for name, mask in zip(self.readouts, of_readouts.unbind(dim=1)):  # (b, h, w) each
                self.metrics[name, with_crf].update(mask, labels)
                for place, i in places:
                    self.gallery[row_name((name, with_crf))][place] = mask[i]
        if concepts is not None:
            self.wins += count(concepts, len(self.wins))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by the names of the checkpoint."""
        return ({"wins": self.wins} | {f"gallery/{name}": value for name, value in self.gallery.items()}
                | {f"counts/{row_name(row)}": self.metrics[row].counts for row in self.rows})

    def take(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.wins = tensors["wins"].to(self.device)
        self.gallery = {name: tensors[f"gallery/{name}"].to(self.device) for name in self.gallery}
        for row in self.rows:
            self.metrics[row].counts = tensors[f"counts/{row_name(row)}"]

    def save(self, making: Making, state: dict[str, Any]) -> None:
        """Replace the checkpoint by what all processes have."""
        tensors = total_counts(making.accelerator, self.tensors())
        if making.accelerator.is_main_process:
            save_checkpoint(making.folder, state, tensors)

    def restore(self, making: Making) -> tuple[int, float]:
        """Go on from the checkpoint: pictures done, and the seconds that they took."""
        if (saved := load_checkpoint(making.folder)) is None:
            return 0, 0.0
        record, tensors = saved
        if set(self.tensors()) != set(tensors) or not {"done", "seconds"} <= set(record):
            raise InputError(f"The checkpoint {checkpoint_path(making.folder)} is not of this run: remove it.")
        if making.accelerator.is_main_process:  # of several processes the others begin at 0
            self.take(tensors)
        return record["done"], record["seconds"]


def _report(making: Making, method: str, seen: FrozenFeatures, tally: Tally, concepts: bool, seconds: float,
            notes: dict[str, Any]) -> None:
    """Numbers from the counts of all processes; writes the artefact."""
    dataset, experiment = seen.dataset, making.experiment
    tally.take(total_counts(making.accelerator, tally.tensors()))
    gallery = {name: value.cpu() for name, value in tally.gallery.items()} | {"index": torch.tensor(tally.kept)}
    results, found = [], []
    for row in tally.rows:
        metrics = tally.metrics[row]
        numbers, use = metrics.compute(), health.in_use(metrics.pixels)
        results.append({"method": method, "readout": row[0], "crf": row[1], "num_clusters": dataset.num_classes}
                       | numbers | {"dead_clusters": (metrics.pixels == 0).nonzero().flatten().tolist(),
                                    "dead_share": use["dead_share"], "effective_clusters": use["effective"]})
        if not row[1]:  # the CRF takes away what is small
            found += health.of_clusters(row[0], metrics.pixels, experiment.recipe)
        masks = gallery[row_name(row)].long()
        gallery[row_name(row)] = torch.tensor(numbers["assignment"], dtype=torch.int16)[masks]
    record = making.record(seen, seconds)
    record |= {"date": time.strftime("%Y-%m-%d", time.gmtime()), "notes": notes | {"warnings": making.warned(found)}}
    metrics = record | {"results": results, "dataset": {
        "name": experiment.folder or experiment.dataset, "split": dataset.split, "images": len(dataset),
        "classes": dataset.classes, "colors": dataset.colors.tolist(), "labelled": dataset.has_labels,
        "skipped": {"count": len(dataset.skipped), "pictures": dict(dataset.skipped)}}}
    if concepts:
        metrics["concepts"] = {"used": int((tally.wins > 0).sum()), "num_concepts": experiment.num_concepts}
        metrics["concepts"] |= health.in_use(tally.wins)
    making.write(record, {"gallery": gallery}, metrics)


def _look(seen: FrozenFeatures, mirror: FrozenFeatures,
          batches: Sequence[Tensor]) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Batch after batch: its items, its tokens and those of its mirror image; no picture is read twice."""
    if seen.cached and mirror.cached:
        yield from zip(seen.pictures(batches), seen.stream(batches), mirror.stream(batches))
    else:
        for items in seen.pictures(batches):
            yield items, seen.see(items["image"]), mirror.see(items["image"])


def batch_pictures(experiment: Experiment, width: int) -> int:
    """Pictures judged together: their upsampled features, and the scores, of this width stay below 256 MB."""
    return max(1, min(experiment.batch_size, 2**26 // (width * experiment.image_size**2)))


def row_name(row: tuple[str, bool]) -> str:
    """`modularity`, `modularity.crf` and so on."""
    return row[0] + (".crf" if row[1] else "")


def load_gallery(folder: str | Path) -> dict[str, Tensor]:
    """Pictures and masks kept by an evaluation: `image` uint8 (g, 3, h, w), `label` int16 (g, h, w), `index` (g,), and
    an int16 (g, h, w) mask in class ids for every read-out: `modularity`, `kmeans`, `modularity.crf` and so on."""
    return load_tensors(Path(folder) / "gallery.safetensors")
