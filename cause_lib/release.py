"""Deprecated: the former place of `cause_lib.segmenter.Segmenter`."""

import warnings

from cause_lib.segmenter import Segmenter

__all__ = ["Segmenter"]

warnings.warn("cause_lib.release is now cause_lib.segmenter: write `from cause_lib import Segmenter`.",
              DeprecationWarning, stacklevel=2)
