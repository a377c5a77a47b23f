"""Random choices of a run: each is drawn from (seed, what it is for, update) and from nothing else.

A loop that starts again from its checkpoint therefore ends with the same bits as one that never stopped, and no state
of a random generator is ever stored.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from cause_lib.config import Experiment


def seed_of(*what: Any) -> int:
    """A seed of 63 bits from numbers and names."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big") >> 1


def seed_for(experiment: Experiment, *what: Any) -> int:
    """A seed of 63 bits for one random choice of a run."""
    return seed_of(experiment.seed, *what)


def generator_for(experiment: Experiment, *what: Any) -> torch.Generator:
    """A CPU generator for one random choice of a run."""
    return torch.Generator().manual_seed(seed_for(experiment, *what))
