"""Judging: a mask of every test picture by every read-out, counted, matched and kept.

    features   mean of those of the picture and of its mirror image turned back, upsampled bilinearly to the label's
               size
    scores     log softmax(3 cos to the centroids), as they are and after the dense CRF
    numbers    one Hungarian matching over the whole test split, mIoU and pixel accuracy (metrics.py)
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.errors import InputError
from cause_lib.runs import health
from cause_lib.runs.store import (checkpoint_path, libraries_of, library_version, load_checkpoint, load_tensors,
                                 save_checkpoint, write_artefact)
from cause_lib.clusterbook import Clusterbook
from cause_lib.config import Experiment
from cause_lib.crf import crf_backends, dense_crf
from cause_lib.runs.features import FrozenFeatures, device_name
from cause_lib.metrics import SegmentationMetrics, count
from cause_lib.probes import mirror_mean
from cause_lib.runs.parallel import total_counts

GALLERY = 8  # pictures whose masks are kept


@torch.no_grad()
def judge(experiment: Experiment, stage: str, folder: Path, accelerator: Accelerator, method: str,
          head: nn.Module | None, readouts: dict[str, nn.Module], book: Clusterbook | None,
          upstream: dict[str, Path], notes: dict[str, Any] | None = None) -> Path:
    """Masks of every test picture by every read-out, without and with CRF, counted and matched; writes the artefact.

    What `notes` has is kept in it, too.
    """
    started, before = time.monotonic(), 0.0
    size, device = experiment.image_size, accelerator.device
    seen = FrozenFeatures(experiment, "test", size, accelerator)
    mirror = FrozenFeatures(experiment, "test", size, accelerator, mirrored=True)
    dataset, grid = seen.dataset, seen.grid
    crf = experiment.crf and experiment.crf_backend in crf_backends()
    if experiment.crf and not crf:
        warnings.warn(f"{experiment.crf_backend} is not installed: the rows with CRF are left out.", stacklevel=3)
    rows = [(name, with_crf) for name in readouts for with_crf in ((False, True) if crf else (False,))]
    metrics = {row: SegmentationMetrics(dataset.num_classes, match=row[0] != "linear") for row in rows}
    total = len(dataset)
    kept = [i * total // GALLERY for i in range(GALLERY)] if total > GALLERY else list(range(total))
    # Like the counts, what is kept stays on the device to the end, so that no batch waits for another.
    gallery = {"image": torch.zeros(len(kept), 3, size, size, dtype=torch.uint8, device=device)}
    gallery |= {name: torch.zeros(len(kept), size, size, dtype=torch.int16, device=device)
                for name in ("label", *map(row_name, rows))}
    wins = torch.zeros(experiment.num_concepts, dtype=torch.int64, device=device)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        record, tensors = saved
        wanted = {"wins", *(f"gallery/{name}" for name in gallery), *(f"counts/{row_name(row)}" for row in rows)}
        if wanted != set(tensors) or not {"done", "seconds"} <= set(record):
            raise InputError(f"The checkpoint {checkpoint_path(folder)} is not of this run: remove it.")
        done, before = record["done"], record["seconds"]
        if accelerator.is_main_process:  # of several processes the others begin at nought
            for row in rows:
                metrics[row].counts = tensors[f"counts/{row_name(row)}"]
            gallery = {name: tensors[f"gallery/{name}"].to(device) for name in gallery}
            wins = tensors["wins"].to(device)

    def tally() -> dict[str, Tensor]:
        """What all processes have counted and kept so far."""
        return total_counts(accelerator, {"wins": wins} | {f"gallery/{name}": value for name, value in gallery.items()}
                            | {f"counts/{row_name(row)}": metrics[row].counts for row in rows})

    width = max(len(readouts) * dataset.num_classes, seen.dim if head is None else experiment.reduced_dim)
    batches = torch.arange(done, total).split(batch_pictures(experiment, width))
    several = accelerator.num_processes  # in every round each of them takes a batch
    ends = [int(these[-1][-1]) + 1 for these in (batches[i:i + several] for i in range(0, len(batches), several))]
    batches = batches[accelerator.process_index::several]
    bar = tqdm(total=total, initial=done, desc=f"judge {method}", leave=False, disable=not accelerator.is_main_process)
    since = done
    for views, end, (items, tokens, mirrored) in zip(batches, ends, _look(seen, mirror, batches)):
        images, labels = items["image"], items["label"]  # (b, 3, h, w), (b, h, w)
        first = int(views[0])
        places = [(place, index - first) for place, index in enumerate(kept) if first <= index < first + len(views)]
        for place, i in places:
            gallery["image"][place], gallery["label"][place] = (images[i] * 255).round(), labels[i]
        # (b, r, rows, columns); raw tokens, the baseline, are never smoothed
        features = mirror_mean(tokens, mirrored, grid, head, 0.0 if head is None else experiment.smoothing)
        features = F.interpolate(features, labels.shape[1:], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        if book is not None:
            wins += count(book.assign(tokens), len(wins))
        scores = torch.stack([probe.log_probabilities(features) for probe in readouts.values()], dim=1)
        scores = scores.permute(0, 1, 4, 2, 3)  # (b, read-outs, c, h, w)
        for with_crf in (False, True) if crf else (False,):
            if with_crf:
                scores = dense_crf(images, scores, iterations=experiment.crf_iterations, backend=experiment.crf_backend)
            for name, prediction in zip(readouts, scores.argmax(dim=2).unbind(dim=1)):  # (b, h, w) each
                metrics[name, with_crf].update(prediction, labels)
                for place, i in places:
                    gallery[row_name((name, with_crf))][place] = prediction[i]
        bar.update(end - done)
        done = end
        if done - since >= experiment.checkpoint_steps and done < total:
            since = done
            tensors = tally()
            if accelerator.is_main_process:
                save_checkpoint(folder, {"done": done, "seconds": before + time.monotonic() - started}, tensors)
    bar.close()
    tensors = tally()
    gallery = {name: tensors[f"gallery/{name}"].cpu() for name in gallery} | {"index": torch.tensor(kept)}
    results, found = [], []
    for row in rows:
        metrics[row].counts = tensors[f"counts/{row_name(row)}"]
        numbers = metrics[row].compute()
        results.append({"method": method, "readout": row[0], "crf": row[1],
                        "num_clusters": dataset.num_classes} | numbers | _dead(metrics[row].pixels))
        if not row[1]:  # the CRF takes away what is small
            found += health.of_clusters(row[0], metrics[row].pixels, experiment.recipe)
        masks = gallery[row_name(row)].long()
        gallery[row_name(row)] = torch.tensor(numbers["assignment"], dtype=torch.int16)[masks]
    report = {"stage": stage, "experiment": experiment.to_dict(), "library": library_version(),
              "libraries": libraries_of(upstream.values()), "weights": seen.weights,
              "device": device_name(accelerator), "seconds": round(before + time.monotonic() - started, 2),
              "date": time.strftime("%Y-%m-%d", time.gmtime()),
              "dataset": {"name": experiment.folder or experiment.dataset, "split": dataset.split,
                          "images": total, "classes": dataset.classes, "colors": dataset.colors.tolist(),
                          "labelled": dataset.has_labels,
                          "skipped": {"count": len(dataset.skipped), "pictures": dict(dataset.skipped)}},
              "upstream": {name: path.relative_to(experiment.run_dir).as_posix() for name, path in upstream.items()},
              "results": results}
    told = health.tell(found, upstream.values(), show=accelerator.is_main_process)
    report["notes"] = (notes or {}) | {"warnings": told}
    if book is not None:
        report["concepts"] = {"used": int((tensors["wins"] > 0).sum()), "num_concepts": experiment.num_concepts}
        report["concepts"] |= health.in_use(tensors["wins"])
    record = {key: value for key, value in report.items() if key not in ("results", "dataset", "concepts")}
    if accelerator.is_main_process:
        write_artefact(folder, record, {"gallery": gallery}, metrics=report)
    accelerator.wait_for_everyone()
    return folder


def _dead(pixels: Tensor) -> dict[str, Any]:
    """What a result says of its clusters' use: pixels (c,) that each won."""
    use = health.in_use(pixels)
    return {"dead_clusters": (pixels == 0).nonzero().flatten().tolist(), "dead_share": use["dead_share"],
            "effective_clusters": use["effective"]}


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
    return row[0] + (".crf" if row[1] else "")


def load_gallery(folder: str | Path) -> dict[str, Tensor]:
    """Pictures and masks kept by an evaluation: `image` uint8 (g, 3, h, w), `label` int16 (g, h, w), `index` (g,), and
    an int16 (g, h, w) mask in class ids for every read-out: `modularity`, `kmeans`, `modularity.crf` and so on."""
    return load_tensors(Path(folder) / "gallery.safetensors")
