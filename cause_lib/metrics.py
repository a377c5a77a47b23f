"""Hungarian mIoU and pixel accuracy over a whole validation set.

Counts N_jc of pixels with cluster j and class c are added up over all pictures; one matching of clusters to classes
maximises the matched pixels (Kuhn 1955, through SciPy); then IoU_c = N_cc / (pixels of cluster or class c), its mean,
and the share of matched pixels. Void pixels (label -1) are left out.

`miou` is the released code's mean, which stands beside published rows: over every class whose union is not empty. One
that no label carries counts 0 as soon as its cluster wins a labelled pixel; if it wins none, it leaves the mean.
`miou_present` is the mean over the classes that occur in the labels: never below, and the same where every class does.
`miou_per_image`, where it is asked for, matches each picture's clusters to classes by that picture's counts alone: the
mean of `miou_present` of one picture over all pictures that have a labelled pixel.

Of more clusters than classes, those left over are matched to none: their pixels are wrong, and they are no class that
could count 0. (STEGO's code drops such pixels.)

Of matchings that match equally many pixels, which may differ in mIoU, SciPy's first is taken, and that depends on the
numbers of the clusters. The counts stay on the masks' device up to the end: a GPU never waits to be counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cause_lib.errors import InputError


class SegmentationMetrics:
    """Counts first, numbers at the end.

    Args:
        num_classes: c, of clusters and of classes.
        match: True: clusters are matched to classes; False: prediction j already means class j (a linear probe).
        real_classes: only the first so many are classes of the data set, the others stand for clusters left over;
            None: all.
        pictures: of how many pictures each is matched by itself, too; 0: none.

    Examples:
        >>> metrics = SegmentationMetrics(3, real_classes=2, pictures=1)
        >>> metrics.update(torch.tensor([[[2, 2, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
        >>> [metrics.compute()[name] for name in ("miou", "pacc", "miou_per_image")]
        [0.75, 0.75, 0.75]
    """

    def __init__(self, num_classes: int, *, match: bool = True, real_classes: int | None = None,
                 pictures: int = 0) -> None:
        self.num_classes, self.match = num_classes, match
        self.real_classes = num_classes if real_classes is None else real_classes
        # The bits of each picture's own mIoU, float64, NaN where it has none: as whole numbers, of which sums with 0
        # are exact, so that parts of several processes add up.
        self.alone = torch.zeros(pictures, dtype=torch.int64)
        # A bin for every cluster with every class and with void, which counts for use alone; one for ids out of range.
        self.counts = torch.zeros(num_classes * (num_classes + 1) + 1, dtype=torch.int64)

    @torch.no_grad()
    def update(self, prediction: Tensor, label: Tensor, first: int = 0) -> None:
        """Count the pixels of prediction (b, h, w) int64 in [0, c) against label (b, h, w) int64, -1 = void; of
        pictures from number `first` on, where each is matched by itself.

        Raises ValueError where shapes differ, or an id is out of range; on a GPU `compute` finds the latter."""
        if prediction.shape != label.shape:
            raise InputError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape.")
        c = self.num_classes
        wrong = (prediction < 0) | (prediction >= c) | (label >= self.real_classes)
        bins = torch.where(wrong, c * (c + 1), prediction * (c + 1) + torch.where(label < 0, c, label))
        size = len(self.counts)
        if len(self.alone):
            offset = size * torch.arange(len(bins), device=bins.device)[:, None, None]
            each = count(bins + offset, size * len(bins)).view(-1, size)  # (b, size)
            counts = each.sum(dim=0)
            self._match_alone(each.cpu(), first)
        else:
            counts = count(bins, size)
        if counts.device.type == "cpu":
            self._refuse(counts)
        self.counts = self.counts.to(counts.device) + counts

    def compute(self) -> dict[str, Any]:
        """Plain Python values: those of `scores`; assignment: the class of each cluster; clusters_used: clusters that
        win a pixel, void ones too; confusion: (c, c), matched clusters by classes, pixel counts as lists.

        miou_per_image: where pictures are matched by themselves.

        Raises ValueError where an id was out of range."""
        self._refuse(self.counts)
        assignment, matched = self._matched(self.counts.cpu())
        own = self.alone.numpy().view(np.float64)
        own = own[~np.isnan(own)]
        return scores(matched, self.real_classes) | {
            "assignment": assignment.tolist(), "confusion": matched.tolist(),
            "clusters_used": int((self.pixels > 0).sum())} | (
            {"miou_per_image": float(own.mean()) if len(own) else None} if len(self.alone) else {})

    def _match_alone(self, each: Tensor, first: int) -> None:
        """each: the counts of pictures from number `first` on, (b, c (c + 1) + 1) on the CPU."""
        found = [scores(self._matched(one)[1], self.real_classes)["miou_present"] for one in each]
        own = np.array([np.nan if miou is None else miou for miou in found])  # (b,)
        self.alone[first:first + len(own)] = torch.from_numpy(own.view(np.int64))

    def _matched(self, counts: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Counts (c (c + 1) + 1,) on the CPU -> the class of each cluster (c,), and the counts by it, (c, c)."""
        counts = counts[:-1].view(self.num_classes, -1)[:, :-1].numpy()  # (c clusters, c classes)
        assignment = np.arange(self.num_classes)
        if self.match:
            from scipy.optimize import linear_sum_assignment  # a second to import, needed once a run

            assignment = linear_sum_assignment(counts, maximize=True)[1]  # class of each cluster
        matched = np.zeros_like(counts)
        matched[assignment] = counts  # row c is now the cluster that means class c
        return assignment, matched

    @property
    def pixels(self) -> Tensor:
        """Pixels that each cluster won, void ones too: (c,) int64 on the CPU."""
        return self.counts[:-1].view(self.num_classes, -1).sum(dim=1).cpu()

    def _refuse(self, counts: Tensor) -> None:
        if counts[-1]:
            raise InputError(f"{int(counts[-1])} pixels have an id out of range: predictions must be 0 to "
                             f"{self.num_classes - 1}, labels below {self.real_classes}, -1 for void.")


def scores(confusion: np.ndarray, real_classes: int | None = None) -> dict[str, Any]:
    """miou, miou_present (see above), pacc: fractions, None without a labelled pixel; iou: c of them, None where the
    union is empty, and beyond the real_classes. Of confusion (c, c): pixel counts, row c the cluster that means class
    c; of these the first real_classes (None: all) are the data set's, see above."""
    hits, pixels = np.diagonal(confusion).astype(np.float64), confusion.sum(axis=0)
    union, total = pixels + confusion.sum(axis=1) - hits, int(pixels.sum())
    union[len(union) if real_classes is None else real_classes:] = 0
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    return {"miou": float(iou[union > 0].mean()) if total else None,
            "miou_present": float(iou[pixels > 0].mean()) if total else None,
            "pacc": float(hits.sum() / total) if total else None,
            "iou": [float(value) if size else None for value, size in zip(iou, union)]}


def count(ids: Tensor, size: int) -> Tensor:
    """torch.bincount of ids (...) int64 in [0, size), but that the host never waits for a GPU: (size,) int64."""
    ids = ids.flatten()
    return torch.zeros(size, dtype=torch.int64, device=ids.device).scatter_add_(0, ids, torch.ones_like(ids))


def effective_number(counts: Tensor) -> float:
    """How many equally frequent ones would be as varied: exp of the entropy of counts (k,), in [1, k] (Hill 1973);
    ValueError where all are 0."""
    if not bool(counts.any()):
        raise InputError("effective_number needs at least one count above 0.")
    return float(torch.special.entr(counts.double() / counts.sum()).sum().exp())
