"""What a run has to say of itself: who is dead, and whether anything was learned.

    dead        won not one patch, or pixel
    effective   how many equally used ones would be as varied (cause_book.usage)
    parallel    the mean cosine of two prototypes:  (|sum_k m_k / |m_k||^2 - k) / (k (k - 1))

The counts are in every `metrics.json`. What is beyond a limit is a warning of one sentence: shown, and kept in the
notes of the artefact and of all that are made from it. Nothing is stopped: numbers of a sick run are numbers too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cause_lib.runs.store import read_record
from cause_book.usage import effective

# Shares beyond which a run warns. The published recipe leaves nine of ten prototypes and up to half of the centroids
# without a patch, wherever it was tried (chapter 9 is about that), so what is common is counted, not warned of.
DEAD_PROTOTYPES = 0.95  # hardly more concepts are left than there are classes to tell apart
DEAD_CLUSTERS = 0.5  # most of the classes cannot be found, whatever clusters are called
PARALLEL = 0.9  # phi+ is 0.3: every concept is every other's positive, and nothing is told apart


def in_use(counts: Tensor) -> dict[str, Any]:
    """Who of these (k,) won anything, by how much each won.

    Returns:
        dead: how many won nothing; dead_share: of all, in [0, 1]; effective: None where nobody won anything.
    """
    dead = int((counts == 0).sum())
    return {"dead": dead, "dead_share": dead / len(counts),
            "effective": effective(counts) if dead < len(counts) else None}


def of_prototypes(prototypes: Tensor, used: int, patches: int, recipe: str) -> list[str]:
    """After step 1: prototypes (k, d), of which `used` won any of so many training patches."""
    k, found = len(prototypes), []
    if k - used > DEAD_PROTOTYPES * k:
        found.append(f"{k - used} of {k} prototypes win none of {patches} training patches: {_advice(recipe)}.")
    unit = F.normalize(prototypes.detach().double(), dim=-1)
    parallel = float((unit.sum(dim=0).square().sum() - k) / (k * (k - 1))) if k > 1 else 0.0
    if parallel > PARALLEL:
        found.append(f"The {k} prototypes are nearly all parallel, with a mean cosine of {parallel:.2f}: "
                     f"{_advice(recipe)}.")
    return found


def of_losses(stage: str, losses: Sequence[float], recipe: str) -> list[str]:
    """After a stage of training: a loss that was the same at every update had no gradient to follow."""
    if len(losses) < 2 or min(losses) != max(losses):
        return []
    why = "no anchor had a positive, or its features stood still" if stage == "head" else "nothing won a patch"
    return [f"Stage {stage} learned nothing, its loss was {losses[0] + 0.0:g} at each of {len(losses)} updates ({why}): "
            f"{_advice(recipe)}."]


def of_clusters(readout: str, counts: Tensor, recipe: str) -> list[str]:
    """After judging: pixels (c,) that each cluster of a read-out won."""
    dead, c = int((counts == 0).sum()), len(counts)
    if dead <= DEAD_CLUSTERS * c:
        return []
    return [f"Read-out {readout}: {dead} of {c} clusters win no pixel of the judged pictures: {_advice(recipe)}."]


def tell(found: Iterable[str], upstream: Iterable[Path] = (), *, show: bool = True) -> list[str]:
    """Shows what was found, each as a warning; returns it after what the artefacts `upstream` were warned of."""
    found, before = list(found), []
    for folder in upstream:
        before += read_record(folder).get("notes", {}).get("warnings", [])
    if show:
        for sentence in found:
            warnings.warn(sentence, stacklevel=4)
    return list(dict.fromkeys(before + found))


def _advice(recipe: str) -> str:
    return ('try recipe="alive" (chapter 9)' if recipe == "published" else
            "try fewer of them (num_concepts, num_classes), more pictures, or another backbone")
