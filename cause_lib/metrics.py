"""Hungarian mIoU and pixel accuracy over a whole validation set.

Counts N_jc of pixels with cluster j and class c are added up over all pictures; one matching of clusters to classes
maximises the matched pixels (Kuhn 1955, through SciPy); then IoU_c = N_cc / (pixels of cluster or class c), the mean
over the classes that occur in the labels, and the share of matched pixels. Void pixels (label -1) are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class SegmentationMetrics:
    """Counts first, numbers at the end.

    Args:
        num_classes: c, of clusters and of classes.
        match: True: clusters are matched to classes; False: prediction j already means class j (a linear probe).
    """

    def __init__(self, num_classes: int, *, match: bool = True) -> None:
        self.num_classes, self.match = num_classes, match
        # One row a cluster; one column a class, and a last one for void, which counts for nothing but use.
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)  # (c, c + 1)

    @torch.no_grad()
    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of prediction (b, h, w) int64 in [0, c) against label (b, h, w) int64, -1 = void.

        Raises:
            ValueError: the shapes differ, or an id is out of range.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape.")
        if prediction.numel() == 0:
            return
        c = self.num_classes
        low, high, highest = int(prediction.min()), int(prediction.max()), int(label.max())
        if low < 0 or high >= c or highest >= c:
            raise ValueError(f"ids must be below {c} and predictions at least 0; "
                             f"the predictions span {low} to {high}, the labels reach {highest}.")
        label = torch.where(label < 0, c, label)
        pairs = torch.bincount((prediction * (c + 1) + label).flatten(), minlength=c * (c + 1))
        self.counts = self.counts.to(pairs.device) + pairs.view(c, c + 1)

    def compute(self) -> dict[str, Any]:
        """The numbers, as plain Python values.

        Returns:
            miou, pacc: fractions in [0, 1], None when no pixel has a label; iou: a list of c fractions, None for
            classes without a labelled pixel; assignment: the class of each cluster; clusters_used: clusters that win at
            least one pixel, void ones too; confusion: (c, c) matched clusters by classes, pixel counts as lists.
        """
        everything = self.counts.cpu().numpy()
        counts = everything[:, :-1]  # (c clusters, c classes)
        assignment = np.arange(self.num_classes)
        if self.match:
            assignment = linear_sum_assignment(counts, maximize=True)[1]  # class of each cluster
        matched = np.zeros_like(counts)
        matched[assignment] = counts  # row c is now the cluster that means class c
        hits = np.diagonal(matched).astype(np.float64)
        pixels = matched.sum(axis=0)
        union = pixels + matched.sum(axis=1) - hits
        iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
        occurs = pixels > 0
        total = int(counts.sum())
        return {
            "miou": float(iou[occurs].mean()) if total else None,
            "pacc": float(hits.sum() / total) if total else None,
            "iou": [float(value) if there else None for value, there in zip(iou, occurs)],
            "assignment": [int(value) for value in assignment],
            "clusters_used": int((everything.sum(axis=1) > 0).sum()),
            "confusion": matched.tolist(),
        }
