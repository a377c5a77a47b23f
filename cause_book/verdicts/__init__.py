"""Sentences of the chapters that depend on a run: one module a chapter, each function returns Markdown.

A verdict states a measured fact and its limit. It names no winner where the seeds disagree or where there is only one.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["alive", "backbone", "clusterbook", "evaluation", "features", "granularity", "results", "rivals", "words"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
