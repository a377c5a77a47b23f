"""Class colours that stay apart for every reader.

The first seven are Okabe and Ito's; each further colour is the one farthest from all before it (and from black and
white, which mean void and paper), where the distance between two colours is the smallest of their OKLab distances as
seen with normal, protan and deutan vision.

palette.json holds those seven, the visions' matrices (normal, protan, deutan; linear RGB to linear RGB), and OKLab's.
Okabe and Ito 2008, "Color Universal Design"; Ottosson 2020, "OKLab"; Machado et al. 2009 (simulation matrices).
"""

import json
from pathlib import Path

import numpy as np

FACTS = json.loads(Path(__file__).with_name("palette.json").read_text(encoding="utf-8"))
OKABE_ITO, VISIONS, RGB_TO_LMS, LMS_TO_LAB = (
    np.array(FACTS[name]) for name in ("okabe_ito", "visions", "rgb_to_lms", "lms_to_lab"))


def palette(num_colors: int) -> np.ndarray:
    """`num_colors` well-spread class colours, uint8 (num_colors, 3). A longer palette starts with the shorter one."""
    steps = np.linspace(32, 255, 9).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    chosen = list(OKABE_ITO[:num_colors])
    seen = _as_seen(candidates)  # (m, 3 visions, 3)
    bright = seen[:, 0, 0] > 0.45  # OKLab's lightness: nothing that could pass for void
    candidates, seen = candidates[bright], seen[bright]
    taken = _as_seen(np.array([(0, 0, 0), (255, 255, 255), *chosen]))
    nearest = np.min([_distance(seen, color) for color in taken], axis=0)  # (m,)
    while len(chosen) < num_colors:
        farthest = int(nearest.argmax())
        chosen.append(candidates[farthest])
        nearest = np.minimum(nearest, _distance(seen, seen[farthest]))
    return np.array(chosen, dtype=np.uint8).reshape(num_colors, 3)


def _as_seen(colors: np.ndarray) -> np.ndarray:
    """sRGB colours (m, 3) in 0..255 as OKLab coordinates under each vision, (m, 3 visions, 3)."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    simulated = np.einsum("vij,mj->mvi", VISIONS, linear).clip(0, 1)
    return np.cbrt(simulated @ RGB_TO_LMS.T) @ LMS_TO_LAB.T


def _distance(seen: np.ndarray, color: np.ndarray) -> np.ndarray:
    """How far each colour of `seen` (m, 3, 3) is from `color` (3, 3) for whoever tells them apart worst, (m,)."""
    return np.linalg.norm(seen - color, axis=-1).min(axis=-1)


def shades(color: np.ndarray, count: int) -> np.ndarray:
    """`count` shades of one sRGB colour (3,), uint8 (count, 3): itself, then by turns lighter and darker."""
    toward = [(255, 0.5), (0, 0.35), (255, 0.75), (0, 0.6)]  # white or black, and how far
    color = np.asarray(color, dtype=float)
    mixed = [color + far * (end - color) for end, far in toward[: count - 1]]
    return np.array([color, *mixed]).round().astype(np.uint8)
