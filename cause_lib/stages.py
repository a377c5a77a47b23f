"""The stages of a run, on Accelerate: clusterbook, head, probe, evaluation, and the k-means baseline.

    fit_clusterbook   step 1: prototypes M by modularity (Eq. 3)
    fit_head          step 2: head and EMA teacher by concept-wise contrast (Eq. 4), the clusterbook as the mediator
    fit_heads         several of them from one pass of the backbone
    fit_probe         step 3: two read-outs of the teacher's features: centroids by Eq. 3, centroids by k-means
    fit_baseline      k-means on the raw tokens
    evaluate, evaluate_baseline   masks, dense CRF, one Hungarian matching, numbers

Each takes an `Experiment`, runs what it needs upstream if that is missing, and leaves one artefact folder, which it
returns. The same experiment again costs nothing; a killed stage goes on from its checkpoint and ends with the same bits
(runs/loop.py). Several processes share the pictures out between them and the first writes (runs/parallel.py); runs that ask
for the same artefact at once make it once (runs/locks.py).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from cause_lib.backbones import weights_fingerprint
from cause_lib.clusterbook import Clusterbook, initial_prototypes, modularity_loss, thin_grid
from cause_lib.config import PASS_FIELDS, Experiment
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.crf import crf_backends
from cause_lib.data import SegmentationDataset
from cause_lib.errors import InputError
from cause_lib.heads import MLPHead, TRHead, ema_update, projection, restore_head
from cause_lib.probes import ClusterProbe, LinearProbe, concept_kmeans, cosine_kmeans
from cause_lib.runs import health
from cause_lib.runs.features import FrozenFeatures, device_name, open_dataset
from cause_lib.runs.judging import judge, load_gallery
from cause_lib.runs.locks import is_made, made_once
from cause_lib.runs.loop import Run, batches_for, descend, generator_for, new_scaler, seed_for, session, train
from cause_lib.runs.parallel import current_part
from cause_lib.runs.released import load_released, released_fingerprint
from cause_lib.runs.store import (
    artefact_folder,
    libraries_of,
    library_version,
    load_tensors,
    read_record,
    write_artefact,
)

__all__ = ["collect_metrics", "evaluate", "evaluate_baseline", "find", "first_prototypes", "fit_baseline",
           "fit_clusterbook", "fit_head", "fit_heads", "fit_probe", "load_clusterbook", "load_gallery", "load_head",
           "load_probe", "read_record", "thresholds_for"]

KMEANS_POINTS, KMEANS_VIEWS = 100_000, 512  # k-means sees at most so many tokens, from at most so many views
START_POINTS = 25_600  # of which prototypes, or concepts of features, are made


# --- the stages ---

def fit_clusterbook(experiment: Experiment) -> Path:
    """Step 1: the concept clusterbook. The folder holds `clusterbook.safetensors` with `prototypes` (k, d)."""
    folder = _folder(experiment, "clusterbook")
    if is_made(folder):
        return folder
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        features = FrozenFeatures(experiment, "train", experiment.image_size, accelerator)
        started = time.monotonic()
        start = first_prototypes(experiment, features)
        starting = time.monotonic() - started
        book = nn.ParameterDict({"prototypes": nn.Parameter(start.to(accelerator.device))})
        optimizer = torch.optim.Adam(book.parameters(), lr=experiment.lr)
        scaler = new_scaler(accelerator)

        def update(tokens: Tensor, step: int) -> Tensor:
            loss = current_part().share * modularity_loss(tokens, book["prototypes"], experiment.modularity_temperature)
            descend(optimizer, loss, scaler=scaler)
            return loss.detach()

        run = Run(experiment, folder, experiment.concept_steps, {"book": book}, optimizer, update, scaler)
        train([run], "clusterbook", accelerator, features, thinned=True)
        tokens = _sample(experiment, features)  # (m, d)
        used = Clusterbook(book["prototypes"]).used(tokens)
        notes = {"prototypes_used": used, "num_concepts": experiment.num_concepts, "tokens": len(tokens)}
        return _finish(folder, experiment, "clusterbook", accelerator, features, {"clusterbook": book.state_dict()},
                       notes, starting + run.seconds, run.history,
                       found=health.of_prototypes(book["prototypes"], used, len(tokens), experiment.recipe))


def first_prototypes(experiment: Experiment, features: FrozenFeatures) -> Tensor:
    """Where step 1 starts, on the views it is trained on: (k, d) float32, as published or from training tokens."""
    generator = generator_for(experiment, "prototypes")
    if experiment.prototype_start == "uniform":
        return initial_prototypes(experiment.num_concepts, features.dim, generator)
    tokens = _sample(experiment, features)
    tokens = tokens[torch.randperm(len(tokens), generator=generator)[:START_POINTS].to(tokens.device)]
    return cosine_kmeans(tokens, experiment.num_concepts, restarts=1, iterations=3, generator=generator)


def fit_head(experiment: Experiment) -> Path:
    """Step 2: the segmentation head. The folder holds the teacher, `head.safetensors`."""
    return fit_heads([experiment])[0]


def fit_heads(experiments: Sequence[Experiment]) -> list[Path]:
    """Step 2 of several experiments, each batch of tokens computed, or read, once for all heads that see it.

    Heads that agree in `PASS_FIELDS` share a pass, whatever their kind, thresholds, widths, updates or seeds (with
    `order_seed` and `train_size` set the same); heads that do not are trained one group after the other. Each
    artefact holds the bits that `fit_head` alone gives; those that are there already are left as they are.

    Returns:
        The folders of `fit_head`, in the order of the experiments.
    """
    folders = [_folder(experiment, "head") for experiment in experiments]
    wanted = {folder: experiment for folder, experiment in zip(folders, experiments) if not is_made(folder)}
    groups: dict[tuple, dict[Path, Experiment]] = {}
    for folder, experiment in wanted.items():
        groups.setdefault(tuple(getattr(experiment, name) for name in PASS_FIELDS), {})[folder] = experiment
    for members in groups.values():
        upstream = {folder: fit_clusterbook(experiment) for folder, experiment in members.items()}
        first = next(iter(members.values()))
        with session(first) as accelerator, made_once(list(members), accelerator) as still:
            if not still:
                continue
            features = FrozenFeatures(first, "train", first.train_size, accelerator)
            runs = [head_run(members[folder], folder, load_clusterbook(upstream[folder]), accelerator, features)
                    for folder in still]
            train(runs, "head", accelerator, features)
            for run in runs:
                notes = {"grid": features.grid, "bank": len(run.state["bank"]) if "bank" in run.state else 0,
                         "heads_in_the_pass": len(runs)}
                _finish(run.folder, run.experiment, "head", accelerator, features,
                        {"head": run.state["teacher"]["head"].state_dict()}, notes, run.seconds, run.history,
                        {"clusterbook": upstream[run.folder]})
    return folders


def head_run(experiment: Experiment, folder: Path, book: Clusterbook, accelerator: Accelerator,
             features: FrozenFeatures) -> Run:
    """A student, its teacher and its bank, and how one batch of tokens changes them."""
    book = book.to(accelerator.device)
    torch.manual_seed(seed_for(experiment, "head"))
    student = nn.ModuleDict({"head": _new_head(experiment, book.prototypes, features.grid),
                             "projection": projection(experiment.reduced_dim, experiment.projection_dim)})
    student = student.to(accelerator.device).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=experiment.lr, weight_decay=experiment.weight_decay)
    scaler = new_scaler(accelerator)
    bank = None
    if experiment.bank_capacity:
        bank = ConceptBank(experiment.num_concepts, experiment.projection_dim, experiment.bank_capacity,
                           device=accelerator.device)
    similarity = book.similarity
    high, low = thresholds_for(experiment, book)

    def update(tokens: Tensor, step: int) -> Tensor:
        generator = generator_for(experiment, "head", step)
        kept = thin_grid(features.grid, experiment.thin, generator).to(tokens.device)  # (n',)
        with accelerator.autocast():
            with torch.no_grad():
                z = teacher["projection"](teacher["head"](tokens, features.grid, kept))  # (b, n', p)
            seen = student["head"](tokens, features.grid, kept)  # (b, n', r)
        part = current_part()
        z, concepts = part.gather(z), part.gather(book.assign(tokens[:, kept]))  # (b, n', p), (b, n'), all processes'
        loss = concept_contrastive_loss(seen, z, concepts, similarity, bank,
                                        temperature=experiment.contrast_temperature,
                                        positive_threshold=high, negative_threshold=low,
                                        projection=student["projection"], first=part.first, total=part.total)
        descend(optimizer, loss, experiment.clip_norm, scaler)
        ema_update(teacher, student, 0.0 if experiment.shared_start and step == 0 else experiment.ema_decay)
        if bank is not None:
            half = torch.randperm(concepts.numel(), generator=generator)
            half = half[:round(experiment.bank_fraction * concepts.numel())].to(tokens.device)
            bank.update(z.float().flatten(0, 1)[half], concepts.flatten()[half])
        return loss.detach()

    state = {"student": student, "teacher": teacher} | ({"bank": bank} if bank is not None else {})
    return Run(experiment, folder, experiment.head_steps, state, optimizer, update, scaler)


def thresholds_for(experiment: Experiment, book: Clusterbook) -> tuple[float, float]:
    """phi+ and phi- of a run: its constants, or its quantiles of the clusterbook's D_M."""
    if experiment.positive_quantile is None:
        return experiment.positive_threshold, experiment.negative_threshold
    return book.thresholds(experiment.positive_quantile, experiment.negative_quantile)


def fit_probe(experiment: Experiment) -> Path:
    """Step 3: read-outs of the head's features.

    The folder holds `probe.safetensors` with centroids (c, r) of `modularity` and `kmeans`, and `head.safetensors`, the
    head they belong to. With `label_free=True` the head is the one of step 2, untouched, and no label is used. With
    `label_free=False` the released code's step 3 is repeated: a linear probe's cross-entropy trains the head too, and
    `linear.weight`, `linear.bias` are kept as well.
    """
    folder = _folder(experiment, "probe")
    if is_made(folder):
        return folder
    upstream = fit_head(experiment)
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        features = FrozenFeatures(experiment, "train", experiment.train_size, accelerator)
        head = load_head(upstream).to(accelerator.device)
        if not experiment.label_free and not features.dataset.has_labels:
            raise InputError(f"label_free=False needs labels, and {experiment.dataset} {experiment.folder} has none: "
                             "set label_free to True.")
        torch.manual_seed(seed_for(experiment, "probe"))
        num_classes = features.dataset.num_classes
        points = centroids = None
        if experiment.probe_start == "kmeans":
            points, centroids = _kmeans(experiment, features, head)
        probe = ClusterProbe(num_classes, experiment.reduced_dim, centroids).to(accelerator.device)
        state: dict[str, Any] = {"probe": probe}
        if not experiment.label_free:
            state |= {"linear": LinearProbe(num_classes, experiment.reduced_dim).to(accelerator.device),
                      "head": head.train().requires_grad_(True)}
        optimizer = torch.optim.Adam([p for module in state.values() for p in module.parameters()], lr=experiment.lr)
        scaler = new_scaler(accelerator)
        pictures = None  # read for their labels, by the released step 3 alone

        def update(tokens: Tensor, step: int) -> Tensor:
            nonlocal pictures
            optimizer.param_groups[0]["lr"] = experiment.lr * 0.5 ** (step // experiment.probe_decay_steps)
            kept = thin_grid(features.grid, experiment.thin, generator_for(experiment, "probe", step)).to(tokens.device)
            with accelerator.autocast(), torch.set_grad_enabled(not experiment.label_free):
                if experiment.label_free:
                    x, seen = None, head(tokens, features.grid, kept)  # (b, n', r)
                else:
                    x = head(tokens, features.grid)  # (b, n, r)
                    seen = x[:, kept]
            part = current_part()
            modularity = part.share * modularity_loss(seen, probe.centroids, experiment.modularity_temperature)
            loss = modularity
            if not experiment.label_free:
                if pictures is None:  # the first update of this session need not be the first of all
                    batches = batches_for(experiment, "probe", len(features), experiment.probe_steps)
                    pictures = features.pictures([part.cut(batch) for batch in batches[step:]])
                labels = next(pictures)["label"]  # (b, h, w)
                logits = state["linear"](x).transpose(1, 2).unflatten(2, features.grid)  # (b, c, rows, columns)
                logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
                # A batch of void alone has no cross-entropy: sum over the pixels, divided by at least one.
                loss = loss + F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") \
                    / part.total((labels >= 0).sum()).clamp(min=1)
            descend(optimizer, loss, scaler=scaler)
            return modularity.detach()

        run = Run(experiment, folder, experiment.probe_steps, state, optimizer, update, scaler)
        train([run], "probe", accelerator, features)
        head.eval().requires_grad_(False)
        if points is None or not experiment.label_free:  # the head is another one now
            points, centroids = _kmeans(experiment, features, head)
        probes = {"modularity": probe.centroids, "kmeans": centroids}
        if experiment.concept_readout:
            generator = generator_for(experiment, "concept k-means")
            some = torch.randperm(len(points), generator=generator)[:START_POINTS].to(points.device)
            probes["concepts"] = concept_kmeans(points[some], num_classes, experiment.concept_readout,
                                                restarts=experiment.kmeans_restarts, generator=generator)
        if not experiment.label_free:
            probes |= {f"linear.{name}": value for name, value in state["linear"].state_dict().items()}
        return _finish(folder, experiment, "probe", accelerator, features, {"probe": probes, "head": head.state_dict()},
                       {"grid": features.grid} | _names(features.dataset), run.seconds, run.history, {"head": upstream})


def fit_baseline(experiment: Experiment) -> Path:
    """The tables' baseline: k-means on the raw tokens. The folder holds `probe.safetensors` with `kmeans` (c, d)."""
    folder = _folder(experiment, "baseline")
    if is_made(folder):
        return folder
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        started = time.monotonic()
        features = FrozenFeatures(experiment, "train", experiment.image_size, accelerator)
        _, centroids = _kmeans(experiment, features)
        return _finish(folder, experiment, "baseline", accelerator, features, {"probe": {"kmeans": centroids}},
                       {"grid": features.grid} | _names(features.dataset), time.monotonic() - started)


def evaluate(experiment: Experiment) -> Path:
    """Judge the head's read-outs on the test split, the baseline beside it; the folder holds `metrics.json`.

    With `release`, the authors' released files are judged instead, without a baseline, and nothing is trained.
    """
    if experiment.release:
        return _evaluate_release(experiment)
    evaluate_baseline(experiment)
    folder = _folder(experiment, "evaluation")
    if is_made(folder):
        return folder
    upstream = fit_probe(experiment)
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        head = load_head(upstream).to(accelerator.device)
        book = load_clusterbook(fit_clusterbook(experiment)).to(accelerator.device)
        readouts = {name: load_probe(upstream, name).to(accelerator.device)
                    for name in _readouts(experiment)}
        return judge(experiment, "evaluation", folder, accelerator, f"CAUSE-{experiment.head.upper()}", head, readouts,
                      book, {"probe": upstream})


def _evaluate_release(experiment: Experiment) -> Path:
    folder = _folder(experiment, "evaluation")
    if is_made(folder):
        return folder
    released = load_released(experiment.release, experiment.head)
    num_concepts, dim = released.book.prototypes.shape
    num_classes, reduced_dim = released.cluster.centroids.shape
    # What was made with the released code is not label-free: labels reach the head in its step 3.
    experiment = experiment.replace(label_free=False, num_concepts=num_concepts, reduced_dim=reduced_dim)
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        features = FrozenFeatures(experiment, "test", experiment.image_size, accelerator)
        if (features.dim, features.dataset.num_classes) != (dim, num_classes):
            raise InputError(f"The files in {experiment.release} are for a backbone of width {dim} and {num_classes} "
                             f"classes; {experiment.backbone} has width {features.dim} and {experiment.dataset} "
                             f"{features.dataset.num_classes} classes: set backbone and dataset to theirs.")
        head, cluster, linear, book = (module.to(accelerator.device) for module in released)
        return judge(experiment, "evaluation", folder, accelerator, f"CAUSE-{experiment.head.upper()} (released files)",
                     head, {"modularity": cluster, "linear": linear}, book, {},
                     {"release": released_fingerprint(experiment.release, experiment.head)})


def evaluate_baseline(experiment: Experiment) -> Path:
    """Judge k-means on the raw tokens in the same way; the folder holds `metrics.json`."""
    folder = _folder(experiment, "baseline_evaluation")
    if is_made(folder):
        return folder
    upstream = fit_baseline(experiment)
    with session(experiment) as accelerator, made_once([folder], accelerator) as wanted:
        if not wanted:
            return folder
        readouts = {"kmeans": load_probe(upstream, "kmeans").to(accelerator.device)}
        return judge(experiment, "baseline_evaluation", folder, accelerator, "k-means", None, readouts, None,
                      {"baseline": upstream})


# --- what stages leave, read again ---

def find(experiment: Experiment, stage: str) -> Path | None:
    """The folder of a stage (a key of `STAGE_FIELDS`) if its artefact is there already, else None; nothing is run."""
    folder = _folder(experiment, stage)
    return folder if is_made(folder) else None


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
                "device": record["device"], "seconds": record["seconds"], "folder": path.parent.as_posix(),
                "miou_all": result.get("miou_all"), "date": record.get("date"), "library": record["library"],
                "weights": record["weights"]["sha256"],
                "dead_clusters": result["num_clusters"] - result["clusters_used"],
                "effective_clusters": result.get("effective_clusters"),
                "dead_concepts": record.get("concepts", {}).get("dead"),
                "effective_concepts": record.get("concepts", {}).get("effective"),
                "warnings": " ".join(record.get("notes", {}).get("warnings", []))})
    columns = ["dataset", "backbone", "method", "readout", "crf", "label_free", "seed", "miou", "pacc", "clusters_used",
               "num_clusters", "images", "device", "seconds", "folder", "miou_all", "date", "library", "weights",
               "dead_clusters", "effective_clusters", "dead_concepts", "effective_concepts", "warnings"]
    return pd.DataFrame(rows, columns=columns)


# --- what they share ---

def _readouts(experiment: Experiment) -> list[str]:
    """The read-outs that `fit_probe` leaves for a run."""
    there = {"modularity": True, "kmeans": True, "concepts": experiment.concept_readout > 0,
             "linear": not experiment.label_free}
    return [name for name, wanted in there.items() if wanted]


def _folder(experiment: Experiment, stage: str) -> Path:
    """An artefact's place: named by the fields that it depends on, the pictures and the backbone's weights.

    What records the classes' names and colours depends on those too; prototypes and heads know of none.
    """
    release = stage == "evaluation" and bool(experiment.release)
    datasets = [] if release else [open_dataset(experiment, "train", experiment.image_size)]
    if "evaluation" in stage:
        datasets.append(open_dataset(experiment, "test", experiment.image_size))
        if experiment.crf_backend not in crf_backends():
            experiment = experiment.replace(crf=False)  # judged again, with it, once it is installed
    depends = experiment.key(stage) | {"data": "".join(dataset.fingerprint for dataset in datasets),
                                       "weights": weights_fingerprint(experiment.backbone)}
    if stage not in ("clusterbook", "head"):
        depends["names"] = [_names(dataset) for dataset in datasets]
    parts = [Path(experiment.folder).name or experiment.dataset, experiment.backbone]
    if "baseline" not in stage and stage != "clusterbook":
        parts.append(experiment.head)
    if release:  # wherever the files are
        depends["release"] = released_fingerprint(experiment.release, experiment.head)
        return artefact_folder(experiment.run_dir, stage, "-".join([*parts, "release"]), depends)
    return artefact_folder(experiment.run_dir, stage, "-".join([*parts, f"s{experiment.seed}"]), depends)


def _new_head(experiment: Experiment, prototypes: Tensor, grid: tuple[int, int]) -> MLPHead | TRHead:
    if experiment.head == "mlp":
        return MLPHead(prototypes.shape[1], experiment.reduced_dim, experiment.dropout)
    return TRHead(prototypes, grid, experiment.reduced_dim, dropout=experiment.dropout)


def _kmeans(experiment: Experiment, features: FrozenFeatures, head: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Tokens, or a head's features, of random patches, (m, d or r), and their k-means centroids, (c, d or r)."""
    points = _sample(experiment, features, head)
    return points, cosine_kmeans(points, features.dataset.num_classes, restarts=experiment.kmeans_restarts,
                                 generator=generator_for(experiment, "k-means"))


@torch.no_grad()
def _sample(experiment: Experiment, features: FrozenFeatures, head: nn.Module | None = None) -> Tensor:
    """Tokens, or a head's features, of random patches of random training views: (m, d or r) float32.

    Each process takes them all: there are few of them, and k-means needs them in one place.
    """
    generator = generator_for(experiment, "sample")
    views = torch.randperm(len(features), generator=generator)[:KMEANS_VIEWS].sort().values
    n = features.grid[0] * features.grid[1]
    each = min(n, -(-KMEANS_POINTS // len(views)))
    points = []
    batches = views.split(experiment.batch_size)
    for tokens in tqdm(features.stream(batches), total=len(batches), desc="sample", leave=False,
                       disable=not features.accelerator.is_main_process):
        x = tokens if head is None else head(tokens, features.grid).float()  # (b, n, d or r)
        kept = torch.stack([torch.randperm(n, generator=generator)[:each] for _ in range(len(x))]).to(x.device)
        points.append(x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[-1])).flatten(0, 1))
    return torch.cat(points)


def _names(dataset: SegmentationDataset) -> dict[str, list]:
    return {"classes": dataset.classes, "colors": dataset.colors.tolist()}


def _finish(folder: Path, experiment: Experiment, stage: str, accelerator: Accelerator, features: FrozenFeatures,
            tensors: dict[str, dict[str, Tensor]], notes: dict[str, Any], seconds: float,
            history: dict[str, list] | None = None, upstream: dict[str, Path] | None = None,
            found: Sequence[str] = ()) -> Path:
    found = [*found, *health.of_losses(stage, (history or {}).get("loss", []), experiment.recipe)]
    notes = notes | {"warnings": health.tell(found, (upstream or {}).values(), show=accelerator.is_main_process),
                     "skipped": dict(features.dataset.skipped)}
    record = {"stage": stage, "experiment": experiment.to_dict(), "library": library_version(),
              "libraries": libraries_of((upstream or {}).values()), "weights": features.weights,
              "device": device_name(accelerator), "seconds": round(seconds, 2),
              "upstream": {name: path.relative_to(experiment.run_dir).as_posix()
                           for name, path in (upstream or {}).items()},
              "history": history or {}, "notes": notes}
    if accelerator.is_main_process:
        write_artefact(folder, record, tensors)
    accelerator.wait_for_everyone()
    return folder
