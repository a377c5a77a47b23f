"""Granularity: agreement of concepts, features and masks with parts, objects and groups.

Labels of the generated world come at three nested levels (data/scenes/world.py). Two tables hold all numbers:

    N_kp   patches, or pixels, of concept, or cluster, k and part p; a coarser level adds columns up
           purity  sum_k max_c N_kc / N
           AMI     (I - E I) / ((H_k + H_c) / 2 - E I), I mutual information, H entropies in bits, E the mean over
                   random tables with the same sums of rows and columns (Vinh, Epps and Bailey 2010, JMLR 11)
           told    the rise of I - E I over the rise of H_c - E I, from the next coarser level to this one
           above   AMI of every picture's own mask minus AMI of another picture's: what the layout that all pictures
                   share (sky above, road below) does not explain
    R_pq   pairs of patches of one picture, one of part p and one of part q: cos > phi+ positive, cos < phi- negative,
           else ignored, as in contrast.py; m_pq is the median of their cosines

p and q are *tied* at phi+ when more than half of their pairs are positive, which is m_pq > phi+. Parts that a chain of
ties joins are one segment: the single linkage of m.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from scipy.stats import random_table
from sklearn.metrics.cluster import expected_mutual_information
from torch import Tensor

from cause_lib.data.scenes.world import LEVELS, find_level
from cause_lib.errors import InputError
from cause_lib.metrics import SegmentationMetrics, count

NEVER = 3.0  # a height, 1 - phi+, that no cosine reaches


def patch_labels(labels: Tensor, patch_size: int) -> Tensor:
    """The label that most pixels of each patch have, the smallest of several: (b, n) int64, -1 for patches all void.

    labels: (b, h, w) int64, -1 void
    patch_size: side of a patch in pixels

    Raises ValueError if patches of this size do not fill the picture.
    """
    b, h, w = labels.shape
    if h % patch_size or w % patch_size:
        raise InputError(f"Patches of {patch_size} pixels do not fill a label of {h} x {w}: choose an image_size that "
                         f"{patch_size} divides.")
    pixels = labels.unflatten(2, (-1, patch_size)).unflatten(1, (-1, patch_size)).transpose(2, 3)
    pixels = pixels.flatten(3).flatten(0, 2)  # (b n, pixels of a patch)
    width = int(labels.max()) + 2  # void takes the first place
    place = torch.arange(len(pixels), device=labels.device)[:, None] * width + pixels + 1
    counts = count(place, len(pixels) * width).view(b, -1, width)[:, :, 1:]  # (b, n, c)
    if counts.shape[2] == 0:
        return labels.new_full((b, counts.shape[1]), -1)
    most, label = counts.max(dim=2)
    return torch.where(most > 0, label, -1)


def at_level(parts: Tensor, level: str) -> Tensor:
    """Labels of parts (...) int64, -1 void, as labels of `level`: "part", "object" or "group"."""
    return torch.tensor([*find_level(level)[1], -1], device=parts.device)[parts]  # void, -1, is the last


def best_view(parts: Tensor, own: Sequence[int]) -> tuple[int, tuple[int, int, int]]:
    """Where one object shows best: the connected piece whose smallest part is largest.

    parts: (b, h, w) int64, labels of parts
    own: the object's parts; a piece that has the first of them twice (two heads) is the last choice

    Returns the picture's number, and a square around the piece inside the picture: top, left, side in pixels.
    Raises ValueError if none of its parts is in any picture.
    """
    best, view = (False, -1), None
    for number, label in enumerate(parts.cpu().numpy()):
        pieces, count_of = ndimage.label(np.isin(label, own), structure=np.ones((3, 3)))
        for piece in range(1, count_of + 1):
            sizes = np.bincount(label[pieces == piece], minlength=max(own) + 1)[list(own)]  # (p,)
            single = ndimage.label((pieces == piece) & (label == own[0]), structure=np.ones((3, 3)))[1] == 1
            if (single, sizes.min()) > best:
                best, view = (single, sizes.min()), (number, pieces == piece)
    if view is None:
        raise InputError(f"No picture shows a part of {list(own)}: take more pictures.")
    number, piece = view
    (rows, columns), shape = np.nonzero(piece), piece.shape
    side = min(*shape, int(1.15 * max(np.ptp(rows), np.ptp(columns))) + 2)
    corner = [int(np.clip((where.min() + where.max() - side) // 2, 0, length - side))
              for where, length in zip((rows, columns), shape)]
    return number, (*corner, side)


def count_table(concepts: Tensor, labels: Tensor, num_concepts: int, num_labels: int) -> Tensor:
    """N: how often concept k and label c meet; concepts, labels (...) int64, -1 void -> (k, c) int64."""
    known = labels >= 0
    bins = concepts[known] * num_labels + labels[known]
    return count(bins, num_concepts * num_labels).view(num_concepts, num_labels)


def coarser(table: Tensor, classes: Sequence[int]) -> Tensor:
    """The columns (k, p) of parts that have one class, added up: (k, c). classes: the class of each part (p)."""
    owner = torch.as_tensor(classes, device=table.device)
    return table.new_zeros(len(table), int(owner.max()) + 1).index_add_(1, owner, table)


def agreement(table: Tensor, *, draws: int = 100, seed: int = 0) -> dict[str, float]:
    """Agreement of concepts with labels, and its expectation by chance.

    table: (k, c) int64 counts; ValueError if it is empty
    draws: random tables with the same sums of rows and columns, for `purity_by_chance`

    Returns purity, purity_by_chance in [0, 1]; information, information_by_chance, label_entropy, concept_entropy in
    bits; ami: at most 1, about 0 by chance for any numbers of concepts and classes, 1 where there is one of each.
    """
    counts = _occurring(table)
    rows, columns = counts.sum(1), counts.sum(0)
    by_chance = counts[None]  # with one row or one column there is no other table, and SciPy draws wrong ones
    if min(counts.shape) > 1:
        by_chance = random_table(rows, columns).rvs(draws, random_state=seed)  # (draws, k', c')
    return {"purity": _purity(counts), "purity_by_chance": float(_purity(by_chance).mean()),
            "label_entropy": _entropy(columns), "concept_entropy": _entropy(rows)} | adjusted_information(table)


def adjusted_information(table: Tensor, by_chance: float | None = None) -> dict[str, float]:
    """information and information_by_chance in bits, and ami, of a table (k, c) int64; see `agreement`.

    by_chance: E I where it is known, since it takes time linear in the counts; None: scikit-learn's exact value
    """
    counts = _occurring(table)
    information, most = _information(counts), (_entropy(counts.sum(1)) + _entropy(counts.sum(0))) / 2
    if by_chance is None:  # with one row or one column every table has the information 0
        single = min(counts.shape) == 1
        by_chance = 0.0 if single else float(expected_mutual_information(counts, int(counts.sum())) / np.log(2))
    return {"information": information, "information_by_chance": by_chance,
            "ami": 1.0 if counts.size == 1 else (information - by_chance) / max(most - by_chance, 1e-12)}


def _occurring(table: Tensor) -> np.ndarray:
    """The rows and columns that have counts: (k', c') int64."""
    counts = table.cpu().numpy()
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if counts.size == 0:
        raise InputError("agreement needs at least one labelled patch, and the table holds none.")
    return counts


def _purity(counts: np.ndarray) -> Any:
    return counts.max(-1).sum(-1) / counts.sum((-2, -1))


def _information(counts: np.ndarray) -> Any:
    """Mutual information of tables (..., k, c) in bits: (...)."""
    return _entropy(counts.sum(-1)) + _entropy(counts.sum(-2)) - _entropy(counts.reshape(*counts.shape[:-2], -1))


def _entropy(counts: np.ndarray) -> Any:
    """Entropy of counts (..., m) in bits: (...)."""
    total = counts.sum(-1, keepdims=True)
    return np.log2(total[..., 0]) - (counts * np.log2(np.maximum(counts, 1))).sum(-1) / total[..., 0]


def grain(table: Tensor, *, draws: int = 100, seed: int = 0) -> dict[str, dict[str, float]]:
    """`agreement` at every level, and `told` (see the top of this file), at most 1 and about 0 by chance.

    table: (k, p) of concepts by parts
    """
    levels = {level: agreement(coarser(table, classes), draws=draws, seed=seed)
              for level, (_, classes) in LEVELS.items()}
    before = 0.0, 0.0
    for numbers in reversed(levels.values()):  # from the coarsest
        known, asked = (numbers[name] - numbers["information_by_chance"] for name in ("information", "label_entropy"))
        numbers["told"] = (known - before[0]) / max(asked - before[1], 1e-12)
        before = known, asked
    return levels


class Above(NamedTuple):
    """AMI of own masks, of other pictures' masks (`layout`), and own minus layout for resampled pictures."""

    own: float
    layout: float
    samples: np.ndarray  # (resamples,)

    @property
    def above(self) -> float:
        return self.own - self.layout

    def interval(self) -> tuple[float, float]:
        """The interval that holds 95 % of the samples."""
        low, high = np.quantile(self.samples, [0.025, 0.975])
        return float(low), float(high)


def above_layout(own: Tensor, others: Tensor, *, resamples: int = 200, seed: int = 0) -> dict[str, Above]:
    """`Above` at every level, with a bootstrap over pictures.

    own: (b, k, p) int64, for each picture the table of its mask and its parts
    others: (b, k, p) int64, the same parts and another picture's mask
    """
    rng, b = np.random.default_rng(seed), len(own)
    chosen = [torch.arange(b)] + [torch.from_numpy(rng.integers(b, size=b)) for _ in range(resamples)]
    found = {}
    for level, (_, classes) in LEVELS.items():
        ami = []
        for tables in (own, others):
            tables = torch.stack([coarser(table, classes) for table in tables])  # (b, k, c)
            # of millions of pixels E I is below 1e-3 bits, and hardly changes with the pictures drawn
            expected = adjusted_information(tables.sum(0))["information_by_chance"]
            ami.append([adjusted_information(tables[pictures].sum(0), expected)["ami"] for pictures in chosen])
        own_ami, layout = np.array(ami)  # (1 + resamples,) each
        found[level] = Above(float(own_ami[0]), float(layout[0]), own_ami[1:] - layout[1:])
    return found


def leading(levels: Mapping[str, Above], share: float = 0.975) -> str | None:
    """The level that lies above every other in this share of the samples; None where no level does."""
    for level, each in levels.items():
        if all((each.samples > other.samples).mean() >= share for name, other in levels.items() if name != level):
            return level
    return None


def scores_at_levels(masks: Tensor, parts: Tensor, num_clusters: int) -> dict[str, dict[str, Any]]:
    """The same masks evaluated at every level, clusters matched to classes anew at each (metrics.py).

    With c clusters at most c classes of a level have one, and the others IoU 0; clusters left over mean no class.

    masks: (b, h, w) int64 in [0, num_clusters)
    parts: (b, h, w) int64, labels of parts, -1 void

    Returns level -> miou_present, pacc; matched: classes whose cluster meets them; classes: those that occur.
    """
    scores = {}
    for level, (names, _) in LEVELS.items():
        metrics = SegmentationMetrics(max(num_clusters, len(names)))
        metrics.update(masks, at_level(parts, level))
        numbers = metrics.compute()
        scores[level] = {"miou_present": numbers["miou_present"], "pacc": numbers["pacc"],
                         "matched": sum((value or 0) > 0 for value in numbers["iou"]),
                         "classes": sum(map(any, zip(*numbers["confusion"])))}
    return scores


class Pairs(NamedTuple):
    """Pairs of patches: their cosines (m,) and their labels, the smaller number first (m,) int64."""

    cosine: Tensor
    first: Tensor
    second: Tensor


def patch_pairs(cosines: Tensor, labels: Tensor) -> Pairs:
    """Every pair of two patches of one picture, once; those with a void patch left out.

    cosines: (b, n, n) floating: of tokens, of features, or D_M of their concepts
    labels: (b, n) int64, -1 void
    """
    n = labels.shape[1]
    i, j = torch.triu_indices(n, n, 1, device=labels.device)  # (n (n - 1) / 2,) each
    first, second = torch.minimum(labels[:, i], labels[:, j]), torch.maximum(labels[:, i], labels[:, j])
    known = first >= 0
    return Pairs(cosines[:, i, j][known], first[known], second[known])


def relations(pairs: Pairs, num_labels: int, positive_threshold: float = 0.3,
              negative_threshold: float = 0.1) -> Tensor:
    """R: how many pairs of each two labels are positive, ignored and negative: (c, c, 3) int64, symmetric."""
    kind = torch.where(pairs.cosine > positive_threshold, 0, torch.where(pairs.cosine < negative_threshold, 2, 1))
    bins = (pairs.first * num_labels + pairs.second) * 3 + kind
    table = count(bins, num_labels**2 * 3).view(num_labels, num_labels, 3)
    return table + table.transpose(0, 1) - torch.diag_embed(table.diagonal()).permute(1, 2, 0)


def medians(pairs: Pairs, num_labels: int) -> Tensor:
    """m: the median cosine of each two labels, the lower of the two middle ones: (c, c), NaN where no pair is."""
    cosine, order = pairs.cosine.sort()
    group, back = (pairs.first * num_labels + pairs.second)[order].sort(stable=True)
    counts = count(group, num_labels**2)  # (c c,)
    middle = counts.cumsum(0) - counts + (counts - 1).clamp(min=0) // 2
    values = torch.full_like(counts, torch.nan, dtype=cosine.dtype)
    values[counts > 0] = cosine[back[middle[counts > 0]]]
    values = values.view(num_labels, num_labels)
    return torch.where(values.isnan(), values.T, values)


def within_objects(relations: Tensor, owners: Sequence[int] = LEVELS["object"][1]) -> Tensor:
    """Relations (p, p, 3) of different parts of one object, added up: (o, 3); owners: the object of each part."""
    owner = torch.as_tensor(owners, device=relations.device)
    p, q = torch.triu_indices(len(owner), len(owner), 1, device=relations.device)
    p, q = p[owner[p] == owner[q]], q[owner[p] == owner[q]]
    return relations.new_zeros(int(owner.max()) + 1, 3).index_add_(0, owner[p], relations[p, q])


def separation(cosines: Tensor, labels: Tensor, owners: Sequence[int] = LEVELS["object"][1]) -> Tensor:
    """Area under ROC: how often two parts of one object are nearer than patches of two objects, without a threshold.

    cosines: (b, n, n) floating
    labels: (b, n) int64, parts, -1 void
    owners: the object of each part (p)

    Returns (b,) float64, 0.5 by chance, ties count half; NaN for a picture without pairs of both kinds.
    """
    owner = torch.as_tensor(owners, device=labels.device)
    found = labels.new_full((len(labels),), torch.nan, dtype=torch.float64)
    for i in range(len(labels)):
        cosine, first, second = patch_pairs(cosines[i:i + 1], labels[i:i + 1])
        one = owner[first] == owner[second]
        kin, strangers = cosine[one & (first != second)].contiguous(), cosine[~one].sort().values
        if len(kin) and len(strangers):
            ranks = torch.searchsorted(strangers, kin) + torch.searchsorted(strangers, kin, right=True)
            found[i] = ranks.double().mean() / (2 * len(strangers))
    return found


def segments(medians: Tensor, threshold: float) -> np.ndarray:
    """Which parts are one segment at phi+ = threshold: medians (p, p) -> (p,) numbers of segments, from 0 on."""
    return connected_components(medians.cpu().numpy() > threshold, directed=False)[1]  # NaN is above nothing


def merging(medians: Tensor) -> np.ndarray:
    """Linkage (p - 1, 4) by SciPy of medians (p, p), heights 1 - phi+; parts without a common pair merge at NEVER."""
    m = medians.cpu().double().numpy()
    distance = np.where(np.isnan(m), NEVER, 1 - m)
    np.fill_diagonal(distance, 0)
    return linkage(squareform(distance), "single")


def windows(parts: Tensor, objects: Tensor,
            owners: Sequence[int] = LEVELS["object"][1]) -> list[dict[str, Any] | None]:
    """For which phi+ each object is one segment that is not tied to another: from `alone` up to below `whole`.

    parts: (p, p) medians between parts
    objects: (o, o) medians between objects; both NaN where no pair is
    owners: the object of each part (p)

    Returns for each object None if fewer than two of its parts are in any pair, else `whole`: below it, its own parts
    are connected; `alone`: below it, it is tied to another object (-inf: never); `rival`: that object, or None.
    """
    m, owner = parts.cpu(), np.asarray(owners)
    seen = ~m.isnan().all(1).numpy()
    across = objects.cpu().double().clone().fill_diagonal_(-torch.inf).nan_to_num(-torch.inf, neginf=-torch.inf)
    alone, rival = across.max(dim=1)  # (o,) each
    found: list[dict[str, Any] | None] = []
    for thing in range(len(across)):
        own = np.flatnonzero(seen & (owner == thing))
        if len(own) < 2:
            found.append(None)
            continue
        last = merging(m[own][:, own])[-1, 2]
        found.append({"whole": -np.inf if last == NEVER else float(1 - last), "alone": float(alone[thing]),
                      "rival": int(rival[thing]) if alone[thing] > -torch.inf else None})
    return found
