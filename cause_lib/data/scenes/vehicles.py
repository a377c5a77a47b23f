"""What people go by: cars, bicycles, boats."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import Random, fraction, rgb
from cause_lib.data.scenes.pen import DARK, STEEL, WHITE, Pen
from cause_lib.data.scenes.people import draw_person
from cause_lib.data.scenes.world import ID

WOOD = rgb((0.60, 0.42, 0.26))
RED, LAMP, LIT = rgb((0.85, 0.12, 0.10)), rgb((0.98, 0.95, 0.80)), rgb((1.3, 1.2, 0.8))
GLASS = ((0.24, 0.30, 0.36), (0.52, 0.64, 0.72))
CABINS = (
    ((-1.25, 0.9), (-0.85, 1.42), (0.35, 1.42), (0.95, 0.9)),  # a saloon
    ((-1.6, 0.9), (-1.4, 1.42), (0.3, 1.45), (0.95, 0.9)),  # a hatchback
    ((-1.68, 0.9), (-1.62, 1.9), (0.8, 1.9), (1.45, 0.95)),  # a van
    ((-0.3, 0.9), (-0.2, 1.5), (0.65, 1.5), (1.1, 0.9)),  # a pick-up
    ((-1.45, 0.9), (-1.0, 1.4), (-0.35, 1.58), (0.3, 1.45), (0.85, 0.9)),  # a beetle
)


def sheen(x, y):
    """Of a window-pane: a bright band aslant."""
    return 0.4 * (fraction(0.45 * (x + y)) < 0.35) + 0.2 * (y - 1.1)


def draw_car(pen: Pen, random: Random) -> None:
    """From the side."""
    cabin, paint = random.choice(*CABINS), random.choice(random.paint(), random.paint(), WHITE)
    lower = random.choice(paint, paint, random.paint(), WHITE)
    xs, ys = zip(*cabin)
    middle, high = 0.5 * (min(xs) + max(xs)), max(ys)

    def gloss(x, y):
        return 0.28 * (y - 0.85) - 0.16 * (np.abs(y - 0.62) < 0.03) + 0.12 * (np.abs(y - 0.9) < 0.05)

    pen.polygon("body", cabin, paint, gloss)
    sill = 1.15 if high > 1.7 else 0.98
    panes = [(middle + 0.86 * (x - middle), max(y - 0.12, sill)) for x, y in cabin]
    pen.polygon("window", panes, random.color(*GLASS), sheen)
    for x in (-0.75, 0.1) if high > 1.7 else (middle - 0.05,):
        pen.box("body", x - 0.06, 0.9, x + 0.06, high - 0.05, paint)
    hull = [(-1.7, 0.28), (-1.78, 0.6), (-1.7, 0.92), (1.15, 0.97), (1.6, 0.84), (1.78, 0.62), (1.74, 0.28)]
    pen.polygon("body", hull, lower, gloss)
    pen.ellipse("body", 1.66, 0.7, 0.12, 0.12, LIT if pen.day.lamps else LAMP)
    pen.box("body", -1.76, 0.62, -1.62, 0.82, RED)
    pen.box("body", -1.8, 0.3, 1.78, 0.4, 0.5 * lower)
    for x in (-1.08, 1.08):
        pen.ellipse("body", x, 0.36, 0.46, 0.46, 0.35 * lower, rim=0, light=0, where=lambda u, v: v > -0.15)
        pen.ellipse("wheel", x, 0.34, 0.34, 0.34, DARK)
        pen.ellipse("wheel", x, 0.34, 0.2, 0.2, STEEL, where=lambda u, v: (np.abs(u) > 0.16) | (np.abs(v) < 0.5))


def draw_car_end(pen: Pen, random: Random) -> None:
    """From the front (facing right) or from behind."""
    front, high, paint = pen.facing > 0, random.choice(1.45, 1.45, 1.6, 1.95), random.choice(random.paint(), WHITE)

    def gloss(x, y):
        return 0.25 * (y - 0.8) + 0.1 * pen.sun[0] * x - 0.14 * (np.abs(y - 0.5) < 0.03)

    for x in (-0.66, 0.66):
        pen.limb("wheel", (x, 0.16), (x, 0.4), 0.17, 0.17, DARK)
    right = [(0.64, high), (0.84, 0.95), (0.92, 0.7), (0.88, 0.28)]
    pen.polygon("body", right + [(-x, y) for x, y in reversed(right)], paint, gloss)
    pane = [(-0.72, 0.97), (-0.56, high - 0.1), (0.56, high - 0.1), (0.72, 0.97)]
    pen.polygon("window", pane, random.color(*GLASS), sheen)
    for x in (-0.68, 0.68):
        pen.ellipse("body", x, 0.72, 0.14, 0.14, RED if not front else LIT if pen.day.lamps else LAMP)
    pen.box("body", -0.9, 0.28, 0.9, 0.42, 0.45 * paint)
    pen.box("body", -0.28, 0.44, 0.28, 0.6, WHITE)
    if front:
        pen.box("body", -0.4, 0.64, 0.4, 0.8, DARK, lambda x, y: 2.5 * (fraction(8 * x) < 0.4))


def draw_bicycle(pen: Pen, random: Random) -> None:
    """On its stand, or with somebody who rides it."""
    paint, r = random.paint(), 0.38
    rear, front, crank, seat, head = (-0.56, r), (0.58, r), (-0.04, 0.34), (-0.2, 0.92), (0.42, 0.96)
    for x, y in (rear, front):
        pixels, u, v = pen.frame(x - r, y - r, x + r, y + r)
        u, v = (u - x) / r, (v - y) / r
        square, behind = u * u + v * v, pen.canvas.image[(slice(None), *pixels)]
        spokes = 0.3 + 0.45 * rgb(np.abs(u * v) < 0.03)  # what lies behind shows between them, as part of the wheel
        tone = behind + (STEEL[:, None, None] - behind) * spokes
        pen.canvas.paint(pixels, square < 0.75, tone, ID["bicycle", "wheel"])
        pen.fill("wheel", pixels, (square < 1) & (square > 0.62), DARK)
    bar = (-0.15, 0.78), (0.38, 0.82)
    for a, b in ((rear, crank), (rear, seat), (crank, seat), (crank, head), bar, (front, head)):
        pen.limb("frame", a, b, 0.042, 0.042, paint)
    pen.limb("frame", (-0.32, 0.99), (-0.08, 0.99), 0.06, 0.045, DARK)
    pen.limb("frame", head, (0.40, 1.1), 0.035, 0.035, STEEL)
    pen.limb("frame", (0.40, 1.1), (0.56, 1.14), 0.035, 0.04, DARK)
    pen.ellipse("frame", *crank, 0.09, 0.09, STEEL)
    if random.chance(0.3):
        pen.box("frame", 0.5, 0.82, 0.86, 1.08, WOOD)  # a basket
    if random.chance(0.65):
        draw_person(pen.other("person"), random, "ride", hip=(-0.22, 1.05))


def draw_boat(pen: Pen, random: Random) -> None:
    """Under sail, or a rowing boat with somebody in it, and its image in the water."""
    paint, band = random.choice(random.paint(), WHITE, WOOD), random.paint()
    pixels, u, v = pen.frame(-1.6, -1.0, 1.8, 0)
    u, wet = (u - 0.1) / 1.7, pen.canvas.label[pixels] == ID["water", "surface"]
    pen.canvas.tint(pixels, paint, 0.5 * wet * np.clip((1 - u * u) * (1 + v), 0, 1))
    if random.chance(0.7):
        cloth, tall = random.choice(WHITE, WHITE, random.paint(), WOOD), random(3.4, 4.6)

        def seams(x, y):
            return 0.12 * pen.sun[0] * x - 0.1 * (fraction(1.2 * y) < 0.1) + 0.03 * y - 0.05

        pen.limb("sail", (0.05, 0.3), (0.05, tall + 0.15), 0.07, 0.05, 0.7 * WOOD)
        main = [(-0.06, 0.75), (-0.06, tall), (-0.7, 0.55 * tall), (-1.5, 0.8)]
        jib = [(0.2, 0.8), (0.12, 0.92 * tall), (0.85, 0.5 * tall), (1.6, 0.75)]
        pen.polygon("sail", main, cloth, seams)
        pen.polygon("sail", jib, random.choice(cloth, band), seams)
    else:
        draw_person(pen.other("person"), random, "sit", hip=(-0.2, 0.45))
    pen.polygon("hull", [(-1.55, 0.62), (-1.25, -0.05), (1.15, -0.05), (1.85, 0.72), (1.0, 0.58)], paint,
                lambda x, y: 0.3 * (y - 0.3) + 0.1 * pen.sun[0] * x)
    pen.polygon("hull", [(-1.5, 0.5), (-1.46, 0.38), (1.5, 0.38), (1.62, 0.5)], band)
