#!/usr/bin/env bash
# torch 2.13.0, torch.compile for a CPU (inductor, C++): rows of a table are gathered, weighted and added, 32 for each
#   row of the result, as in a product with a sparse matrix.
#
# Behaviour: the compiled loop has no intermediate tensor, but its vectors run along the entries that are added, whose
#   numbers lie far apart in memory and are loaded one by one. The columns of the table, which lie side by side, are
#   walked one after the other. The library's own product, embedding_bag, is more than ten times faster.
# What most people expect: fused code that is at least as fast as a library's call, since it reads and writes the least.
# Seen on 2026-11-29, one thread, 20,000 rows of 32 columns, two runs:
#   eager 146.8 ms, compiled 63.9 ms, embedding_bag 1.4 ms
#   eager 143.1 ms, compiled 67.7 ms, embedding_bag 2.1 ms
# The project's filters call embedding_bag (cause_lib/kernels/lattice.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
export TORCHINDUCTOR_CACHE_DIR="$folder/cache"
"$folder/venv/bin/python" - <<'PY'
import statistics
import time

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_num_threads(1)
ROWS, ENTRIES, COLUMNS = 20_000, 32, 32
table, weights = torch.rand(ROWS, COLUMNS), torch.rand(ROWS, ENTRIES)
near = torch.arange(ROWS)[:, None] + torch.randint(-50, 50, (ROWS, ENTRIES))  # (rows, entries)
near = near.clamp(0, ROWS - 1)


def eager():
    return (table[near] * weights[..., None]).sum(dim=1)


def library():
    return F.embedding_bag(near, table, mode="sum", per_sample_weights=weights)


def milliseconds(function) -> float:
    spent = []
    for _ in range(9):
        start = time.perf_counter()
        function()
        spent.append(time.perf_counter() - start)
    return 1000 * statistics.median(spent)


compiled = torch.compile(eager)
assert torch.allclose(compiled(), library(), rtol=1e-5) and torch.allclose(eager(), library(), rtol=1e-5)
found = {"eager": milliseconds(eager), "compiled": milliseconds(compiled), "embedding_bag": milliseconds(library)}
print(", ".join(f"{name} {each:.1f} ms" for name, each in found.items()))
assert found["compiled"] > 5 * found["embedding_bag"] and found["eager"] > found["compiled"]
PY
