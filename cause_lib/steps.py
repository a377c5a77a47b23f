"""The training step of each stage: how one batch of frozen tokens changes what is learned.

    clusterbook_run   step 1: prototypes M, by modularity (Eq. 3)
    head_run          step 2: a student head by concept-wise contrast (Eq. 4), its EMA teacher and the bank
    probe_run         step 3: centroids, by modularity of the teacher's features (Eq. 3)

Each returns a `Run` (runs/loop.py), whose `update(tokens, step, part)` makes one update and returns the
detached loss; `part` is what this process has of the batch (runs/parallel.py), with one process all of it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from cause_lib.clusterbook import Clusterbook, modularity_loss, thin_grid
from cause_lib.config import Experiment
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.heads import MLPHead, TRHead, ema_update, projection
from cause_lib.probes import ClusterProbe, LinearProbe
from cause_lib.runs.features import FrozenFeatures
from cause_lib.runs.loop import Run, batches_for, descend, generator_for, seed_for
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
             grid: tuple[int, int]) -> Run:
    """A student, its teacher and its bank, and how one batch of tokens changes them (Eq. 4)."""
    book = book.to(accelerator.device)
    torch.manual_seed(seed_for(experiment, "head"))
    head = (MLPHead(book.prototypes.shape[1], experiment.reduced_dim, experiment.dropout) if experiment.head == "mlp"
            else TRHead(book.prototypes, grid, experiment.reduced_dim, dropout=experiment.dropout))
    student = nn.ModuleDict({"head": head, "projection": projection(experiment.reduced_dim, experiment.projection_dim)})
    student = student.to(accelerator.device).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), lr=experiment.lr, weight_decay=experiment.weight_decay)
    scaler = copy.deepcopy(accelerator.scaler)
    bank = ConceptBank(experiment.num_concepts, experiment.projection_dim, experiment.bank_capacity,
                       device=accelerator.device) if experiment.bank_capacity else None
    similarity = book.similarity  # D_M, (k, k)
    high, low = thresholds_for(experiment, book)

    def update(tokens: Tensor, step: int, part: Part = WHOLE) -> Tensor:
        generator = generator_for(experiment, "head", step)
        kept = thin_grid(grid, experiment.thin, generator).to(tokens.device)  # (n',)
        with accelerator.autocast():
            with torch.no_grad():
                z = teacher["projection"](teacher["head"](tokens, grid, kept))  # (b, n', p)
            seen = student["head"](tokens, grid, kept)  # (b, n', r)
        z, concepts = part.gather(z), part.gather(book.assign(tokens[:, kept]))  # (b, n', p), (b, n'), all processes'
        loss = concept_contrastive_loss(seen, z, concepts, similarity, bank,
                                        temperature=experiment.contrast_temperature,
                                        positive_threshold=high, negative_threshold=low,
                                        projection=student["projection"], first=part.first, total=part.total)
        descend(optimizer, loss, clip=experiment.clip_norm, scaler=scaler, part=part)
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


def probe_run(experiment: Experiment, folder: Path, head: MLPHead | TRHead, start: Tensor | None,
              accelerator: Accelerator, features: FrozenFeatures) -> Run:
    """Centroids (c, r), and how one batch of tokens changes them (Eq. 3); with labels linear probe and head too."""
    num_classes, free = features.dataset.num_classes, experiment.label_free
    probe = ClusterProbe(num_classes, experiment.reduced_dim, start).to(accelerator.device)
    state: dict[str, Any] = {"probe": probe}
    if not free:
        state |= {"linear": LinearProbe(num_classes, experiment.reduced_dim).to(accelerator.device),
                  "head": head.train().requires_grad_(True)}
    optimizer = torch.optim.Adam([p for module in state.values() for p in module.parameters()], lr=experiment.lr)
    scaler = copy.deepcopy(accelerator.scaler)
    pictures = None  # read for their labels, by the released step 3 alone

    def update(tokens: Tensor, step: int, part: Part = WHOLE) -> Tensor:
        optimizer.param_groups[0]["lr"] = experiment.lr * 0.5 ** (step // experiment.probe_decay_steps)
        kept = thin_grid(features.grid, experiment.thin, generator_for(experiment, "probe", step)).to(tokens.device)
        with accelerator.autocast(), torch.set_grad_enabled(not free):
            x = None if free else head(tokens, features.grid)  # (b, n, r)
            seen = head(tokens, features.grid, kept) if free else x[:, kept]  # (b, n', r)
        modularity = modularity_loss(seen, probe.centroids, experiment.modularity_temperature) * part.share
        loss = modularity if free else modularity + cross_entropy(x, step, part)
        descend(optimizer, loss, scaler=scaler, part=part)
        return modularity.detach()

    def cross_entropy(x: Tensor, step: int, part: Part) -> Tensor:
        """That of the linear probe on features (b, n, r), upsampled to the labels' size."""
        nonlocal pictures
        if pictures is None:  # the first update of this session need not be the first of all
            batches = batches_for(experiment, "probe", len(features), experiment.probe_steps)
            pictures = features.pictures([part.cut(batch) for batch in batches[step:]])
        labels = next(pictures)["label"]  # (b, h, w)
        logits = state["linear"](x).transpose(1, 2).unflatten(2, features.grid)  # (b, c, rows, columns)
        logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
        # A batch of void alone has no cross-entropy: sum over the pixels, divided by at least one.
        pixels = part.total((labels >= 0).sum()).clamp(min=1)
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / pixels

    return Run(experiment, folder, experiment.probe_steps, state, optimizer, update, scaler)
