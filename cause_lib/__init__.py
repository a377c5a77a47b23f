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

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "load_dataset": "data", "load_backbone": "backbones",
    "modularity_loss": "clusterbook", "Clusterbook": "clusterbook",
    "MLPHead": "heads", "TRHead": "heads", "ClusterProbe": "probes", "LinearProbe": "probes",
    "concept_contrastive_loss": "contrast", "ConceptBank": "contrast",
    "dense_crf": "crf", "SegmentationMetrics": "metrics",
    "fit_clusterbook": "stages", "fit_head": "stages", "fit_probe": "stages", "evaluate": "stages",
    "Segmenter": "segmenter", "Experiment": "config",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cause_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cause_lib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
