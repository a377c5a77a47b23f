#!/usr/bin/env bash
# Pillow 13.0.0: a grey PNG of 4 (or 2) bits a pixel, read as a label map of class ids.
#
# Behaviour: Pillow opens it in mode L and multiplies every stored value by 17 (by 85 for 2 bits), as a viewer would want
#   it. The mode says 8 bits, no attribute keeps the depth once the pixels are loaded, and the largest id of the format,
#   15 or 3, comes back as 255, which most label formats use for void. A palette PNG of the same depth is not scaled.
# What most people expect: the ids as they were stored, as they are for palette files, or at least an image whose
#   mode tells that it is no 8-bit file. Sixteen classes become ids up to 255, and the last class is never judged.
# Seen on 2026-11-27, stored ids 0 1 2 15 (2 bits: 0 1 2 3):
#   grey, 4 bits: mode L, values 0 17 34 255
#   grey, 2 bits: mode L, values 0 85 170 255
#   palette, 4 bits: mode P, values 0 1 2 15
# The project reads the depth before the pixels and gives the ids as stored (cause_lib/data/images.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pillow==13.0.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from PIL import Image


def read_back(ids: list[int], mode: str, bits: int) -> tuple[str, list[int]]:
    """Mode and values of a PNG that holds these ids in so many bits."""
    label = Image.fromarray(np.array([ids], dtype=np.uint8))
    if mode == "P":
        label.putpalette([level for i in range(16) for level in (i, i, i)])
    label.save("label.png", bits=bits)
    header = open("label.png", "rb").read(26)
    assert header[24] == bits, header  # as many bits are in the file
    back = Image.open("label.png")
    return back.mode, np.asarray(back)[0].tolist()


seen = {"grey, 4 bits": read_back([0, 1, 2, 15], "L", 4), "grey, 2 bits": read_back([0, 1, 2, 3], "L", 2),
        "palette, 4 bits": read_back([0, 1, 2, 15], "P", 4)}
for name, (mode, values) in seen.items():
    print(f"{name}: mode {mode}, values {' '.join(map(str, values))}")
assert seen == {"grey, 4 bits": ("L", [0, 17, 34, 255]), "grey, 2 bits": ("L", [0, 85, 170, 255]),
                "palette, 4 bits": ("P", [0, 1, 2, 15])}, seen
PY
