"""IIC's objective on tokens of two views: mutual information of what neighbouring patches are taken for.

Ji, Henriques, Vedaldi 2019, "Invariant Information Clustering for Unsupervised Image Classification and Segmentation".
p, p' (b, k, h, w): probabilities of k clusters in a picture and in its other view, which is brought back to the
picture's frame. For each shift v in a box of side 2 T + 1

    J_v = sum_{b, i} p_i p'_{i+v}^T,  zero padding;  J_v <- J_v / sum J_v;  J_v <- (J_v + J_v^T) / 2         # (k, k)
    loss = mean_v - sum_kl J_kl (log J_kl - lambda log J_k. - lambda log J_.l)

Released code: xu-ji/IIC, commit b7602b743552. Followed: the uncollapsed loss, two outputs on one trunk (k_A clusters,
more than classes, and k_B = c), trained in turns, Adam, the amounts of jitter, the flip, `own` is output B.
Not followed:
    network         trained from scratch on colours and Sobel edges; here a head on frozen tokens, hence "objective"
    mask            made of ground truth (void is left out); here every patch counts
    T               10 of 128 pixels; here counted in patches
    views           jitter and flip anew every epoch; here one of each picture, see views.py
    before argmax   probabilities are upsampled; here, as for all methods, features
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.heads import MLPHead
from cause_lib.probes import LinearProbe
from cause_lib.runs.loop import Run, batches_for, descend
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.run import Fitting, SideBySide
from cause_rivals.views import altered, cut_tokens, windows

FACETS, SIZE = ("token",), "image_size"
TINY = 2.2e-16  # the smallest entry of J whose logarithm is taken


@dataclass(frozen=True)
class Settings(MethodSettings):
    """What can be set."""

    steps: int = setting(300, "updates", "it is a number of updates", 0)
    rate: float = setting(1e-4, "Adam's rate", "it is the length of a step", 0.0)
    width: int = setting(90, "width of the trunk that both outputs share", "it is a width", 1, 65_536)
    overclusters: int = setting(45, "clusters k_A of the other output", "it is a number of clusters", 1, 65_536)
    turn: int = setting(0, "updates of one output before it is the other's turn (0: one pass over the views)",
                        "it is a number of updates", 0)
    reach: int = setting(1, "T, in patches", "it is a number of patches", 0, 64)
    entropy: float = setting(1.0, "lambda of output B", "the marginals' entropy is weighted by it", 0.0)
    over_entropy: float = setting(1.0, "lambda of output A", "the marginals' entropy is weighted by it", 0.0)
    jitter: float = setting(0.4, "change of brightness, contrast and saturation", "it is a share", 0.0, 1.0)
    hue: float = setting(0.125, "change of hue", "it is a share of the circle of hues", 0.0, 0.5)
    flip: float = setting(0.5, "probability that the other view is mirrored", "it is a probability", 0.0, 1.0)


def iic_loss(p: Tensor, p2: Tensor, mask: Tensor | None, reach: int, entropy: float = 1.0,
             collapsed: bool = False) -> Tensor:
    """IIC's loss.

    Args:
        p, p2: probabilities (b, k, h, w) floating, of the same places.
        mask: (b, h, w), 1 where a place counts; None: all do.
        reach: T, shifts of -T to T rows and columns.
        entropy: lambda. collapsed: sum J over shifts before it is normalised, another objective.

    Returns:
        A scalar, at best - log k.

    Examples:
        >>> p = torch.eye(2).reshape(1, 2, 1, 2)  # two patches side by side, of two clusters
        >>> round(float(iic_loss(p, p, None, reach=0)), 4)
        -0.6931
    """
    p, p2 = ((x if mask is None else x * mask[:, None]).transpose(0, 1) for x in (p, p2))  # (k, b, h, w)
    (h, w), padded = p.shape[2:], F.pad(p2, (reach,) * 4)
    joint = torch.stack([p.flatten(1) @ padded[:, :, i:i + h, j:j + w].flatten(1).T
                         for i in range(2 * reach + 1) for j in range(2 * reach + 1)])  # (shifts, k, k)
    joint = joint.sum(dim=0, keepdim=True) if collapsed else joint
    total = joint.sum(dim=(1, 2), keepdim=True)
    joint = joint / (total.detach() if collapsed else total)  # as released: a number without a gradient
    joint = (joint + joint.mT) / 2
    rows, columns = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
    logs = [x.clamp(min=TINY).log() for x in (joint, rows, columns)]
    return -(joint.clamp(min=TINY) * (logs[0] - entropy * logs[1] - entropy * logs[2])).sum(dim=(1, 2)).mean()


class Head(MLPHead):
    """The trunk, tokens (b, n, d) -> (b, n, r), and output A beside it, which is needed in training alone."""

    def __init__(self, dim: int, width: int, overclusters: int) -> None:
        super().__init__(dim, width, dropout=0.0)
        self.over = nn.Linear(width, overclusters)


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Trunk with output A; `own` is output B, trained here without labels."""
    settings = rival.settings
    return (Head(dim, settings.width, settings.overclusters),
            {"own": LinearProbe(num_classes, settings.width)})


def fit(fitting: Fitting) -> Run:
    """Adam on the loss of one output at a time."""
    settings, features, experiment = fitting.rival.settings, fitting.features, fitting.rival.experiment
    head, own = fitting.head, fitting.readouts["own"]
    parts = nn.ModuleDict({"head": head, "own": own})
    optimizer = torch.optim.Adam(parts.parameters(), lr=settings.rate)
    other = fitting.other(view=partial(altered, brightness=settings.jitter, contrast=settings.jitter,
                                       saturation=settings.jitter, hue=settings.hue, flip=settings.flip))
    batches = batches_for(experiment, "rival", len(features), settings.steps)
    turn = settings.turn or max(1, len(features) // experiment.batch_size)
    outputs = ((head.over, settings.over_entropy), (own, settings.entropy))

    def update(tokens: Tensor, step: int, part) -> Tensor:
        output, entropy = outputs[step // turn % 2]
        first, second = tokens.chunk(2, dim=-1)  # (b, n, d) each
        second = cut_tokens(second, windows(batches[step], flip=settings.flip), features.grid)  # turned back
        p, p2 = (output(head(view)).softmax(dim=-1).mT.unflatten(2, features.grid) for view in (first, second))
        loss = iic_loss(p, p2, None, settings.reach, entropy)
        descend(optimizer, loss)
        return loss.detach()

    run = Run(experiment, fitting.folder, settings.steps, {"parts": parts}, optimizer, update)
    return replace(fitting, features=SideBySide([features, other])).train(run)
