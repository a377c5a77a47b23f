#!/usr/bin/env bash
# torch 2.13.0 and Pillow 13.0.0: interpolate(mode="nearest-exact") against Image.resize(NEAREST).
#
# Behaviour: wherever the centre of a new pixel falls on the border between two old ones, the two libraries may take
#   different neighbours. PyTorch computes each place by itself. Pillow starts at half a step and adds the step again and
#   again in double precision, so that rounding decides, and adds up along the row. Ordinary sizes have many such borders:
#   every third pixel from 640 to 480.
# What most people expect: the same pixels. PyTorch's documentation says of nearest-exact that it matches the nearest
#   neighbours of Scikit-Image and PIL. Labels and pictures that one program resized with Pillow and another with
#   PyTorch are then a pixel apart, in a fifth of the pixels of a 640 x 426 photograph at 320.
# Seen on 2026-11-27, columns that differ (in brackets: from the running sum in NumPy):
#   640 to 480: 99 of 480 (0)
#   2048 to 640: 28 of 640 (0)
#   640 to 320: 0 of 320 (0)
#   3000 to 700: 68 of 700 (0)
# The project has both rules (resize="nearest" and "pillow", cause_lib/data/images.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "pillow==13.0.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import torch
from PIL import Image

seen = {}
for old, new in ((640, 480), (2048, 640), (640, 320), (3000, 700)):
    columns = np.arange(old, dtype=np.int32)[None].repeat(2, 0)
    pillow = np.asarray(Image.fromarray(columns).resize((new, 2), Image.Resampling.NEAREST))[0]
    pytorch = torch.nn.functional.interpolate(torch.from_numpy(columns)[None, None].double(), (2, new), mode="nearest-exact")
    step = old / new
    running = np.floor(np.cumsum(np.r_[step / 2, np.full(new - 1, step)]))
    seen[old, new] = int((pillow != pytorch[0, 0, 0].numpy()).sum()), int((pillow != running).sum())
    print(f"{old} to {new}: {seen[old, new][0]} of {new} ({seen[old, new][1]})")
assert seen == {(640, 480): (99, 0), (2048, 640): (28, 0), (640, 320): (0, 0), (3000, 700): (68, 0)}, seen
PY
