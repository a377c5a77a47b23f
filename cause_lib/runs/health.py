"""The health of a run: usage of prototypes and clusters, their collapse, and losses without a gradient.

    dead        prototypes that are nearest to no patch, clusters without a pixel
    effective   how many equally used ones would be as varied (metrics.effective_number)
    parallel    the mean cosine of two prototypes:  (|sum_k m_k / |m_k||^2 - k) / (k (k - 1))

The counts are in every `metrics.json`. A value beyond its limit gives a warning of one sentence: it is shown, and kept
in the notes of the artefact and of all that depend on it (runs/stage.py). Nothing is stopped.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cause_lib.metrics import effective_number

# Limits beyond which a run warns. With the published recipe nine of ten prototypes and up to half of the centroids have
# no patch on every data set that was tried (chapter 10): that is counted without a warning.
DEAD_PROTOTYPES = 0.95  # share; hardly more concepts are left than there are classes
DEAD_CLUSTERS = 0.5  # share; no matching of clusters finds most of the classes
PARALLEL = 0.9  # cosine; far above phi+ = 0.3: every pair of concepts is positive
ADVICE = {"published": 'try recipe="alive" (chapter 10)'} | dict.fromkeys(  # by recipe
    ("alive", "earlier"), "try fewer of them (num_concepts, num_classes), more pictures, or another backbone")


def in_use(counts: Tensor) -> dict[str, Any]:
    """Usage of prototypes or clusters, from how many patches or pixels each has, counts (k,): how many are `dead`, the
    `dead_share` of all, in [0, 1], and the `effective` number, None where all counts are 0."""
    dead = int((counts == 0).sum())
    return {"dead": dead, "dead_share": dead / len(counts),
            "effective": effective_number(counts) if dead < len(counts) else None}


def of_prototypes(prototypes: Tensor, used: int, patches: int, recipe: str) -> list[str]:
    """After step 1: prototypes (k, d), of which `used` are nearest to at least one of so many training patches."""
    k, unit = len(prototypes), F.normalize(prototypes.detach().double(), dim=-1)
    parallel = float((unit.sum(dim=0).square().sum() - k) / (k * (k - 1))) if k > 1 else 0.0
    found = {f"{k - used} of {k} prototypes are nearest to none of {patches} training patches":
             k - used > DEAD_PROTOTYPES * k,
             f"The {k} prototypes are nearly all parallel, with a mean cosine of {parallel:.2f}": parallel > PARALLEL}
    return [f"{sentence}: {ADVICE[recipe]}." for sentence, holds in found.items() if holds]


def of_losses(stage: str, losses: Sequence[float], recipe: str) -> list[str]:
    """After a stage of training: a loss that is the same at every update has no gradient."""
    if len(losses) < 2 or min(losses) != max(losses):
        return []
    why = "anchor had a positive, or the features did not change" if stage == "head" else "patch had positive affinity"
    return [f"Stage {stage} learned nothing, its loss was {losses[0] + 0.0:g} at all {len(losses)} updates (no {why}): "
            f"{ADVICE[recipe]}."]


def of_clusters(readout: str, counts: Tensor, recipe: str) -> list[str]:
    """After evaluation: pixels (c,) of each cluster of a read-out."""
    dead, c = in_use(counts)["dead"], len(counts)
    said = f"Read-out {readout}: {dead} of {c} clusters have no pixel of the evaluated pictures: {ADVICE[recipe]}."
    return [said] if dead > DEAD_CLUSTERS * c else []
