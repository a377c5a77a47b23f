#!/usr/bin/env bash
# torch 2.13.0 with glibc 2.36: a line that makes a large tensor on a CPU, run again and again.
#
# Behaviour: torch has a caching allocator for CUDA and none for the CPU. It asks glibc, which maps a block above 32 MB
#   anew each time and gives it back to Linux when it is freed, so that every page of every result is a page fault, in
#   each turn of a loop. With glibc's two thresholds raised to 1 GiB (mallopt) freed blocks stay, and the faults end; but
#   some turns of the same line (5 to 8 were seen) take new memory first, although the block of the turn before is free
#   by then.
# What most people expect: that a loop over tensors of one size runs in memory that the process has, as on CUDA.
# Seen on 2026-11-29, faults of softmax with a result of 64 MB (16,384 pages), last four turns of each loop:
#   as it comes 16385 16385 16385 16385; with out= 0 0 0 0; thresholds raised 0 0 0 0 after 8 turns of 16384
# The project raises the thresholds (cause_lib/kernels/memory.py; tests/unit/test_memory.py counts the faults).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
unset MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_ GLIBC_TUNABLES THP_MEM_ALLOC_ENABLE
"$folder/venv/bin/python" - <<'PY'
import ctypes
import resource

import torch

values = torch.rand(2**18, 64)  # 64 MB
PAGES = values.numel() * 4 // resource.getpagesize()


def faults(function, turns: int) -> list[int]:
    """Page faults of each of so many turns."""
    seen = []
    for _ in range(turns):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        function()
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return seen


out = torch.empty_like(values)
plain = faults(lambda: values.softmax(1), 8)
reused = faults(lambda: torch.softmax(values, 1, out=out), 8)
libc = ctypes.CDLL("libc.so.6")
assert libc.mallopt(-3, 2**30) and libc.mallopt(-1, 2**30)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
kept = faults(lambda: values.softmax(1), 24)
late = sum(count > PAGES / 2 for count in kept[1:])
print("as it comes", *plain[-4:], "; with out=", *reused[-4:],
      "; thresholds raised", *kept[-4:], "after", late, "turns of", PAGES)
assert min(plain) >= 0.99 * PAGES and max(reused[-4:]) < 100 and max(kept[-4:]) < 100 and late >= 2
PY
