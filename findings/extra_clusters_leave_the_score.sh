#!/usr/bin/env bash
# STEGO at eb4d6b5 (torchmetrics 1.9.0, torch 2.13.0, scipy 1.17.1): mIoU with more clusters than classes. HP has the same
# lines.
#
# Behaviour: UnsupervisedMetrics takes extra_clusters, makes room for them in its table of counts, and leaves out every
#   pixel that was predicted as one of them: the mask asks preds < n_classes where it should ask for clusters. The columns
#   of the extra clusters stay empty, they are never matched, and neither mIoU nor accuracy sees their pixels.
# What most people expect: clusters that are matched to no class count as mistakes, as the code below the mask intends
#   (it adds up the rows of unmatched clusters). So more clusters raise the score by themselves: whatever is hard may
#   go to an extra cluster.
# Seen on 2026-11-27: two classes of 50 pixels; 20 of the 100 pixels are in a third cluster:
#   extra_clusters=1: mIoU 100.0, accuracy 100.0
#   the same, counted by hand: mIoU 80.0, accuracy 80.0
# With extra_clusters=0, as published, nothing is left out. In the project, pixels of clusters beyond the classes (num_classes)
# are wrong (cause_lib/metrics.py).
# STEGO=folder names a clone where there is no network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "torchmetrics==1.9.0" "scipy==1.17.1" "numpy==2.4.6"
commit=eb4d6b521740bd4265681b353547f2ffca65d673
if [ -z "${STEGO:-}" ]; then
  STEGO="$folder/STEGO"
  git clone --quiet https://github.com/mhamilton723/STEGO "$STEGO"
fi
git -C "$STEGO" show "$commit:src/utils.py" > "$folder/utils.py"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import ast
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchmetrics import Metric

# The class alone: the rest of the file imports packages that it does not need.
body = ast.parse(Path("utils.py").read_text()).body
(node,) = [node for node in body if getattr(node, "name", "") == "UnsupervisedMetrics"]
names = {"np": np, "torch": torch, "Metric": Metric, "linear_sum_assignment": linear_sum_assignment}
exec(compile(ast.Module([node], []), "utils.py", "exec"), names)

label = torch.tensor([0] * 50 + [1] * 50)
prediction = torch.tensor([0] * 40 + [2] * 10 + [1] * 40 + [2] * 10)
metric = names["UnsupervisedMetrics"]("", 2, extra_clusters=1, compute_hungarian=True)
metric.update(prediction, label)
seen = {name: round(float(value), 1) for name, value in metric.compute().items()}
hits = [int(((prediction == c) & (label == c)).sum()) for c in (0, 1)]
union = [int(((prediction == c) | (label == c)).sum()) for c in (0, 1)]
expected = {"mIoU": 100 * sum(h / u for h, u in zip(hits, union)) / 2, "Accuracy": float(sum(hits))}
print(f"extra_clusters=1: mIoU {seen['mIoU']}, accuracy {seen['Accuracy']}")
print(f"the same, counted by hand: mIoU {expected['mIoU']:.1f}, accuracy {expected['Accuracy']:.1f}")
assert seen == {"mIoU": 100.0, "Accuracy": 100.0} and expected == {"mIoU": 80.0, "Accuracy": 80.0}, (seen, expected)
PY
