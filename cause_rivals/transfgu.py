"""TransFGU on a frozen backbone: a decoder learns pseudo-labels made of attention and gradients.

Yin, Wang, Wang, Xu, Zhang, Li, Jin 2022, "TransFGU: A Top-Down Approach to Fine-Grained Unsupervised Semantic
Segmentation". Centroids of class tokens of crops are k classes (crops.py). The soft pseudo-label at patch i, of the
class token's attention a in the last block and g_k = d (1 - cos(class token, centroid_k)) / d a, means over heads:

    q_ki = a_i / max a, 0 where g_ki > 0,  +  max(-g_ki, 0) where that is among the top 80 % of its mass

Decoder: Linear(d, d); class embeddings beside the n tokens; two pre-norm transformer blocks; LayerNorm; patches and
classes each through a d x d matrix, length one; logits = LayerNorm over classes of their cosines. With q scaled to
[0, 1] picture by picture and y its argmax,

    loss = CE(logits, y) + 0.3 mean(1 - (p_first - p_second)) + mean over pairs of classes of (1 + cos)

From epoch B on a teacher, the student of before, takes part: y = argmax of q~ = softmax(teacher) / 2 + q / 2, and alpha
CE(logits, y'), y' the argmax of q~ with its classes shuffled, is subtracted; every T epochs the student becomes the
teacher and starts again. Released code: damo-cv/TransFGU, commit ea49bcdb8ac3 (all configurations freeze the backbone).
Followed: all of the above, dropout, weight decay, gradients clamped, the division of g by the batch (`gradient_batch`).
Not followed:
    scale           200 epochs of batches of 256; here what `epochs` and `epoch_steps` say
    crops           see crops.py; k-means is spherical, since only the centroids' directions are used
    training crops  drawn anew and jittered every epoch; here one of each picture, see views.py
    optimiser       constant rate as released; Adam's moments stay when the student starts again
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.runs.loop import Run, batches_for
from cause_rivals.crops import classes_of, soft_labels_of
from cause_rivals.decoder import Decoder, Given
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.run import Fitting, open_features
from cause_rivals.views import altered, cut, windows

FACETS, SIZE = ("token",), "image_size"
COLOURS = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "jitter": 0.3, "grey": 0.2, "blur": 0.2}
WINDOW = {"smallest": 0.4, "largest": 0.9, "flip": 0.5, "seed": 3}


@dataclass(frozen=True)
class Settings(MethodSettings):
    """What can be set."""

    epochs: int = setting(12, "epochs", "it is a number of epochs", 0)
    epoch_steps: int = setting(0, "updates an epoch (0: one pass over the pictures)", "it is a number of updates", 0)
    rate: float = setting(1e-4, "Adam's rate", "it is the length of a step", 0.0)
    weight_decay: float = setting(5e-4, "weight decay, not of biases and norms", "it shrinks the weights", 0.0)
    boot_from: int = setting(2, "B, the epoch of the first teacher", "it counts epochs", 0)
    boot_every: int = setting(2, "T, epochs of a student", "it is a number of epochs", 1)
    heads: int = setting(6, "attention heads of the decoder", "it has to divide the width of tokens", 1, 1024)
    training_side: int = setting(160, "side of training crops, rounded to patches", "it is a side in pixels", 1, 4096)
    boxes: str = setting("all", "crops that count: `all`; those of `foreground`; or foreground and background `apart`",
                         "crops are chosen so", choices=("all", "foreground", "apart"))
    things: int = setting(0, "of classes `apart`, those of the foreground", "it is a number of classes", 0, 10_000)
    background: bool = setting(False, "the first class is the background", "there is one, or there is none")
    box_sides: str = setting("0.5 0.4 0.3 0.2", "sides of crops, shares of the picture's", "it is a text of numbers")
    source_side: int = setting(0, "side of the pictures that crops are cut from, rounded to patches (0: image_size)",
                               "it is a side in pixels", 0, 4096)
    crop_side: int = setting(320, "side that they get, rounded to patches", "it is a side in pixels", 1, 4096)
    gradient_batch: int = setting(8, "pseudo-labels' gradients are divided by it", "it is a number of pictures", 1)


def losses_of(logits: Tensor, q: Tensor, background: bool, teacher: Tensor | None = None, alpha: float = 0.0,
              order: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy with pseudo-labels, and how undecided the student is.

    Args:
        logits: (b, c, h, w) floating. q: soft pseudo-labels in [0, 1], (b, k, h, w); c = k, or k + 1 with a background.
        teacher: its logits, (b, c, h, w), for bootstrapping. alpha: weight of the negatives.
        order: a permutation (c,) of the classes, which makes them.

    Returns:
        (b, h, w) cross-entropy; 1 - (p_first - p_second), (b, h, w), or a scalar, of the foreground, with a background;
        labels y (b, h, w).
    """
    shown = q.amax(dim=1) > 0.1  # (b, h, w)
    targets = torch.cat([(0.1 - q.amax(dim=1, keepdim=True)).clamp(min=0), q], dim=1) if background else q
    if teacher is not None:
        targets = teacher.softmax(dim=1) / 2 + targets / 2
    labels = targets.argmax(dim=1)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    if teacher is not None:
        entropy = entropy - alpha * F.cross_entropy(logits, targets[:, order].argmax(dim=1), reduction="none")
    first, second = logits[:, int(background):].softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
    undecided = 1 - (first - second)
    if background:
        undecided = (undecided * shown).sum() / shown.sum().clamp(min=1)
    return entropy, undecided, labels


def scaled(q: Tensor) -> Tensor:
    """q (b, k, h, w) to [0, 1], picture by picture, over all classes together."""
    low, high = q.amin(dim=(1, 2, 3), keepdim=True), q.amax(dim=(1, 2, 3), keepdim=True)
    return (q - low) / (high - low).clamp(min=torch.finfo(q.dtype).tiny)


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The decoder, whose features are logits; `own` takes the largest."""
    return Decoder(dim, num_classes, rival.settings.heads), {"own": Given()}


def fit(fitting: Fitting) -> Run:
    """Classes of crops, pseudo-labels of pictures, then the decoder."""
    settings, experiment, student = fitting.rival.settings, fitting.rival.experiment, fitting.head
    q = soft_labels_of(fitting, classes_of(fitting))  # (views, k, rows, columns)
    patch = fitting.features.backbone.patch_size
    side = max(1, round(settings.training_side / patch)) * patch
    of_crops = replace(fitting.rival, experiment=experiment.replace(image_size=side))
    features = open_features(of_crops, "train", fitting.accelerator, view=partial(altered, **COLOURS, **WINDOW))
    each = settings.epoch_steps or max(1, len(features) // experiment.batch_size)
    batches = batches_for(experiment, "rival", len(features), settings.epochs * each)
    teacher, start = (deepcopy(student).requires_grad_(False) for _ in range(2))
    decayed, others = ([p for p in student.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    optimizer = torch.optim.Adam([{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others}],
                                 lr=settings.rate)

    def update(tokens: Tensor, step: int, part) -> Tensor:
        age = step // each - settings.boot_from
        if age >= 0 and age % settings.boot_every == 0 and step % each == 0:
            teacher.load_state_dict(student.state_dict())
            student.load_state_dict(start.state_dict())
        index = batches[step]
        labels = cut(q[index].to(tokens.device).float(), windows(index, **WINDOW).to(tokens.device), features.grid)
        logits, classes = student.both(tokens)
        boot = {}
        if age >= 0:
            with torch.no_grad():
                boot = {"teacher": teacher.eval()(tokens).mT.unflatten(2, features.grid),
                        "alpha": min(0.1, 0.03 + 0.01 * (age % settings.boot_every)),
                        "order": torch.randperm(logits.shape[-1], generator=fitting.generator("order", step))}
        entropy, undecided, _ = losses_of(logits.mT.unflatten(2, features.grid), scaled(labels), settings.background,
                                          **boot)
        loss = entropy.mean() + 0.3 * undecided.mean() + student.apart(classes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(student.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    run = Run(experiment, fitting.folder, len(batches), {"student": student, "teacher": teacher, "start": start},
              optimizer, update)
    return replace(fitting, features=features).train(run)
