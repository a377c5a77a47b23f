"""Memory of freed tables stays with the process, for the next ones.

glibc gives large tables back to Linux as they are freed, and each page of the next one is a fault again: half of the
time of a dense CRF on full-HD pictures. Settings of the environment (MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES) hold.
"""

import ctypes
import os
import sys


def keep_memory() -> None:
    """Ask for it, for the whole process; without effect under another system or C library."""
    if sys.platform == "linux" and not ("MALLOC_TRIM_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
        mallopt(-3, 2**30), mallopt(-1, 2**30)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: at most so many bytes stay
