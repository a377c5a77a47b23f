"""CAUSE: causal unsupervised semantic segmentation, as a small library.

Images become masks in five steps, and no label is used:

    load_dataset -> load_backbone            images (b, 3, h, w) -> tokens (b, n, d) of a frozen ViT
    Clusterbook, modularity_loss             step 1, Eq. 3: prototypes (k, d); a token's nearest one is its concept
    MLPHead or TRHead                        step 2: tokens -> features (b, n, r), trained against an EMA teacher by
    concept_contrastive_loss, ConceptBank      Eq. 4: patches of similar concepts attract, of dissimilar ones repel
    ClusterProbe, LinearProbe                step 3: features -> logits (b, n, c), by modularity or k-means
    dense_crf, SegmentationMetrics           logits -> mask (h, w) -> mIoU and accuracy after one Hungarian matching

An `Experiment` describes a run; `fit_clusterbook`, `fit_head`, `fit_probe` and `evaluate` run its stages, each with
what it needs before it; `Segmenter` uses a finished run: image in, mask out. Names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401
if TYPE_CHECKING:  # for editors and type checkers
    from cause_lib.backbones import load_backbone
    from cause_lib.clusterbook import Clusterbook, modularity_loss
    from cause_lib.config import Experiment
    from cause_lib.contrast import ConceptBank, concept_contrastive_loss
    from cause_lib.crf import dense_crf
    from cause_lib.data import load_dataset
    from cause_lib.heads import MLPHead, TRHead
    from cause_lib.metrics import SegmentationMetrics
    from cause_lib.probes import ClusterProbe, LinearProbe
    from cause_lib.segmenter import Segmenter
    from cause_lib.stages import evaluate, fit_clusterbook, fit_head, fit_probe

__version__ = "0.1.0"

_MODULES = {
    "load_dataset": "data", "load_backbone": "backbones",
    "modularity_loss": "clusterbook", "Clusterbook": "clusterbook",
    "MLPHead": "heads", "TRHead": "heads",
    "concept_contrastive_loss": "contrast", "ConceptBank": "contrast",
    "ClusterProbe": "probes", "LinearProbe": "probes",
    "dense_crf": "crf", "SegmentationMetrics": "metrics",
    "fit_clusterbook": "stages", "fit_head": "stages", "fit_probe": "stages", "evaluate": "stages",
    "Segmenter": "segmenter", "Experiment": "config",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cause_lib' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cause_lib.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
