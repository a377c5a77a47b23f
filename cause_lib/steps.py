"""The training step of each stage: how one batch of frozen tokens changes what is learned.

    clusterbook_run   step 1: prototypes M, by modularity (Eq. 3)
    head_run          step 2: a student head by concept-wise contrast (Eq. 4), its EMA teacher and the bank
    probe_run         step 3: centroids, by modularity of the teacher's features (Eq. 3)

Each returns a `Run` (runs/loop.py), whose `update(tokens, step, part)` makes one update and returns the
detached loss; `part` is what this process has of the batch (runs/parallel.py), with one process all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook, modularity_loss, take_patches
from cause_lib.config import Experiment
from cause_lib.contrast import ConceptBank, concept_contrastive_loss, share_of_each
from cause_lib.heads import MLPHead, TRHead, ema_update, projection
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import Run, batches_for, descend, generator_for, kept_patches, seed_for
from cause_lib.runs.parallel import WHOLE, Part


def clusterbook_run(experiment: Experiment, folder: Path, start: Tensor, accelerator: Accelerator) -> Run:
    """Prototypes (k, d), and how one batch of tokens changes them (Eq. 3)."""
    book = nn.ParameterDict({"prototypes": nn.Parameter(start.to(accelerator.device))})
    optimizer = torch.optim.Adam(book.parameters(), lr=experiment.lr)
    scaler = copy.deepcopy(accelerator.scaler)

    def update(tokens: Tensor, step: int, part: Part = WHOLE) -> Tensor:
        loss = part.share * modularity_loss(tokens, book["prototypes"], experiment.modularity_temperature)
        descend(optimizer, loss, scaler=scaler, part=part)
        return loss.detach()

    return Run(experiment, folder, experiment.concept_steps, {"book": book}, optimizer, update, scaler)


def head_run(experiment: Experiment, folder: Path, book: Clusterbook, accelerator: Accelerator,
             features: FrozenFeatures) -> Run:
    """A student, its teacher and its bank, and how one batch of tokens changes them (Eq. 4)."""
    book, grid = book.to(accelerator.device), features.grid
    torch.manual_seed(seed_for(experiment, "head"))
    head = (MLPHead(book.prototypes.shape[1], experiment.reduced_dim, experiment.dropout) if experiment.head == "mlp"
            else TRHead(book.prototypes, grid, experiment.reduced_dim, dropout=experiment.dropout))
    student = nn.ModuleDict({"head": head, "projection": projection(experiment.reduced_dim, experiment.projection_dim)})
    student = student.to(accelerator.device).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    state: dict[str, Any] = {"student": student, "teacher": teacher}
    learn = [*student.parameters()]
    if experiment.labels_in_norm:
        state["linear"], cross_entropy = supervision(experiment, "head", experiment.head_steps, features, accelerator)
        learn += state["linear"].parameters()
    optimizer = torch.optim.Adam(learn, lr=experiment.lr, weight_decay=experiment.weight_decay)
    scaler = copy.deepcopy(accelerator.scaler)
    bank = None
    if experiment.bank_capacity:
        state["bank"] = bank = ConceptBank(experiment.num_concepts, experiment.projection_dim, experiment.bank_capacity,
                                           device=accelerator.device)
    similarity = book.similarity  # D_M, (k, k)
    high, low = thresholds_for(experiment, book)

    def update(tokens: Tensor, step: int, part: Part = WHOLE) -> Tensor:
        generator = generator_for(experiment, "head", step)
        kept = kept_patches(experiment, grid, generator, part.size or len(tokens), part)
        kept = kept.to(tokens.device, non_blocking=True)
        with accelerator.autocast():
            with torch.no_grad():
                if experiment.labels_in_norm:  # the linear probe sees all patches
                    x = teacher["head"](tokens, grid)  # (b, n, r)
                    taught = take_patches(x, kept)  # (b, n', r)
                else:
                    taught = teacher["head"](tokens, grid, kept)  # (b, n', r)
                z = teacher["projection"](taught)  # (b, n', p)
            seen = student["head"](tokens, grid, kept)  # (b, n', r)
        z, concepts = part.gather(z), part.gather(book.assign(take_patches(tokens, kept)))  # all processes' pictures
        loss = contrast = concept_contrastive_loss(
            seen, z, concepts, similarity, bank, temperature=experiment.contrast_temperature, positive_threshold=high,
            negative_threshold=low, projection=student["projection"], first=part.first, total=part.total)
        if experiment.labels_in_norm:
            loss = contrast + cross_entropy(x, step, part)
        descend(optimizer, loss, clip=experiment.clip_norm, scaler=scaler, part=part)
        ema_update(teacher, student, 0.0 if experiment.shared_start and step == 0 else experiment.ema_decay)
        if bank is not None:
            order, every = torch.randperm(concepts.numel(), generator=generator), concepts.flatten()
            if experiment.bank_draw == "batch":
                drawn = order[:round(experiment.bank_fraction * len(every))]
                drawn = drawn.to(tokens.device, non_blocking=True)
            else:
                drawn = share_of_each(every, experiment.bank_fraction, order.to(tokens.device, non_blocking=True),
                                      len(similarity))
            bank.update(z.float().flatten(0, 1)[drawn], every[drawn])
        return contrast.detach()

    return Run(experiment, folder, experiment.head_steps, state, optimizer, update, scaler)


def thresholds_for(experiment: Experiment, book: Clusterbook) -> tuple[float, float]:
    """phi+ and phi- of a run: its constants, or its quantiles of the clusterbook's D_M."""
    if experiment.positive_quantile is None:
        return experiment.positive_threshold, experiment.negative_threshold
    return book.thresholds(experiment.positive_quantile, experiment.negative_quantile)


def probe_run(experiment: Experiment, folder: Path, head: MLPHead | TRHead, start: Tensor | None,
              accelerator: Accelerator, features: FrozenFeatures, linear: LinearProbe | None = None) -> Run:
    """Centroids (c, r), and how one batch of tokens changes them (Eq. 3); with labels linear probe and head too.

    linear: what step 2 made of the linear probe; None: a new one.
    """
    free = experiment.label_free
    probe = ClusterProbe(features.dataset.num_classes, experiment.reduced_dim, start).to(accelerator.device)
    head.train(experiment.probe_dropout > 0)
    state: dict[str, Any] = {"probe": probe}
    groups: list[dict[str, Any]] = [{"params": [*probe.parameters()]}]
    if not free:
        state["linear"], cross_entropy = supervision(experiment, "probe", experiment.probe_steps, features, accelerator)
        state["head"] = head.requires_grad_(True)
        if linear is not None:
            state["linear"].load_state_dict(linear.state_dict())
        learn = [*head.parameters(), *state["linear"].parameters()]  # their norm is bounded, not that of the centroids
        groups.insert(0, {"params": learn, "weight_decay": experiment.weight_decay})
    optimizer = torch.optim.Adam(groups, lr=experiment.lr)
    scaler = copy.deepcopy(accelerator.scaler)

    def update(tokens: Tensor, step: int, part: Part = WHOLE) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = experiment.lr * 0.5 ** (step // experiment.probe_decay_steps)
        generator = generator_for(experiment, "probe", step)
        kept = kept_patches(experiment, features.grid, generator, part.size or len(tokens), part)
        kept = kept.to(tokens.device, non_blocking=True)
        with accelerator.autocast(), torch.set_grad_enabled(not free):
            x = None if free else head(tokens, features.grid)  # (b, n, r)
            seen = head(tokens, features.grid, kept) if free else take_patches(x, kept)  # (b, n', r)
        modularity = modularity_loss(seen, probe.centroids, experiment.modularity_temperature) * part.share
        loss = modularity if free else modularity + cross_entropy(x, step, part)
        descend(optimizer, loss, clip=experiment.probe_clip_norm, scaler=scaler, part=part)
        return modularity.detach()

    return Run(experiment, folder, experiment.probe_steps, state, optimizer, update, scaler)


def supervision(experiment: Experiment, stage: str, steps: int, features: FrozenFeatures,
                accelerator: Accelerator) -> tuple[LinearProbe, Callable[[Tensor, int, Part], Tensor]]:
    """What labels add: a new linear probe, and its cross-entropy (x, step, part) on features x (b, n, r)."""
    linear = LinearProbe(features.dataset.num_classes, experiment.reduced_dim).to(accelerator.device)
    pictures = None  # read for their labels alone

    def cross_entropy(x: Tensor, step: int, part: Part) -> Tensor:
        nonlocal pictures
        if pictures is None:  # the first update of this session need not be the first of all
            batches = batches_for(experiment, stage, len(features), steps)
            pictures = features.pictures([part.cut(batch) for batch in batches[step:]])
        labels = next(pictures)["label"]  # (b, h, w)
        with accelerator.autocast():
            logits = linear(x).transpose(1, 2).unflatten(2, features.grid)  # (b, c, rows, columns)
        logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
        # A batch of void alone has no cross-entropy: sum over the pixels, divided by at least one.
        pixels = part.total((labels >= 0).sum()).clamp(min=1)
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / pixels

    return linear, cross_entropy
