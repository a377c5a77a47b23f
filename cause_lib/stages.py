"""The stages of a run, on Accelerate: clusterbook, head, probe, evaluation, and the k-means baseline.

    fit_clusterbook   step 1: prototypes M by modularity (Eq. 3)
    fit_head          step 2: head and EMA teacher by concept-wise contrast (Eq. 4), the clusterbook as the mediator
    fit_probe         step 3: two read-outs of the teacher's features: centroids by Eq. 3, centroids by k-means
    fit_baseline      k-means on the raw tokens
    evaluate, evaluate_baseline   masks, dense CRF, one Hungarian matching, numbers

Each takes an `Experiment`, runs what it needs upstream if that is missing, and leaves one artefact folder, which it
returns. The same experiment again costs nothing; a killed stage goes on from its checkpoint and ends with the same bits,
because every random choice is drawn from (seed, stage, update) and from nothing else.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.artefacts import (artefact_folder, checkpoint_path, is_complete, library_version, load_checkpoint,
                                 load_tensors, read_record, save_checkpoint, write_artefact)
from cause_lib.backbones import weights_fingerprint
from cause_lib.clusterbook import Clusterbook, initial_prototypes, modularity_loss, thin_grid
from cause_lib.config import Experiment
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.crf import crf_backends, dense_crf
from cause_lib.features import FrozenFeatures, device_name, open_dataset
from cause_lib.heads import MLPHead, TRHead, ema_update, projection
from cause_lib.metrics import SegmentationMetrics
from cause_lib.probes import ClusterProbe, LinearProbe, cosine_kmeans

__all__ = ["collect_metrics", "evaluate", "evaluate_baseline", "fit_baseline", "fit_clusterbook", "fit_head", "fit_probe",
           "load_clusterbook", "load_gallery", "load_head", "load_probe", "read_record"]

KMEANS_POINTS, KMEANS_VIEWS = 100_000, 512  # k-means sees at most so many tokens, from at most so many views
GALLERY = 8  # pictures whose masks are kept


# --- the stages ---

def fit_clusterbook(experiment: Experiment) -> Path:
    """Step 1: the concept clusterbook. The folder holds `clusterbook.safetensors` with `prototypes` (k, d)."""
    folder = _folder(experiment, "clusterbook")
    if is_complete(folder):
        return folder
    with _session(experiment) as accelerator:
        features = FrozenFeatures(experiment, "train", experiment.image_size, accelerator)
        start = initial_prototypes(experiment.num_concepts, features.dim, _generator(experiment, "prototypes"))
        book = nn.ParameterDict({"prototypes": nn.Parameter(start.to(accelerator.device))})
        optimizer = torch.optim.Adam(book.parameters(), lr=experiment.lr)

        def update(tokens: Tensor, step: int) -> Tensor:
            loss = modularity_loss(tokens, book["prototypes"], experiment.modularity_temperature)
            _descend(accelerator, optimizer, loss)
            return loss.detach()

        run = _train(experiment, "clusterbook", folder, accelerator, features, experiment.concept_steps, optimizer,
                     {"book": book}, update, thinned=True)
        tokens = _sample(experiment, features)  # (m, d)
        used = Clusterbook(book["prototypes"]).used(tokens)
        run["notes"] = {"prototypes_used": used, "num_concepts": experiment.num_concepts, "tokens": len(tokens)}
        return _finish(folder, experiment, "clusterbook", accelerator, features, run, {"clusterbook": book.state_dict()})


def fit_head(experiment: Experiment) -> Path:
    """Step 2: the segmentation head. The folder holds the teacher, `head.safetensors`."""
    folder = _folder(experiment, "head")
    if is_complete(folder):
        return folder
    upstream = fit_clusterbook(experiment)
    with _session(experiment) as accelerator:
        book = load_clusterbook(upstream).to(accelerator.device)
        features = FrozenFeatures(experiment, "train", experiment.train_size, accelerator)
        torch.manual_seed(_seed(experiment, "head"))
        student = nn.ModuleDict({"head": _new_head(experiment, book.prototypes, features.grid),
                                 "projection": projection(experiment.reduced_dim, experiment.projection_dim)})
        student = student.to(accelerator.device).train()
        teacher = copy.deepcopy(student).requires_grad_(False)
        optimizer = torch.optim.Adam(student.parameters(), lr=experiment.lr, weight_decay=experiment.weight_decay)
        bank = None
        if experiment.bank_capacity:
            bank = ConceptBank(experiment.num_concepts, experiment.projection_dim, experiment.bank_capacity,
                               device=accelerator.device)
        similarity = book.similarity
        state = {"student": student, "teacher": teacher} | ({"bank": bank} if bank is not None else {})

        def update(tokens: Tensor, step: int) -> Tensor:
            generator = _generator(experiment, "head", step)
            kept = thin_grid(features.grid, experiment.thin, generator).to(tokens.device)  # (n',)
            with accelerator.autocast():
                with torch.no_grad():
                    z = teacher["projection"](teacher["head"](tokens, features.grid)[:, kept])  # (b, n', p)
                s = student["projection"](student["head"](tokens, features.grid)[:, kept])  # (b, n', p)
            concepts = book.assign(tokens[:, kept])  # (b, n')
            loss = concept_contrastive_loss(s, z, concepts, similarity, bank,
                                            temperature=experiment.contrast_temperature,
                                            positive_threshold=experiment.positive_threshold,
                                            negative_threshold=experiment.negative_threshold)
            _descend(accelerator, optimizer, loss, experiment.clip_norm)
            ema_update(teacher, student, experiment.ema_decay)
            if bank is not None:
                half = torch.randperm(concepts.numel(), generator=generator)
                half = half[:round(experiment.bank_fraction * concepts.numel())].to(tokens.device)
                bank.update(z.float().flatten(0, 1)[half], concepts.flatten()[half])
            return loss.detach()

        run = _train(experiment, "head", folder, accelerator, features, experiment.head_steps, optimizer, state, update)
        run["notes"] = {"grid": features.grid, "bank": len(bank) if bank is not None else 0}
        return _finish(folder, experiment, "head", accelerator, features, run, {"head": teacher["head"].state_dict()},
                       {"clusterbook": upstream})


def fit_probe(experiment: Experiment) -> Path:
    """Step 3: read-outs of the head's features.

    The folder holds `probe.safetensors` with centroids (c, r) of `modularity` and `kmeans`, and `head.safetensors`, the
    head they belong to. With `label_free=True` the head is the one of step 2, untouched, and no label is looked at. With
    `label_free=False` the released code's step 3 is repeated: a linear probe's cross-entropy trains the head too, and
    `linear.weight`, `linear.bias` are kept as well.
    """
    folder = _folder(experiment, "probe")
    if is_complete(folder):
        return folder
    upstream = fit_head(experiment)
    with _session(experiment) as accelerator:
        features = FrozenFeatures(experiment, "train", experiment.train_size, accelerator)
        head = load_head(upstream).to(accelerator.device)
        if not experiment.label_free and not features.dataset.has_labels:
            raise ValueError(f"label_free=False needs labels, and {experiment.dataset} {experiment.folder} has none: "
                             "set label_free to True.")
        torch.manual_seed(_seed(experiment, "probe"))
        num_classes = features.dataset.num_classes
        probe = ClusterProbe(num_classes, experiment.reduced_dim).to(accelerator.device)
        state: dict[str, Any] = {"probe": probe}
        if not experiment.label_free:
            state |= {"linear": LinearProbe(num_classes, experiment.reduced_dim).to(accelerator.device),
                      "head": head.train().requires_grad_(True)}
        optimizer = torch.optim.Adam([p for module in state.values() for p in module.parameters()], lr=experiment.lr)

        def update(tokens: Tensor, step: int) -> Tensor:
            optimizer.param_groups[0]["lr"] = experiment.lr * 0.5 ** (step // experiment.probe_decay_steps)
            kept = thin_grid(features.grid, experiment.thin, _generator(experiment, "probe", step)).to(tokens.device)
            with accelerator.autocast(), torch.set_grad_enabled(not experiment.label_free):
                x = head(tokens, features.grid)  # (b, n, r)
            modularity = modularity_loss(x[:, kept], probe.centroids, experiment.modularity_temperature)
            loss = modularity
            if not experiment.label_free:
                labels = torch.stack([features.dataset[int(i)]["label"] for i in batches[step]]).to(tokens.device)
                logits = state["linear"](x).transpose(1, 2).unflatten(2, features.grid)  # (b, c, rows, columns)
                logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
                # A batch of void alone has no cross-entropy: sum over the pixels, divided by at least one.
                loss = loss + F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") \
                    / (labels >= 0).sum().clamp(min=1)
            _descend(accelerator, optimizer, loss)
            return modularity.detach()

        batches = _batches(experiment, "probe", len(features), experiment.probe_steps)
        run = _train(experiment, "probe", folder, accelerator, features, experiment.probe_steps, optimizer, state, update)
        head.eval().requires_grad_(False)
        points = _sample(experiment, features, head)  # (m, r)
        centroids = cosine_kmeans(points, num_classes, restarts=experiment.kmeans_restarts,
                                  generator=_generator(experiment, "k-means"), progress=True)
        probes = {"modularity": probe.centroids, "kmeans": centroids}
        if not experiment.label_free:
            probes |= {f"linear.{name}": value for name, value in state["linear"].state_dict().items()}
        run["notes"] = {"grid": features.grid, "classes": features.dataset.classes,
                        "colors": features.dataset.colors.tolist()}
        return _finish(folder, experiment, "probe", accelerator, features, run,
                       {"probe": probes, "head": head.state_dict()}, {"head": upstream})


def fit_baseline(experiment: Experiment) -> Path:
    """The tables' baseline: k-means on the raw tokens. The folder holds `probe.safetensors` with `kmeans` (c, d)."""
    folder = _folder(experiment, "baseline")
    if is_complete(folder):
        return folder
    with _session(experiment) as accelerator:
        started = time.time()
        features = FrozenFeatures(experiment, "train", experiment.image_size, accelerator)
        centroids = cosine_kmeans(_sample(experiment, features), features.dataset.num_classes,
                                  restarts=experiment.kmeans_restarts, generator=_generator(experiment, "k-means"),
                                  progress=True)
        run = {"seconds": time.time() - started, "notes": {"grid": features.grid, "classes": features.dataset.classes,
                                                           "colors": features.dataset.colors.tolist()}}
        return _finish(folder, experiment, "baseline", accelerator, features, run, {"probe": {"kmeans": centroids}})


def evaluate(experiment: Experiment) -> Path:
    """Judge the head's read-outs on the test split, the baseline beside it; the folder holds `metrics.json`."""
    evaluate_baseline(experiment)
    folder = _folder(experiment, "evaluation")
    if is_complete(folder):
        return folder
    upstream = fit_probe(experiment)
    with _session(experiment) as accelerator:
        head = load_head(upstream).to(accelerator.device)
        book = load_clusterbook(fit_clusterbook(experiment)).to(accelerator.device)
        readouts = {name: load_probe(upstream, name).to(accelerator.device)
                    for name in ("modularity", "kmeans") + (() if experiment.label_free else ("linear",))}
        return _judge(experiment, "evaluation", folder, accelerator, f"CAUSE-{experiment.head.upper()}", head, readouts,
                      book, {"probe": upstream})


def evaluate_baseline(experiment: Experiment) -> Path:
    """Judge k-means on the raw tokens in the same way; the folder holds `metrics.json`."""
    folder = _folder(experiment, "baseline_evaluation")
    if is_complete(folder):
        return folder
    upstream = fit_baseline(experiment)
    with _session(experiment) as accelerator:
        readouts = {"kmeans": load_probe(upstream, "kmeans").to(accelerator.device)}
        return _judge(experiment, "baseline_evaluation", folder, accelerator, "k-means", None, readouts, None,
                      {"baseline": upstream})


# --- what stages leave, read again ---

def load_clusterbook(folder: str | Path) -> Clusterbook:
    """The clusterbook of a `fit_clusterbook` folder, on the CPU."""
    return Clusterbook(load_tensors(Path(folder) / "clusterbook.safetensors")["prototypes"])


def load_head(folder: str | Path) -> MLPHead | TRHead:
    """The head of a `fit_head` or `fit_probe` folder, on the CPU, frozen, in evaluation mode."""
    record, tensors = read_record(folder), load_tensors(Path(folder) / "head.safetensors")
    experiment = Experiment.from_dict(record["experiment"])
    # Only their width matters to the MLP head.
    prototypes = tensors["clusterbook.prototypes"] if experiment.head == "tr" else tensors["f1.weight"][:1]
    with torch.random.fork_rng(devices=[]):
        head = _new_head(experiment, prototypes, tuple(record["notes"]["grid"]))
    head.load_state_dict(tensors, strict=True)
    return head.eval().requires_grad_(False)


def load_probe(folder: str | Path, readout: str = "modularity") -> ClusterProbe | LinearProbe:
    """A read-out of a `fit_probe` or `fit_baseline` folder, on the CPU, frozen.

    Raises:
        ValueError: the folder has no such read-out; the message names those it has.
    """
    tensors = load_tensors(Path(folder) / "probe.safetensors")
    names = sorted({name.split(".")[0] for name in tensors})
    if readout not in names:
        raise ValueError(f"{folder} has no read-out {readout!r}; it has {', '.join(names)}.")
    if readout == "linear":
        probe: ClusterProbe | LinearProbe = LinearProbe(*tensors["linear.weight"].shape)
        probe.load_state_dict({"weight": tensors["linear.weight"], "bias": tensors["linear.bias"]})
    else:
        probe = ClusterProbe(*tensors[readout].shape, centroids=tensors[readout])
    return probe.eval().requires_grad_(False)


def load_gallery(folder: str | Path) -> dict[str, Tensor]:
    """Pictures and masks kept by an evaluation: `image` uint8 (g, 3, h, w), `label` int16 (g, h, w), `index` (g,), and
    an int16 (g, h, w) mask in class ids for every read-out: `modularity`, `kmeans`, `modularity.crf` and so on."""
    return load_tensors(Path(folder) / "gallery.safetensors")


def collect_metrics(run_dir: str | Path) -> pd.DataFrame:
    """Every `metrics.json` below a folder as one table, a line a method, read-out, CRF setting and run."""
    rows = []
    for path in sorted(Path(run_dir).rglob("metrics.json")):
        record = read_record(path.parent)
        experiment = record["experiment"]
        baseline = record["stage"] == "baseline_evaluation"
        for result in record["results"]:
            rows.append({
                "dataset": experiment["folder"] or experiment["dataset"], "backbone": experiment["backbone"],
                "method": result["method"], "readout": result["readout"], "crf": result["crf"],
                "label_free": True if baseline else experiment["label_free"], "seed": experiment["seed"],
                "miou": result["miou"], "pacc": result["pacc"], "clusters_used": result["clusters_used"],
                "num_clusters": result["num_clusters"], "images": record["dataset"]["images"],
                "device": record["device"], "seconds": record["seconds"], "folder": path.parent.as_posix()})
    columns = ["dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou", "pacc", "clusters_used",
               "num_clusters", "images", "device", "seconds", "folder"]
    return pd.DataFrame(rows, columns=columns)


# --- what they share ---

def _folder(experiment: Experiment, stage: str) -> Path:
    """An artefact's place: named by the fields that it depends on, the pictures and the backbone's weights."""
    pictures = open_dataset(experiment, "train", experiment.image_size).fingerprint
    if "evaluation" in stage:
        pictures += open_dataset(experiment, "test", experiment.image_size).fingerprint
    depends = experiment.key(stage) | {"data": pictures, "weights": weights_fingerprint(experiment.backbone)}
    parts = [Path(experiment.folder).name or experiment.dataset, experiment.backbone]
    if "baseline" not in stage and stage != "clusterbook":
        parts.append(experiment.head)
    return artefact_folder(experiment.run_dir, stage, "-".join([*parts, f"s{experiment.seed}"]), depends)


@contextlib.contextmanager
def _session(experiment: Experiment) -> Iterator[Accelerator]:
    """An Accelerator for the run's device and precision; global random numbers are as before when it ends."""
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError('device "cuda" was asked for, but there is no CUDA GPU here: set device to "auto" or "cpu".')
    AcceleratorState._reset_state(reset_partial_state=True)  # the device and precision of an earlier run would stick
    accelerator = Accelerator(cpu=experiment.device == "cpu", mixed_precision=experiment.precision)
    deterministic, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng():
        try:
            if accelerator.device.type == "cpu":
                torch.use_deterministic_algorithms(True)
                torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; every number here is written
            yield accelerator
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def _seed(experiment: Experiment, *what: Any) -> int:
    """A seed of 63 bits for one random choice of a run."""
    digest = hashlib.sha256(repr((experiment.seed, *what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _generator(experiment: Experiment, *what: Any) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(experiment, *what))


def _batches(experiment: Experiment, stage: str, views: int, steps: int) -> list[Tensor]:
    """For each update its views, (b,) int64: epoch after epoch in a new order, what is left over of one left out."""
    size = min(experiment.batch_size, views)
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = torch.randperm(views, generator=_generator(experiment, stage, "epoch", len(batches)))
        batches += order[:views - views % size].split(size)
    return batches[:steps]


def _descend(accelerator: Accelerator, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
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


def _train(experiment: Experiment, stage: str, folder: Path, accelerator: Accelerator, features: FrozenFeatures,
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
    batches = _batches(experiment, stage, len(features), steps)
    patches = None
    if thinned:
        patches = [thin_grid(features.grid, experiment.thin, _generator(experiment, stage, s)) for s in range(done, steps)]
    bar = tqdm(total=steps, initial=done, desc=stage, leave=False)
    for step, tokens in zip(range(done, steps), features.stream(batches[done:], patches)):
        torch.manual_seed(_seed(experiment, stage, step))  # dropout
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


def _new_head(experiment: Experiment, prototypes: Tensor, grid: tuple[int, int]) -> MLPHead | TRHead:
    if experiment.head == "mlp":
        return MLPHead(prototypes.shape[1], experiment.reduced_dim, experiment.dropout)
    return TRHead(prototypes, grid, experiment.reduced_dim, dropout=experiment.dropout)


@torch.no_grad()
def _sample(experiment: Experiment, features: FrozenFeatures, head: nn.Module | None = None) -> Tensor:
    """Tokens, or a head's features, of random patches of random training views: (m, d or r) float32."""
    generator = _generator(experiment, "sample")
    views = torch.randperm(len(features), generator=generator)[:KMEANS_VIEWS].sort().values
    n = features.grid[0] * features.grid[1]
    each = min(n, -(-KMEANS_POINTS // len(views)))
    points = []
    batches = views.split(experiment.batch_size)
    for tokens in tqdm(features.stream(batches), total=len(batches), desc="sample", leave=False):
        x = tokens if head is None else head(tokens, features.grid).float()  # (b, n, d or r)
        kept = torch.stack([torch.randperm(n, generator=generator)[:each] for _ in range(len(x))]).to(x.device)
        points.append(x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[-1])).flatten(0, 1))
    return torch.cat(points)


@torch.no_grad()
def _judge(experiment: Experiment, stage: str, folder: Path, accelerator: Accelerator, method: str,
           head: nn.Module | None, readouts: dict[str, nn.Module], book: Clusterbook | None,
           upstream: dict[str, Path]) -> Path:
    """Masks of every test picture by every read-out, without and with CRF, counted and matched; writes the artefact."""
    started, before = time.time(), 0.0
    size = experiment.image_size
    seen = FrozenFeatures(experiment, "test", size, accelerator)
    mirror = FrozenFeatures(experiment, "test", size, accelerator, mirrored=True)
    dataset, grid = seen.dataset, seen.grid
    crf = experiment.crf and experiment.crf_backend in crf_backends()
    if experiment.crf and not crf:
        warnings.warn(f"{experiment.crf_backend} is not installed: the rows with CRF are left out.", stacklevel=3)
    rows = [(name, with_crf) for name in readouts for with_crf in ((False, True) if crf else (False,))]
    metrics = {row: SegmentationMetrics(dataset.num_classes, match=row[0] != "linear") for row in rows}
    kept = torch.arange(GALLERY) * len(dataset) // GALLERY if len(dataset) > GALLERY else torch.arange(len(dataset))
    masks = {row: torch.zeros(len(kept), size, size, dtype=torch.int16) for row in rows}
    wins = torch.zeros(experiment.num_concepts, dtype=torch.int64)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        record, tensors = saved
        done, before = record["done"], record["seconds"]
        for row in rows:
            metrics[row].counts, masks[row] = tensors[f"counts/{_row(row)}"], tensors[f"masks/{_row(row)}"]
        wins = tensors["wins"]
    width = seen.dim if head is None else experiment.reduced_dim
    batches = torch.arange(done, len(dataset)).split(_judge_batch(experiment, width))
    bar = tqdm(total=len(dataset), initial=done, desc=f"judge {method}", leave=False)
    since = done
    for views, tokens, mirrored in zip(batches, seen.stream(batches), mirror.stream(batches)):
        items = [dataset[int(i)] for i in views]
        labels = torch.stack([item["label"] for item in items]).to(accelerator.device)  # (b, h, w)
        images = torch.stack([item["image"] for item in items]) if crf else None  # (b, 3, h, w)
        features = mirror_mean(tokens, mirrored, grid, head)  # (b, r, rows, columns)
        features = F.interpolate(features, labels.shape[1:], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        if book is not None:
            wins += torch.bincount(book.assign(tokens).flatten(), minlength=len(wins)).cpu()
        for name, probe in readouts.items():
            log_probabilities = probe.log_probabilities(features).permute(0, 3, 1, 2)  # (b, c, h, w)
            scores = {(name, False): log_probabilities}
            if crf:
                scores[name, True] = dense_crf(images, log_probabilities, iterations=experiment.crf_iterations,
                                               backend=experiment.crf_backend)
            for row, score in scores.items():
                prediction = score.argmax(dim=1)  # (b, h, w)
                metrics[row].update(prediction, labels)
                for place in (torch.isin(kept, views)).nonzero()[:, 0]:
                    masks[row][place] = prediction[int(kept[place] - views[0])].short().cpu()
        done = int(views[-1]) + 1
        bar.update(len(views))
        if done - since >= experiment.checkpoint_steps and done < len(dataset):
            since = done
            save_checkpoint(folder, {"done": done, "seconds": before + time.time() - started}, {"wins": wins} | {
                f"{part}/{_row(row)}": value for row in rows
                for part, value in (("counts", metrics[row].counts), ("masks", masks[row]))})
    bar.close()
    results, gallery = [], {"index": kept}
    pictures = [dataset[int(i)] for i in kept]
    gallery["image"] = torch.stack([(item["image"] * 255).round().byte() for item in pictures])
    gallery["label"] = torch.stack([item["label"].short() for item in pictures])
    for row in rows:
        numbers = metrics[row].compute()
        results.append({"method": method, "readout": row[0], "crf": row[1], "num_clusters": dataset.num_classes} | numbers)
        gallery[_row(row)] = torch.tensor(numbers["assignment"], dtype=torch.int16)[masks[row].long()]
    report = {"stage": stage, "experiment": experiment.to_dict(), "library": library_version(), "weights": seen.weights,
              "device": device_name(accelerator), "seconds": round(before + time.time() - started, 2),
              "dataset": {"name": experiment.folder or experiment.dataset, "split": dataset.split,
                          "images": len(dataset), "classes": dataset.classes, "colors": dataset.colors.tolist(),
                          "labelled": dataset.has_labels},
              "upstream": {name: path.relative_to(experiment.run_dir).as_posix() for name, path in upstream.items()},
              "results": results}
    if book is not None:
        report["concepts"] = {"used": int((wins > 0).sum()), "num_concepts": experiment.num_concepts}
    record = {key: value for key, value in report.items() if key not in ("results", "dataset", "concepts")}
    return write_artefact(folder, record, {"gallery": gallery}, metrics=report)


def _judge_batch(experiment: Experiment, width: int) -> int:
    """Pictures judged together: their upsampled features of this width stay below 256 MB."""
    return max(1, min(experiment.batch_size, 2**26 // (width * experiment.image_size**2)))


def _row(row: tuple[str, bool]) -> str:
    return row[0] + (".crf" if row[1] else "")


@torch.no_grad()
def mirror_mean(tokens: Tensor, mirrored: Tensor, grid: tuple[int, int], head: nn.Module | None = None) -> Tensor:
    """Features of a picture and of its mirror image, the latter turned back, averaged.

    Args:
        tokens, mirrored: (b, n, d) of the picture and of its mirror image. head: None takes the tokens themselves.

    Returns:
        (b, r, rows, columns) float32.
    """
    both = [x if head is None else head(x, grid) for x in (tokens, mirrored)]
    straight, turned = (x.float().transpose(1, 2).unflatten(2, grid) for x in both)  # (b, r, rows, columns)
    return (straight + turned.flip(-1)) / 2


def _finish(folder: Path, experiment: Experiment, stage: str, accelerator: Accelerator, features: FrozenFeatures,
            run: dict[str, Any], tensors: dict[str, dict[str, Tensor]], upstream: dict[str, Path] | None = None) -> Path:
    record = {"stage": stage, "experiment": experiment.to_dict(), "library": library_version(),
              "weights": features.weights, "device": device_name(accelerator), "seconds": round(run["seconds"], 2),
              "upstream": {name: path.relative_to(experiment.run_dir).as_posix()
                           for name, path in (upstream or {}).items()},
              "history": run.get("history", {}), "notes": run["notes"]}
    return write_artefact(folder, record, tensors)
