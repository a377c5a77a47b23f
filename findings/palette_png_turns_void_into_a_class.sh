#!/usr/bin/env bash
# Pillow 13.0.0: a label map of few classes and void (255), saved as a palette PNG.
#
# Behaviour: Pillow takes the bits a pixel from the length of the palette, not from the ids. A palette of up to 16 colours
#   gives 4 bits, of up to 4 colours 2 bits, and of each id the high bits are cut off without a word: 255 is stored as
#   15 or as 3. save(path, bits=8) changes nothing: up to Pillow 12 it set the bits, since 13 it is an upper limit, so
#   that programs which asked for 8 bits write other files than before. With 17 colours, or as tif, the ids stay.
# What most people expect: the ids that are in the image, or an error. 255 for void and one colour a class is how label
#   files are commonly written, and how many programs give masks their colours. With 11 classes, as of CamVid, void
#   comes back as class 15; with 16 or with 4, as their last class, so that nothing looks wrong.
# Seen on 2026-11-27, ids 0 1 2 255:
#   4 colours: 2 bits, 0 1 2 3
#   11 colours: 4 bits, 0 1 2 15
#   16 colours: 4 bits, 0 1 2 15
#   17 colours: 8 bits, 0 1 2 255
#   16 colours as tif: 0 1 2 255
#   16 colours, bits=8: 0 1 2 15
# The remedy: fill the palette up to 256 colours. The project's masks have no void (cause_lib/runs/pictures.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pillow==13.0.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from PIL import Image


def saved(colours: int, name: str = "label.png", **options) -> list[int]:
    """The ids that a label with a palette of so many colours has when it is read again."""
    label = Image.fromarray(np.array([[0, 1, 2, 255]], dtype=np.uint8))
    label.putpalette([level for i in range(colours) for level in (i, i, i)])
    assert np.asarray(label)[0].tolist() == [0, 1, 2, 255]  # giving it a palette changes no id
    label.save(name, **options)
    return np.asarray(Image.open(name))[0].tolist()


seen = {}
for colours in (4, 11, 16, 17):
    seen[colours] = saved(colours)
    bits = open("label.png", "rb").read(26)[24]
    print(f"{colours} colours: {bits} bits, {' '.join(map(str, seen[colours]))}")
seen["tif"] = saved(16, "label.tif")
print(f"16 colours as tif: {' '.join(map(str, seen['tif']))}")
seen["bits=8"] = saved(16, bits=8)
print(f"16 colours, bits=8: {' '.join(map(str, seen['bits=8']))}")
assert seen == {4: [0, 1, 2, 3], 11: [0, 1, 2, 15], 16: [0, 1, 2, 15], 17: [0, 1, 2, 255], "tif": [0, 1, 2, 255],
                "bits=8": [0, 1, 2, 15]}, seen
assert saved(256) == [0, 1, 2, 255]  # the remedy
PY
