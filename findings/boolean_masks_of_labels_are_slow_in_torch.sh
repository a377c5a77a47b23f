#!/usr/bin/env bash
# torch 2.13.0 and NumPy 2.4.6, on a CPU.
#
# Behaviour: labels[labels != 255], the usual way to leave void pixels out, takes some ten times as long for a tensor as
#   for an array that shares its memory. Tensor.masked_select, which gives the same, takes under half of the tensor's time;
#   Tensor.nonzero takes several times that of np.flatnonzero. The result is the same in all forms.
# What most people expect: a tensor on a CPU is indexed about as fast as an array, and labels[mask] is masked_select.
# Seen on 2026-11-28, a map of 640 x 960 labels, int64, a tenth of them void, in blocks; seconds of one core, the least of
# fifteen rounds in which the forms take turns:
#   labels[mask]: torch over NumPy 10.9
#   nonzero: torch over NumPy 4.8
#   torch: labels[mask] over masked_select 3.1
# Ends with 1 if one of the first two falls below 2, or the last below 1.3. The project counts pairs of labels and clusters
# with void as a class of its own and takes no mask (cause_lib/metrics.py).
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$place/venv/bin/python" - <<'PYTHON'
import time

import numpy as np
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
coarse = torch.randint(0, 20, (20, 30)).masked_fill(torch.rand(20, 30) < 0.1, 255)
labels = coarse.repeat_interleave(32, dim=0).repeat_interleave(32, dim=1)  # (640, 960)
mask = labels != 255
array, known = labels.numpy(), mask.numpy()  # the same memory
assert np.array_equal(labels[mask].numpy(), array[known])
assert torch.equal(labels[mask], labels.masked_select(mask))
assert np.array_equal(mask.flatten().nonzero()[:, 0].numpy(), np.flatnonzero(known))


def least(*forms, rounds=15):
    """Seconds of one core of each form, which take turns: the least of all rounds."""
    found = [[] for _ in forms]
    for _ in range(rounds):
        for times, form in zip(found, forms):
            started = time.process_time()
            for _ in range(5):
                form()
            times.append(time.process_time() - started)
    return [min(times) for times in found]


taken, by_array, selected, places, by_flatnonzero = least(
    lambda: labels[mask], lambda: array[known], lambda: labels.masked_select(mask),
    lambda: mask.flatten().nonzero(), lambda: np.flatnonzero(known))
ratios = taken / by_array, places / by_flatnonzero, taken / selected
print(f"labels[mask]: torch over NumPy {ratios[0]:.1f}")
print(f"nonzero: torch over NumPy {ratios[1]:.1f}")
print(f"torch: labels[mask] over masked_select {ratios[2]:.1f}")
raise SystemExit(int(ratios[0] < 2 or ratios[1] < 2 or ratios[2] < 1.3))
PYTHON
