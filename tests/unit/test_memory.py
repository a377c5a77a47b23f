"""Memory of freed tables stays with the process (kernels/memory.py)."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from cause_lib import crf

image, scores = torch.rand(1, 3, 160, 160), torch.rand(1, 27, 160, 160).log_softmax(1)
counts = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    crf.dense_crf(image, scores, iterations=5)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts))
"""


def faults(**settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment | settings, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc")
def test_a_later_crf_asks_the_system_for_hardly_any_page():
    """But for those by which the heap still grows; and the settings of the environment, if there are any, hold."""
    kept, given_back = faults(), faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert kept < 2000 < 10_000 < given_back
