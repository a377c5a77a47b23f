"""Trees: a conifer in tiers, a poplar, or a broad crown of leafy heaps; blossom, fruit and snow in their season."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import Random, fraction
from cause_lib.data.scenes.pen import SNOW, Pen

NEEDLES = ((0.12, 0.30, 0.20), (0.16, 0.34, 0.16), (0.20, 0.36, 0.32))
LEAVES = {
    "spring": ((0.95, 0.72, 0.80), (0.93, 0.90, 0.88), (0.60, 0.74, 0.30), (0.34, 0.52, 0.18), (0.46, 0.56, 0.22)),
    "summer": ((0.22, 0.44, 0.16), (0.34, 0.52, 0.18), (0.18, 0.38, 0.24), (0.46, 0.56, 0.22)),
    "autumn": ((0.80, 0.50, 0.12), (0.74, 0.30, 0.14), (0.85, 0.68, 0.18), (0.45, 0.46, 0.16)),
    "winter": ((0.22, 0.40, 0.22), (0.74, 0.78, 0.82), (0.56, 0.58, 0.54)),
}
BARK = ((0.36, 0.25, 0.17), (0.46, 0.38, 0.32), (0.82, 0.80, 0.76))
FRUIT = ((0.85, 0.15, 0.12), (0.95, 0.60, 0.12), (0.92, 0.82, 0.25))


def leaf_color(random: Random, season: str) -> np.ndarray:
    return random.color(*LEAVES[season])


def draw_tree(pen: Pen, random: Random) -> None:
    draw = random.choice(draw_broad_tree, draw_broad_tree, draw_broad_tree, draw_conifer, draw_conifer, draw_poplar)
    draw(pen, random, random(4.2, 6.0), random.color(*BARK, spread=0.03))


def draw_conifer(pen: Pen, random: Random, tall: float, bark: np.ndarray) -> None:
    green, tiers, low = random.color(*NEEDLES), random.choice(4, 5), random(0.5, 0.9)
    pen.limb("trunk", (0, 0.1), (0, 1.2), 0.24, 0.2, bark)
    for tier in range(tiers):
        half, y = (1.5 - 1.15 * tier / tiers) * random(0.9, 1.1), low + (tall - low) * tier / tiers
        rise = 1.75 / tiers * (tall - low)

        def needles(u, v, half=half, y=y, rise=rise):
            return 0.25 * pen.sun[0] * u / half + 0.45 * (v - y) / rise - 0.3 + 0.1 * fraction(5 * u + 3 * v)

        hem = [(-1, 0), (-0.6, 0.08), (-0.3, -0.08), (0, 0.06), (0.35, -0.07), (0.65, 0.07), (1, 0)]
        corners = [*hem, (0.25, 0.65), (0, 1), (-0.25, 0.65)]
        pen.polygon("crown", [(half * u, y + rise * v) for u, v in corners], green, needles)
        if pen.day.season == "winter":
            cap = [(-0.4, 0.45), (-0.1, 0.4), (0.1, 0.55), (0.4, 0.45), (0, 1)]
            pen.polygon("crown", [(half * u, y + rise * v) for u, v in cap], SNOW)


def draw_poplar(pen: Pen, random: Random, tall: float, bark: np.ndarray) -> None:
    green = leaf_color(random, pen.day.season)
    pen.limb("trunk", (0, 0.1), (0, 1.5), 0.2, 0.16, bark)
    for _ in range(7):
        y = random(0.25, 0.8)
        pen.ellipse("crown", random(-0.2, 0.2), tall * (y + 0.05), 0.75 * (1.1 - abs(y - 0.45)), 1.0, green,
                    light=0.3, rough=0.25)


def draw_broad_tree(pen: Pen, random: Random, tall: float, bark: np.ndarray) -> None:
    lean, middle, wide, season = random(-0.25, 0.25), 0.68 * tall, random(1.1, 1.5), pen.day.season
    green = leaf_color(random, season)
    pen.limb("trunk", (0, 0.05), (lean, 0.6 * tall), 0.3, 0.16, bark, light=0.35)
    pen.limb("trunk", (0.6 * lean, 0.36 * tall), (lean + 0.8, 0.62 * tall), 0.13, 0.08, bark, light=0.35)
    heaps = sorted((random(-0.6, 0.75), random(-1, 1)) for _ in range(8))  # from below to above: the top has the light
    for up, across in heaps:
        r = wide * random(0.5, 0.7)
        x, y = lean + wide * across * (1 - 0.35 * abs(up)), middle + wide * up
        pen.ellipse("crown", x, y, 1.1 * r, r, green * (1 + 0.14 * up), light=0.3, rim=0.3, rough=0.22)
        if season == "winter":
            pen.ellipse("crown", x, y + 0.25 * r, 0.9 * r, 0.7 * r, SNOW, rough=0.3, where=lambda u, v: v > 0.1)
    if season in ("summer", "autumn") and random.chance(0.35):
        fruit = random.color(*FRUIT)
        for up, across in heaps:
            pen.ellipse("crown", lean + wide * across, middle + 0.85 * wide * up - 0.2, 0.15, 0.15, fruit)
