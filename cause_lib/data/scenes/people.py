"""People of any age and in any clothes: they stand, wave, walk, run, cheer, sit in the grass, ride and row."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import Random, fraction, rgb
from cause_lib.data.scenes.pen import DARK, WHITE, Pen, step

LIPS = rgb((0.70, 0.28, 0.26))
SKIN = ((0.94, 0.76, 0.64), (0.80, 0.58, 0.42), (0.58, 0.39, 0.27), (0.38, 0.25, 0.18))
HAIR = ((0.12, 0.09, 0.08), (0.36, 0.22, 0.12), (0.80, 0.62, 0.30), (0.62, 0.60, 0.58), (0.60, 0.26, 0.12))
TROUSERS = ((0.18, 0.22, 0.36), (0.22, 0.21, 0.22), (0.55, 0.48, 0.36))

# Directions of the far thigh, far shank, near thigh, near shank; far upper arm, far forearm, near upper arm, forearm.
DOWN = ((0.1, -1), (0.03, -1), (-0.1, -1), (-0.05, -1))
POSES = {
    "stand": (*DOWN, (-0.35, -1), (-0.1, -1), (0.35, -1), (0.15, -1)),
    "wave": (*DOWN, (-0.35, -1), (-0.1, -1), (0.9, 0.5), (-0.1, 1)),
    "cheer": ((0.25, -1), (0.12, -1), (-0.25, -1), (-0.12, -1), (-0.7, 0.7), (-0.3, 1), (0.7, 0.7), (0.3, 1)),
    "stroll": ((-0.25, -1), (-0.5, -1), (0.25, -1), (0.05, -1), (0.3, -1), (0.5, -1), (-0.3, -1), (0.1, -1)),
    "stride": ((-0.45, -1), (-0.9, -1), (0.45, -1), (0.15, -1), (0.5, -1), (0.9, -1), (-0.5, -1), (0.1, -1)),
    "run": ((-0.7, -1), (-1.6, -0.4), (0.9, -0.8), (-0.2, -1), (0.6, -1), (1.2, 0.3), (-0.9, -0.8), (0.6, -1)),
    "sit": ((1, 0.35), (0.35, -1), (1, 0.55), (0.5, -1), (-0.5, -1), (-0.3, -1), (0.5, -0.8), (1, -0.3)),
    "ride": ((0.9, -0.4), (-0.1, -1), (0.5, -0.85), (-0.2, -1), (1, -0.65), (1, -0.1), (1, -0.7), (1, -0.1)),
}


def draw_walker(pen: Pen, random: Random) -> None:
    draw_person(pen, random, random.choice("stand", "wave", "stroll", "stride", "stride", "run"))


def draw_idler(pen: Pen, random: Random) -> None:
    draw_person(pen, random, random.choice("stand", "cheer", "wave", "stroll", "sit", "sit"))


def draw_person(pen: Pen, random: Random, pose: str, hip: tuple | None = None) -> None:
    """Somebody in a pose, the lower foot on the ground, or with the hip where a seat is."""
    if hip is None and random.chance(0.25):
        pen = pen.other("person", 0.72)  # a child
    skin, hair, top = random.color(*SKIN, spread=0.03), random.color(*HAIR), random.paint()
    trousers, shoes = random.choice(random.paint(), random.color(*TROUSERS)), random.choice(DARK, WHITE, random.paint())
    dress, bare, long_sleeves = hip is None and random.chance(0.3), random.chance(0.3), random.chance(0.75)
    legs, arms, rides = POSES[pose][:4], POSES[pose][4:], pose == "ride"

    def bend(start: tuple, upper: tuple, lower: tuple, length: float) -> tuple:
        """Where knee and foot are, or elbow and hand."""
        joint = step(start, upper, length)
        return joint, step(joint, lower, 0.96 * length)

    lowest = min(bend((0, 0), *legs[i : i + 2], 0.36)[1][1] for i in (0, 2))
    x, y = hip or (0.0, max(0.07 - lowest, 0.16))
    chest, neck = (x + 0.2 * rides, y + 0.44), (x + 0.25 * rides + 0.02, y + 0.55)

    def draw_leg(i: int, x: float, tone: float) -> None:
        knee, foot = bend((x, y), *legs[i : i + 2], 0.36)
        pen.limb("leg", knee, foot, 0.095, 0.075, tone * (skin if bare or dress else trousers))
        pen.limb("leg", (x, y + 0.02), knee, 0.13, 0.1, tone * (skin if dress else trousers))
        pen.limb("leg", (foot[0] - 0.02, foot[1]), (foot[0] + 0.13, foot[1] - 0.02), 0.075, 0.06, tone * shoes)

    def draw_arm(i: int, x: float, tone: float) -> None:
        elbow, hand = bend((x, chest[1]), *arms[i : i + 2], 0.26)
        pen.limb("arm", elbow, hand, 0.075, 0.06, tone * (top if long_sleeves else skin))
        pen.limb("arm", (x, chest[1]), elbow, 0.09, 0.08, tone * top)
        pen.ellipse("arm", *hand, 0.085, 0.085, tone * skin)

    draw_leg(0, x + 0.05, 0.8)
    draw_arm(0, chest[0] - 0.1, 0.8)
    draw_leg(2, x - 0.05, 1.0)
    pen.limb("head", (neck[0], neck[1] - 0.04), (neck[0], neck[1] + 0.1), 0.075, 0.07, 0.85 * skin)
    if dress:
        skirt = [(x - 0.15, y + 0.2), (x + 0.15, y + 0.2), (x + 0.29, y - 0.26), (x - 0.29, y - 0.26)]
        pen.polygon("torso", skirt, trousers, lambda u, v: 0.3 * pen.sun[0] * (u - x) - 0.12 * (fraction(9 * u) < 0.3))
    pen.limb("torso", (x, y + 0.05), chest, 0.16, 0.185, top, light=0.25)
    if random.chance(0.25):
        pen.limb("torso", (x - 0.12, y + 0.3), (x + 0.16, y + 0.3), 0.05, 0.05, random.paint())  # a band
    draw_head(pen, random, neck[0] + 0.02, neck[1] + 0.24, skin, hair, "side" if rides else "front")
    draw_arm(2, chest[0] + 0.1 * (not rides), 1.0)


def draw_head(pen: Pen, random: Random, x: float, y: float, skin: np.ndarray, hair: np.ndarray, turn: str) -> None:
    """From the front, the side or behind, with short or long hair, a cap, a hat or a woolly one."""
    turn, r = random.choice(turn, turn, "side", "back"), 0.19
    if random.chance(0.4):
        pen.ellipse("head", x, y - 0.1, 1.25 * r, 1.4 * r, 0.85 * hair, where=lambda u, v: (np.abs(u) > 0.5) | (v > 0))
    pen.ellipse("head", x, y, r, 1.08 * r, hair if turn == "back" else skin)
    if turn != "back":
        front = turn == "front"
        fringe = (lambda u, v: v > 0.35 - 0.3 * u * u) if front else (lambda u, v: v > 0.35 + 1.4 * u)
        pen.ellipse("head", x - 0.01, y + 0.03, 1.12 * r, 1.1 * r, hair, where=fringe)
        for eye in (-0.07, 0.07) if front else (0.10,):
            pen.ellipse("head", x + eye, y, 0.026, 0.034, DARK, light=0, rim=0)
        pen.ellipse("head", x + (0.0 if front else 0.11), y - 0.09, 0.05, 0.02, LIPS, light=0, rim=0)
        if not front:
            pen.ellipse("head", x + r, y - 0.03, 0.045, 0.04, skin)
    hat, paint = random.choice("", "", "", "cap", "brim", "wool"), random.paint()
    if hat:
        pen.ellipse("head", x, y + 0.07, 1.12 * r, 1.05 * r, paint, where=lambda u, v: v > 0.1)
    if hat == "wool":
        pen.ellipse("head", x, y + 0.29, 0.07, 0.07, WHITE, rough=0.2, clump=0.05)
    elif hat:
        pen.limb("head", (x - 0.3 * (hat == "brim"), y + 0.09), (x + 0.31, y + 0.09), 0.035, 0.03, 0.8 * paint)
