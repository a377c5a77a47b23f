"""Houses: front, side wall and roof in oblique projection; a gable or a long roof toward us."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import Random, fraction, rgb
from cause_lib.data.scenes.pen import SNOW, WHITE, Pen

LIT, BRASS = rgb((1.45, 1.15, 0.60)), rgb((0.95, 0.85, 0.40))
WALLS = ((0.93, 0.90, 0.82), (0.88, 0.78, 0.55), (0.72, 0.36, 0.28), (0.62, 0.68, 0.74), (0.84, 0.60, 0.50),
         (0.56, 0.42, 0.30), (0.66, 0.74, 0.60), (0.92, 0.92, 0.92), (0.62, 0.18, 0.16))
ROOFS = ((0.62, 0.24, 0.16), (0.36, 0.34, 0.36), (0.50, 0.34, 0.24), (0.30, 0.40, 0.44), (0.74, 0.42, 0.24))


# Textures: lighter or darker by this share at (x, y), in metres.

def bricks(x, y):
    shift = 0.5 * np.floor(y / 0.24)
    return -0.13 * ((fraction(y / 0.24) < 0.22) | (fraction(x / 0.55 + shift) < 0.12))


def planks(x, y):
    return 0.12 * fraction(y / 0.3) - 0.14 * (fraction(y / 0.3) < 0.16)


def boards(x, y):
    return -0.16 * (fraction(x / 0.4) < 0.16)


def plaster(x, y):
    return 0.03 * y - 0.06


def tiles(x, y):
    shift = 0.5 * np.floor(y / 0.3)
    return 0.18 * fraction(y / 0.3) - 0.1 - 0.08 * (fraction(x / 0.4 + shift) < 0.2)


def draw_house(pen: Pen, random: Random) -> None:
    storeys = random.choice(1, 1, 2)
    wide, tall, deep, rise = random(3.6, 5.6), random(0.4, 1.0) + 1.9 * storeys, random(0.9, 2.0), random(1.4, 2.4)
    half, over, back = wide / 2, 0.25, 0.22  # the eaves' overhang, and how much higher the rear corner is seen
    top, far = tall + rise, half + deep
    wall, texture = random.color(*WALLS), random.choice(bricks, planks, boards, plaster, plaster)
    snowy = pen.day.season == "winter" and random.chance(0.7)
    roof = SNOW if snowy else random.color(*ROOFS)
    lit = 0.22 * pen.sun[0]  # on what faces to the side

    def slates(x, y):
        return (0.0 if snowy else tiles(x, y)) + 0.5 * lit

    if random.chance(0.7):
        x = random(-0.25, 0.25) * wide
        pen.box("chimney", x, tall, x + 0.55, top + 0.7, random.color((0.55, 0.30, 0.24), (0.5, 0.5, 0.5)), bricks)
    pen.polygon("wall", [(half, 0.05), (far, back), (far, tall + back), (half, tall)], 0.85 * wall,
                lambda x, y: texture(x, y) + lit)
    gable = random.chance(0.55)
    if gable:
        pen.polygon("roof", [(0, top + 0.1), (half + over, tall - over), (far + over, tall + back - over),
                             (deep, top + back + 0.1)], roof, slates)
        pen.polygon("wall", [(-half, 0), (half, 0), (half, tall), (0, top), (-half, tall)], wall, texture)
        for eave in (-half - over, half + over):
            strip = [(0, top + 0.15), (eave, tall - 0.25), (eave, tall - 0.55), (0, top - 0.3)]
            pen.polygon("roof", strip, roof, plaster)
    else:
        pen.box("wall", -half, 0, half, tall, wall, texture)
        hip = [(half, tall - 0.1), (far + over, tall + back - 0.1), (half - 0.4, top)]
        slope = [(-half - over, tall - 0.15), (half + over, tall - 0.15), (half - 0.4, top), (0.5 - half, top)]
        pen.polygon("roof", hip, 0.8 * roof, slates)
        pen.polygon("roof", slope, roof, slates)
    trim, shutters = random.choice(WHITE, WHITE, random.paint()), random.paint() if random.chance(0.4) else None
    glass = LIT if pen.day.lamps else random.color((0.28, 0.38, 0.48), (0.45, 0.60, 0.72))
    door, panes = random.choice(-1, 0, 1), random.choice(1, 2)
    for storey in range(storeys):
        for column in (-1, 0, 1):
            x, y = 0.31 * wide * column, 0.95 + 1.9 * storey
            if storey == 0 and column == door:
                pen.box("door", x - 0.52, 0, x + 0.52, 1.95, trim)
                pen.box("door", x - 0.42, 0, x + 0.42, 1.85, random.paint(), boards)
                pen.ellipse("door", x + 0.26, 0.9, 0.07, 0.07, BRASS)
                continue
            if shutters is not None:
                pen.box("window", x - 0.85, y - 0.05, x + 0.85, y + 1.05, shutters, planks)
            draw_window(pen, x, y, trim, glass, panes)
    if gable and rise > 1.7:
        pen.ellipse("window", 0, tall + 0.35 * rise, 0.42, 0.42, trim, light=0, rim=0)
        pen.ellipse("window", 0, tall + 0.35 * rise, 0.32, 0.32, glass)


def draw_window(pen: Pen, x: float, y: float, frame: np.ndarray, glass: np.ndarray, panes: int) -> None:
    """A metre square, its sill in the middle at (x, y), with bars between the panes."""
    def bars(u, v):
        u, v = (u - x) / 0.88, (v - y - 0.5) / 0.84  # from -1/2 to 1/2
        between = np.abs(fraction(panes * (u + 0.5)) - 0.5) > 0.45
        return 0.25 * (u - v) + 0.05 - 0.3 * (between | (np.abs(v) < 0.06))

    pen.box("window", x - 0.5, y, x + 0.5, y + 1, frame)
    pen.box("window", x - 0.44, y + 0.08, x + 0.44, y + 0.92, glass, bars)
