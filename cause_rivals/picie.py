"""PiCIE's objective on tokens of two views: clusters of one view are the labels of the other.

Cho, Mall, Bala, Hariharan 2021, "PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in
Clustering". f1, f2 (b, n, r) of length one: features of two views, at the same places. At the start of each epoch, for
each view v its centroids mu_v (c, r) by mini-batch k-means, and labels by the nearest one,

    mu_k <- (1 - e) mu_k + e mean_k,  e = n_k / N_k,  N_k <- N_k + n_k;   y_v = argmax_k 2 f_v . mu_vk - |mu_vk|^2
    CE(f, mu, y): softmax of f . mu, weighted by the share of patches that have the label
    loss = (CE(f1, mu1, y1) + CE(f2, mu2, y2)) / 4 + (CE(f1, mu2, y2) + CE(f2, mu1, y1)) / 4     # within, across

Centroids are then fixed for one pass. Released code: janghyuncho/PiCIE, commit c3aa029283ee. Followed: mini-batch
k-means and centroids that are not renormalised, labels by distance, logits by product, weights that are the clusters'
frequency (`balanced` False: none), no temperature, Adam without decay, a fresh k-means on the plain pictures as `own`.
View 1 is a window of the altered picture, view 2 the same window of the altered picture's map of tokens.
Not followed:
    network         ResNet18 (ImageNet, with labels) and FPN, trained; here one linear map of frozen tokens
    views           anew every epoch, the window from twice the resolution; here one of each picture, see views.py
    grey            in the list, but never happens, as released
    first centroids faiss on 20 batches; here spherical k-means on so many patches, then their means
    overclustering  +H of the paper is not in the released code path
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.runs.loop import Run, batches_for, descend
from cause_rivals.minibatch import Centroids, clustered, nearest
from cause_rivals.rival import MethodSettings, Rival, setting
from cause_rivals.run import Fitting, SideBySide
from cause_rivals.views import altered, cut_tokens, photometric, windows

FACETS, SIZE = ("token",), "image_size"


@dataclass(frozen=True)
class Settings(MethodSettings):
    """What can be set."""

    epochs: int = setting(10, "passes over the views", "it is a number of passes", 0)
    rate: float = setting(1e-4, "Adam's rate", "it is the length of a step", 0.0)
    width: int = setting(128, "width r of the features", "it is a width", 1, 65_536)
    start_views: int = setting(5120, "views that k-means starts from", "it is a number of views", 1)
    balanced: bool = setting(True, "weigh labels by their frequency, as released", "labels are weighted, or are not")
    smallest: float = setting(0.5, "the window's side is this share of the picture's, at least", "it is a share of a "
                              "side", 0.05, 1.0)
    flip: float = setting(0.5, "probability that it is mirrored", "it is a probability", 0.0, 1.0)
    jitter: float = setting(0.3, "change of brightness, contrast and saturation", "it is a share", 0.0, 1.0)
    hue: float = setting(0.1, "change of hue", "it is a share of the circle of hues", 0.0, 0.5)
    blur: float = setting(0.5, "probability of blur", "it is a probability", 0.0, 1.0)


def cross_entropy(f: Tensor, mu: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """Of f (b, n, r) by products with mu (c, r), labels (b, n); mean weighted by weight (c,): a scalar."""
    return F.cross_entropy((f @ mu.T).flatten(0, 1), labels.flatten(), weight=weight)


def picie_loss(f: Sequence[Tensor], mu: Tensor, labels: Sequence[Tensor],
               weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The loss within views, and that across them, scalars; PiCIE's is their mean.

    Args:
        f: features (b, n, r) of length one, of both views. mu: (2, c, r). labels: (b, n) of both, by `nearest`.
        weights: (2, c), of labels. None: all weigh the same.
    """
    w = (None, None) if weights is None else weights
    within = [cross_entropy(f[v], mu[v], labels[v], w[v]) for v in (0, 1)]
    across = [cross_entropy(f[v], mu[1 - v], labels[1 - v], w[1 - v]) for v in (0, 1)]
    return sum(within) / 2, sum(across) / 2


class Head(nn.Linear):
    """One linear map of tokens, then length one: (b, n, d) -> (b, n, r)."""

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return F.normalize(super().forward(tokens), dim=-1)


class Epoch(nn.Module):
    """What is fixed during an epoch: the head that labels, the centroids of both views, the labels' shares."""

    def __init__(self, head: Head, num_classes: int) -> None:
        super().__init__()
        self.head = deepcopy(head).requires_grad_(False)
        self.register_buffer("mu", torch.zeros(2, num_classes, head.out_features))
        self.register_buffer("shares", torch.zeros(2, num_classes))


def build(rival: Rival, dim: int, num_classes: int, grid: tuple[int, int]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A linear head; `own` are the centroids of its features."""
    return Head(dim, rival.settings.width), {"own": Centroids(num_classes, rival.settings.width)}


def fit(fitting: Fitting) -> Run:
    """Mini-batch k-means and Adam in turns; then k-means once more, on the plain pictures."""
    settings, experiment, plain = fitting.rival.settings, fitting.rival.experiment, fitting.features
    colours = {"brightness": settings.jitter, "contrast": settings.jitter, "saturation": settings.jitter,
               "hue": settings.hue, "each": 0.8, "blur": settings.blur}
    window = {"smallest": settings.smallest, "flip": settings.flip, "seed": 1}
    both = SideBySide([fitting.other(view=partial(altered, **colours, **window)),
                       fitting.other(view=partial(photometric, **colours, seed=2))])
    views, head, start = len(plain), fitting.head, -(-settings.start_views // experiment.batch_size)
    each, classes = max(1, views // experiment.batch_size), plain.dataset.num_classes
    batches = batches_for(experiment, "rival", views, settings.epochs * each)
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.rate)
    epoch = Epoch(head, classes).to(fitting.accelerator.device)

    def placed(tokens: Tensor, index: Tensor, other: bool) -> Tensor:
        return cut_tokens(tokens, windows(index, **window), plain.grid) if other else tokens

    @torch.no_grad()
    def begin(number: int) -> None:
        epoch.head.load_state_dict(head.state_dict())
        for view, features in enumerate(both.parts):
            draw = fitting.generator("k-means", number, view)
            order = torch.randperm(views, generator=draw).split(experiment.batch_size)

            def seen() -> Iterator[Tensor]:
                for index, tokens in zip(order, features.stream(order)):
                    yield epoch.head(placed(tokens, index, view == 1)).flatten(0, 1)

            epoch.mu[view] = clustered(seen(), start, classes, draw)
            shares = sum(torch.bincount(nearest(f, epoch.mu[view]), minlength=classes) for f in seen())
            epoch.shares[view] = shares / shares.sum()

    def update(tokens: Tensor, step: int, part) -> Tensor:
        if step % each == 0:
            begin(step // each)
        pair = [placed(x, batches[step], bool(view)) for view, x in enumerate(tokens.chunk(2, dim=-1))]
        labels = [nearest(epoch.head(x), mu) for x, mu in zip(pair, epoch.mu)]
        weights = epoch.shares if settings.balanced else None
        loss = sum(picie_loss([head(x) for x in pair], epoch.mu, labels, weights)) / 2
        descend(optimizer, loss)
        return loss.detach()

    state = {"head": head, "epoch": epoch}
    run = replace(fitting, features=both).train(Run(experiment, fitting.folder, len(batches), state, optimizer, update))
    draw = fitting.generator("k-means")
    order = torch.randperm(views, generator=draw).split(experiment.batch_size)
    with torch.no_grad():
        found = clustered((head(x).flatten(0, 1) for x in plain.stream(order)), start, classes, draw)
        fitting.readouts["own"].centroids.copy_(found)
    return run
