"""Animals of the farm: a row of measures each; they stand, walk or graze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cause_lib.data.scenes.canvas import Random, rgb
from cause_lib.data.scenes.pen import DARK, WHITE, Pen

BROWN, TAN, BLACK = (0.42, 0.26, 0.16), (0.74, 0.54, 0.34), (0.16, 0.15, 0.16)
CREAM, GREY, PINK = (0.93, 0.90, 0.84), (0.55, 0.54, 0.54), (0.93, 0.68, 0.66)
HORSES = DOGS = (BROWN, TAN, BLACK, CREAM, GREY)


@dataclass(frozen=True)
class Build:
    """In metres: half the body's length and depth, the legs, where head and tail end, the head's radius; the coats."""

    long: float
    deep: float
    leg: float
    thick: float
    neck: tuple[float, float]
    head: float
    tail: tuple[float, float]
    ear: str
    coats: tuple


ANIMALS = {
    "dog": Build(0.42, 0.19, 0.34, 0.067, (0.16, 0.26), 0.19, (-0.22, 0.3), "hanging", DOGS),
    "cat": Build(0.36, 0.17, 0.24, 0.064, (0.14, 0.2), 0.18, (-0.14, 0.5), "pointed", (TAN, BLACK, CREAM, GREY)),
    "sheep": Build(0.52, 0.36, 0.32, 0.067, (0.16, 0.14), 0.2, (-0.12, -0.08), "hanging", (CREAM, CREAM, GREY, BROWN)),
    "cow": Build(0.85, 0.42, 0.58, 0.106, (0.24, 0.22), 0.27, (-0.16, -0.6), "horned", (CREAM, BROWN, BLACK, TAN)),
    "horse": Build(0.8, 0.38, 0.75, 0.1, (0.36, 0.46), 0.25, (-0.28, -0.55), "pointed", HORSES),
    "pig": Build(0.52, 0.32, 0.24, 0.09, (0.16, 0.06), 0.24, (-0.1, 0.1), "pointed", (PINK, PINK, CREAM, BLACK)),
}


def bright(color: np.ndarray) -> float:
    """The mean of red, green and blue."""
    return sum(color.tolist()) / 3


def draw_animal(pen: Pen, random: Random) -> None:
    kind = random.choice(*ANIMALS)
    a = ANIMALS[kind]
    coat, dark, stride = random.color(*a.coats), random.color(BROWN, BLACK), random(0.0, 0.35)
    rear, chest, mane = (a.deep - a.long, a.leg + a.deep), (a.long - a.deep, a.leg + a.deep), kind in ("horse", "cow")
    shins = dark if kind == "sheep" else coat

    def draw_legs(swing: float, tone: float) -> None:
        for x, side in ((rear[0] - 0.05, -1), (chest[0] + 0.05, 1)):
            hoof = x + swing * side * a.leg, 0.05
            pen.limb("leg", (x, a.leg + 0.5 * a.deep), hoof, 1.4 * a.thick, a.thick, tone * shins)
            pen.ellipse("leg", hoof[0] + 0.02, 0.04, 1.15 * a.thick, 0.06, 0.6 * tone * shins)

    draw_legs(-stride - 0.12, 0.72)
    root = rear[0] - 0.75 * a.deep, rear[1] + 0.4 * a.deep
    pen.limb("tail", root, (root[0] + a.tail[0], root[1] + a.tail[1]), 0.11 if kind == "horse" else 0.055,
             0.09 if mane else 0.05, dark if mane else coat)
    if kind == "sheep":
        for x, y in ((-0.5, 0.1), (0.5, 0.15), (-0.2, 0.25), (0.2, 0.3), (0.0, -0.1)):
            wool = x * a.long, rear[1] + y * a.deep, 0.72 * a.long, 0.8 * a.deep
            pen.ellipse("body", *wool, coat, rough=0.22, clump=0.09)
    else:
        pen.limb("body", rear, chest, a.deep, 0.95 * a.deep, coat, light=0.25, rough=0.04, clump=0.1)
        if kind != "pig" and random.chance(0.5):
            draw_spots(pen, a, rear[1], dark if bright(coat) > 0.4 else WHITE)
    draw_legs(stride, 1.0)
    graze = a.ear != "hanging" and a.head > 0.2 and random.chance(0.35)
    reach = (a.neck[0] + 0.1, -0.75 * a.leg - 0.3 * a.deep) if graze else a.neck
    x, y = chest[0] + 0.5 * a.deep + reach[0], chest[1] + 0.35 * a.deep + reach[1]
    pen.limb("body", (chest[0] + 0.3 * a.deep, chest[1] + 0.1 * a.deep), (x, y), 0.6 * a.deep, 0.8 * a.head, coat)
    if kind == "horse":
        pen.limb("body", (chest[0] + 0.05, chest[1] + 0.5 * a.deep), (x - 0.12, y + 0.12), 0.1, 0.08, dark)
    draw_face(pen, a, kind, x, y, -0.9 if graze else -0.45, dark if kind == "sheep" and random.chance(0.6) else coat)


def draw_face(pen: Pen, a: Build, kind: str, x: float, y: float, droop: float, color: np.ndarray) -> None:
    """Head, muzzle, eye, ears and horns of a head at (x, y)."""
    r, snout = a.head, (x + 1.15 * a.head, y + droop * a.head)
    pen.limb("head", (x, y), snout, r, 0.62 * r, color)
    if kind in ("cow", "pig", "dog"):
        pen.ellipse("head", snout[0] + 0.2 * r, snout[1], 0.42 * r, 0.45 * r, DARK if kind == "dog" else rgb(PINK))
    eye = DARK if bright(color) > 0.27 else WHITE
    pen.ellipse("head", x + 0.35 * r, y + 0.25 * r, 0.15 * r, 0.18 * r, eye, light=0, rim=0)
    for shift, tone in ((0.25, 0.65), (-0.45, 0.8)):
        u, v = x + shift * r, y + 0.75 * r
        if a.ear == "hanging":
            pen.limb("head", (u - 0.1 * r, v - 0.1 * r), (u - 0.45 * r, v - 0.8 * r), 0.2 * r, 0.3 * r, tone * color)
        else:
            pen.polygon("head", [(u - 0.35 * r, v - 0.2 * r), (u + 0.35 * r, v - 0.1 * r), (u - 0.1 * r, v + 0.75 * r)],
                        tone * color)
        if a.ear == "horned":
            pen.limb("head", (u, v), (u + 0.25 * r, v + 0.6 * r), 0.12 * r, 0.05 * r, rgb(CREAM))


def draw_spots(pen: Pen, a: Build, y: float, color: np.ndarray) -> None:
    """Patches on the body, where noise is high."""
    pixels, u, v = pen.frame(-a.long, y - a.deep, a.long, y + a.deep)
    u, v = u / (0.96 * a.long), (v - y) / (0.92 * a.deep)
    spots = (u * u + v * v < 0.95) & (pen.grain(pixels, 0.5 * a.deep) > 0.15)
    pen.fill("body", pixels, spots, color, 0.15 * v - 0.1)
