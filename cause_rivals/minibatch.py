"""Mini-batch k-means of patches that do not fit into memory together, as PiCIE has it.

    e_k = n_k / N_k,  N_k the patches that centroid k has had, those of this batch included
    mu_k <- (1 - e_k) mu_k + e_k mean_k

by squared distance, and no centroid is brought to length one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cause_lib.probes import cosine_kmeans

START = 256  # patches a cluster that k-means starts from, as faiss takes them


def nearest(f: Tensor, mu: Tensor) -> Tensor:
    """Labels by squared distance: f (..., r), mu (c, r) -> (...) int64.

    Examples:
        >>> nearest(torch.tensor([[0.9, 0.1]]), torch.eye(2))
        tensor([0])
    """
    return (2 * f @ mu.T - mu.square().sum(dim=1)).argmax(dim=-1)


def moved(mu: Tensor, counts: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """One batch f (m, r) of mini-batch k-means: centroids mu (c, r) and counts N (c,), both new."""
    members = F.one_hot(nearest(f, mu), len(mu)).to(f)  # (m, c)
    new = members.sum(dim=0)  # (c,)
    counts = counts + new
    means = members.T @ f / new.clamp(min=1)[:, None]
    return torch.lerp(mu, means, (new / (counts + 1e-6))[:, None]), counts


@torch.no_grad()
def clustered(batches: Iterator[Tensor], start: int, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Mini-batch k-means of batches (m, r) on length one, from spherical k-means on the first `start`: (c, r)."""
    first, seen, each = [], 0, -(-START * num_clusters // start)
    for batch in islice(batches, start):
        rows = torch.randperm(len(batch), generator=generator)[:each]
        first.append(batch[rows.to(batch.device)])
        seen += len(batch)
    points = torch.cat(first)
    mu = cosine_kmeans(points, num_clusters, restarts=1, iterations=20, generator=generator)
    mu, counts = moved(mu, mu.new_zeros(num_clusters), points)  # to the means; N as if of all patches seen
    counts = counts * (seen / len(points))
    for batch in batches:
        mu, counts = moved(mu, counts, batch)
    return mu


class Centroids(nn.Module):
    """Products with centroids (c, r), as released: no temperature, their lengths left as they are."""

    sharpness = None  # products are the logits, see `cause_lib.masks.log_scores`

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(num_classes, dim))

    def log_probabilities(self, features: Tensor) -> Tensor:
        """log softmax of the products: features (..., r) -> (..., c)."""
        return F.log_softmax(self.products(features), dim=-1)

    def products(self, features: Tensor) -> Tensor:
        """features (..., r) -> (..., c)."""
        return features @ self.centroids.T
