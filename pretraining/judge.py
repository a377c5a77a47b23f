"""How good tokens are, judged by labels that no training ever sees.

    k-means   clusters of training tokens, upsampled to the pixels of other pictures, matched to classes: mIoU
    k-NN      a patch takes the class that its 20 nearest training patches vote for, weighted by exp(cos / 0.07)
              (Wu et al. 2018; DINO's evaluation)
    linear    a linear classifier of training patches' tokens

The last two judge patches, whose class is that of most of their pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.metrics import SegmentationMetrics
from cause_lib.probes import ClusterProbe, LinearProbe, cosine_kmeans


def rgb_statistics(images: Tensor, patch: int) -> Tensor:
    """The simplest tokens: mean and standard deviation of each colour in a patch; (b, 3, h, w) -> (b, n, 6)."""
    pixels = F.unfold(images, patch, stride=patch).unflatten(1, (3, patch * patch))  # (b, 3, patch^2, n)
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2)], dim=1).transpose(1, 2)


def patch_labels(labels: Tensor, patch: int, num_classes: int) -> Tensor:
    """The class that most pixels of a patch have, -1 if most are void; (b, h, w) int64 -> (b, n) int64."""
    votes = F.one_hot(labels + 1, num_classes + 1).permute(0, 3, 1, 2).float()  # (b, 1 + c, h, w), void first
    return F.avg_pool2d(votes, patch).argmax(dim=1).flatten(1) - 1


def kmeans_score(train: Tensor, tokens: Tensor, labels: Tensor, num_classes: int, seeds: int = 3) -> dict[str, float]:
    """mIoU and pixel accuracy of k-means, as fractions, means over seeds.

    Args:
        train: (m, d), what the clusters are found on. tokens: (b, n, d) of square pictures. labels: (b, h, w).
    """
    side = round(tokens.shape[1] ** 0.5)
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))  # (b, d, rows, columns)
    scores = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        centroids = cosine_kmeans(train, num_classes, generator=generator)
        probe, metrics = ClusterProbe(num_classes, train.shape[1], centroids).to(train.device), \
            SegmentationMetrics(num_classes)
        for one, label in zip(maps.split(8), labels.split(8)):
            pixels = F.interpolate(one, label.shape[1:], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
            metrics.update(probe(pixels).argmax(dim=-1), label)
        scores.append(metrics.compute())
    return {name: sum(score[name] for score in scores) / seeds for name in ("miou", "pacc")}


def knn_score(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, *,
              neighbours: int = 20, temperature: float = 0.07) -> dict[str, float]:
    """mIoU and accuracy over patches, as fractions; train (m, d), test (l, d), labels (m,), (l,), -1 left out."""
    known = train_labels >= 0
    train, votes = F.normalize(train[known], dim=-1), F.one_hot(train_labels[known], num_classes).float()  # (m, c)
    prediction = []
    for part in F.normalize(test, dim=-1).split(2048):
        cosine, nearest = (part @ train.T).topk(min(neighbours, len(train)), dim=1)  # (l, k)
        weight = (cosine / temperature).softmax(dim=1)  # only the weights' ratios matter
        prediction.append((votes[nearest] * weight[..., None]).sum(dim=1).argmax(dim=1))
    return _score(torch.cat(prediction), test_labels, num_classes)


def linear_score(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, *,
                 iterations: int = 100, weight_decay: float = 1e-4) -> dict[str, float]:
    """mIoU and accuracy over patches, as fractions, of logistic regression by L-BFGS; shapes as in `knn_score`."""
    known = train_labels >= 0
    mean, std = train.mean(dim=0), train.std(dim=0).clamp(min=1e-6)
    x, y = (train[known] - mean) / std, train_labels[known]
    probe = LinearProbe(num_classes, x.shape[1]).to(x.device)
    for parameter in probe.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(x), y) + weight_decay * probe.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    with torch.no_grad():
        return _score(probe((test - mean) / std).argmax(dim=1), test_labels, num_classes)


def judge_tokens(look: Callable[[Tensor], Tensor], train: list[dict], test: list[dict], num_classes: int, patch: int, *,
                 probes: bool = True) -> dict[str, dict[str, float]]:
    """All scores of one kind of tokens: {"k-means": {"miou", "pacc"}, "k-NN": ..., "linear": ...}, as fractions.

    Args:
        look: images (b, 3, h, w) -> tokens (b, n, d). train, test: items of a labelled data set.
        probes: False leaves out k-NN and the linear probe.
    """
    device = next((p.device for p in look.parameters()), "cpu") if isinstance(look, nn.Module) else "cpu"
    tokens, labels = {}, {}
    for name, items in (("train", train), ("test", test)):
        images = torch.stack([item["image"] for item in items])  # (b, 3, h, w)
        labels[name] = torch.stack([item["label"] for item in items])  # (b, h, w)
        tokens[name] = torch.cat([look(part.to(device)).float().cpu() for part in images.split(16)])  # (b, n, d)
    points = {name: value.flatten(0, 1) for name, value in tokens.items()}
    scores = {"k-means": kmeans_score(points["train"], tokens["test"], labels["test"], num_classes)}
    if probes:
        classes = {name: patch_labels(value, patch, num_classes).flatten() for name, value in labels.items()}
        both = (points["train"], classes["train"], points["test"], classes["test"], num_classes)
        scores |= {"k-NN": knn_score(*both), "linear": linear_score(*both)}
    return scores


def _score(prediction: Tensor, labels: Tensor, num_classes: int) -> dict[str, float]:
    metrics = SegmentationMetrics(num_classes, match=False)
    metrics.update(prediction, labels)
    return {name: metrics.compute()[name] for name in ("miou", "pacc")}
