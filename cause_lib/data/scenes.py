"""Generated outdoor scenes: the embedded data set, which needs no file and no network.

A scene is painted from far to near (sky, ground, water, road, then houses, trees, cars and people by their distance),
and every stroke writes its class into the label and its colour into the image through the same mask, so that the two
are aligned to the pixel. Colour alone does not tell the classes apart: light, hue, texture, size and place vary.

Everything is measured in the unit square and rasterised last: the same scene can be drawn at any size. The randomness
is PCG64's uniform stream, seeded by (seed, split, index): the same scene on every machine.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cause_lib.data.palette import palette
from cause_lib.data.source import Source

CLASSES = ["house", "sky", "tree", "grass", "water", "person", "car", "road"]  # in the order that suits the palette
HOUSE, SKY, TREE, GRASS, WATER, PERSON, CAR, ROAD = range(len(CLASSES))
SPLITS = {"train": 96, "val": 48}


def open_scenes(split: str, *, size: int, limit: int | None, **_) -> Source:
    """`limit` scenes (96 train, 48 val unless said), drawn at (size, size). Raises ValueError for another split."""
    if split not in SPLITS:
        raise ValueError(f"scenes has no split '{split}': use one of {', '.join(SPLITS)}")
    count = SPLITS[split] if limit is None else limit
    return Source(
        names=[f"{split} {i}" for i in range(count)],
        classes=list(CLASSES),
        colors=palette(len(CLASSES)),
        read=partial(read_scene, split, size),
        fingerprint=hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16],
    )


def read_scene(split: str, size: int, index: int) -> tuple[Tensor, Tensor]:
    """Scene `index` of `split`: image uint8 (3, size, size), label int32 (size, size)."""
    image, label = draw_scene(index, split, size)
    return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label.astype(np.int32))


def draw_scene(index: int, split: str, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 (size, size, 3), label uint8 (size, size)."""
    random = Random(seed, list(SPLITS).index(split), index)
    canvas = Canvas(size, random)
    horizon = random(0.28, 0.55)
    draw_sky(canvas, random, horizon)
    draw_ground(canvas, random, horizon)
    if random.chance(0.5):
        draw_water(canvas, random, horizon)
    road = draw_road(canvas, random, horizon) if random.chance(0.75) else None

    things = []  # (how far down its foot is, what draws it)
    for draw, most in ((draw_house, 3), (draw_tree, 4), (draw_person, 4)):
        things += [(horizon + (0.97 - horizon) * random(0.03, 0.8) ** 1.3, draw) for _ in range(random.upto(most))]
    if road is not None:
        things += [(horizon + (0.97 - horizon) * random(0.15, 0.95), draw_car) for _ in range(1 + random.upto(2))]
    for foot, draw in sorted(things, key=lambda thing: thing[0]):
        nearness = (foot - horizon) / (1 - horizon)  # 0 at the horizon, 1 at the lower edge
        draw(canvas, random, foot, nearness, road)
    return canvas.finish(random)


class Random:
    """Uniform numbers in [0, 1): PCG64's own stream, scaled, the part of NumPy's generators that stays the same."""

    def __init__(self, *seed: int):
        self.uniform = np.random.Generator(np.random.PCG64(seed)).random

    def __call__(self, low: float, high: float) -> float:
        return low + (high - low) * self.uniform()

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def upto(self, most: int) -> int:
        """One of 0, 1, ..., most."""
        return int(self.uniform() * (most + 1))

    def color(self, *choices: tuple, spread: float = 0.06) -> np.ndarray:
        """One of `choices` (red, green, blue in [0, 1]), jittered."""
        return np.clip(choices[self.upto(len(choices) - 1)] + spread * (2 * self.uniform(3) - 1), 0, 1)

    def noise(self, y: np.ndarray, x: np.ndarray, cells_y: int, cells_x: int) -> np.ndarray:
        """Smooth noise in [-1, 1] at the grid of `y` (h,) by `x` (w,) in [0, 1]: a random lattice, interpolated."""
        lattice = 2 * self.uniform((cells_y + 1, cells_x + 1)) - 1
        rows, columns = (
            np.clip(1 - np.abs(t[:, None] * cells - np.arange(cells + 1)), 0, None)
            for t, cells in ((y, cells_y), (x, cells_x))
        )
        return rows @ lattice @ columns.T  # (h, w)


class Canvas:
    """An image and its label, painted through the same masks."""

    def __init__(self, size: int, random: Random):
        self.centres = (np.arange(size) + 0.5) / size  # (size,) pixel centres in the unit square
        self.image = np.zeros((size, size, 3))
        self.label = np.full((size, size), SKY, dtype=np.uint8)
        noon, evening, morning, dusk = (1.0, 1.0, 1.0), (1.0, 0.94, 0.82), (0.84, 0.92, 1.0), (0.78, 0.74, 0.76)
        self.light = random.color(noon, evening, morning, dusk, spread=0.04)
        self.sun = random(-1, 1)  # which side the light comes from, and how strongly

    def box(self, left: float, top: float, right: float, bottom: float):
        """A window of the canvas (rows, columns), and in it v (h, 1), 0 at its top to 1 at its bottom, and u (1, w)."""
        rows, columns = (
            slice(*np.searchsorted(self.centres, sorted(ends)).tolist()) for ends in ((top, bottom), (left, right))
        )
        v = (self.centres[rows] - top) / max(bottom - top, 1e-9)
        u = (self.centres[columns] - left) / max(right - left, 1e-9)
        return (rows, columns), v[:, None], u[None, :]

    def paint(self, window, mask: np.ndarray, color: np.ndarray, concept: int, shade: np.ndarray | float = 0.0):
        """Fills `mask` of `window` with `color` (3,) or (h, w, 3), made lighter or darker by `shade`, and its class."""
        mask = np.broadcast_to(mask, self.label[window].shape)
        tone = np.broadcast_to(np.asarray(shade, dtype=float)[..., None] + color, (*mask.shape, 3))
        self.image[window][mask] = tone[mask]
        self.label[window][mask] = concept

    def shadow(self, left: float, right: float, foot: float, depth: float):
        """Darkens the ground under a thing; the label keeps what lies there."""
        shift = 0.3 * self.sun * (right - left)
        window, v, u = self.box(left - shift, foot - depth / 2, right - shift, foot + depth / 2)
        inside = (2 * u - 1) ** 2 + (2 * v - 1) ** 2 < 1
        self.image[window] *= np.where(inside, 0.6, 1.0)[..., None]

    def finish(self, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """The light, then a little grain; image uint8 (h, w, 3) and label uint8 (h, w)."""
        slope = 1 + 0.1 * self.sun * (self.centres - 0.5)
        grain = 0.03 * (random.uniform(self.image.shape) - 0.5)
        image = np.clip(self.image * self.light * slope[None, :, None] + grain, 0, 1)
        return (255 * image).round().astype(np.uint8), self.label


def draw_sky(canvas: Canvas, random: Random, horizon: float) -> None:
    window, v, u = canvas.box(0, 0, 1, 1)
    high = random.color((0.30, 0.52, 0.85), (0.45, 0.62, 0.86), (0.62, 0.66, 0.72), (0.42, 0.40, 0.62))
    low = random.color((0.75, 0.86, 0.95), (0.93, 0.84, 0.74), (0.80, 0.82, 0.85))
    blend = np.clip(v / horizon, 0, 1)[..., None]
    sky = (1 - blend) * high + blend * low
    y, x = v[:, 0], u[0]
    clouds = random.noise(y, x, 7, 3) + 0.5 * random.noise(y, x, 16, 8) + 0.25 * random.noise(y, x, 36, 18)
    cover = np.clip(1.6 * (clouds - random(-0.2, 0.9)), 0, 0.85)[..., None]
    canvas.paint(window, True, (1 - cover) * sky + cover * random(0.82, 1.0), SKY)


def draw_ground(canvas: Canvas, random: Random, horizon: float) -> None:
    """A ridge of far trees along the horizon, and grass below it."""
    window, v, u = canvas.box(0, 0, 1, 1)
    y, x = v[:, 0], u[0]
    ridge = random(0.0, 0.09) * (1 + random.noise(np.zeros(1), x, 1, 9)) + 0.008 * random.noise(np.zeros(1), x, 1, 60)
    leaves = 0.05 * random.noise(y, x, 80, 60)
    far_green = random.color((0.28, 0.42, 0.34), (0.38, 0.45, 0.45))
    canvas.paint(window, (v > horizon - ridge) & (v <= horizon), far_green, TREE, leaves)
    blades = 0.09 * random.noise(y, x, 110, 80) + 0.07 * random.noise(y, x, 24, 9)
    color = random.color((0.36, 0.56, 0.22), (0.52, 0.60, 0.26), (0.66, 0.62, 0.34), (0.28, 0.46, 0.24))
    canvas.paint(window, v > horizon, color, GRASS, blades - 0.12 * np.clip(v - horizon, 0, 1))


def draw_water(canvas: Canvas, random: Random, horizon: float) -> None:
    """A lake, or a sea that reaches the horizon: stretched ripples under a mirrored sky."""
    if random.chance(0.5):
        left, right, top, bottom = -0.1, 1.1, horizon, horizon + random(0.08, 0.25)
    else:
        middle, half, top = random(0.1, 0.9), random(0.25, 0.5), horizon + random(0.03, 0.2)
        left, right, bottom = middle - half, middle + half, top + random(0.12, 0.3)
    window, v, u = canvas.box(left, top, right, bottom)
    y, x = v[:, 0], u[0]
    shore = 0.12 * random.noise(y, x, 3, 8)
    inside = np.broadcast_to(v < 0.88 + shore, shore.shape)
    if left > -0.1:
        inside = (2 * u - 1) ** 2 + (2 * v - 1) ** 2 < 0.85 + shore
    ripples = 0.10 * random.noise(y, x, 50, 9) + 0.06 * random.noise(y, x, 22, 4)
    color = random.color((0.26, 0.46, 0.60), (0.30, 0.52, 0.55), (0.45, 0.55, 0.62))
    canvas.paint(window, inside, color, WATER, ripples + 0.08 * (0.5 - v))


def draw_road(canvas: Canvas, random: Random, horizon: float):
    """A road to a vanishing point. Returns where its middle is, and how wide it is, at a height of the canvas."""
    far, near, half = random(0.2, 0.8), random(0.25, 0.75), random(0.2, 0.4)

    def at(y):
        t = (y - horizon) / (1 - horizon)
        return far + (near - far) * t, 0.012 + half * t

    window, v, u = canvas.box(0, horizon, 1, 1)
    middle, width = at(horizon + v * (1 - horizon))
    across = (u - middle) / width
    rough = 0.05 * random.noise(v[:, 0], u[0], 90, 120) + 0.03 * random.noise(v[:, 0], u[0], 12, 4)
    tarmac = random.color((0.42, 0.42, 0.44), (0.55, 0.53, 0.51), (0.60, 0.51, 0.40), (0.33, 0.33, 0.37))
    canvas.paint(window, np.abs(across) < 1, tarmac, ROAD, rough)
    if random.chance(0.6):
        dashes = np.modf(6 / (v + 0.25) + random(0, 1))[0] < 0.5  # even on the ground, so longer when near
        canvas.paint(window, (np.abs(across) < 0.035) & dashes, np.array([0.88, 0.86, 0.76]), ROAD)
    return at


def beside(random: Random, foot: float, road, half_width: float) -> float:
    """A place across the canvas, off the road if there is one."""
    place = random(-0.02, 1.02)
    if road is not None:
        middle, width = road(foot)
        clear = width + half_width
        if abs(place - middle) < clear:
            place = middle + clear * (1 if place > middle else -1)
    return place


def draw_house(canvas: Canvas, random: Random, foot: float, nearness: float, road) -> None:
    height, width = (0.10 + 0.45 * nearness) * random(0.8, 1.3), (0.12 + 0.5 * nearness) * random(0.8, 1.3)
    x = beside(random, foot, road, width / 2)
    canvas.shadow(x - 0.55 * width, x + 0.55 * width, foot, 0.12 * height)
    window, v, u = canvas.box(x - width / 2, foot - height, x + width / 2, foot)
    eaves = random(0.3, 0.5)
    bricks = 0.03 * np.sign(np.sin(70 * v)) + 0.04 * random.noise(v[:, 0], u[0], 20, 12)
    wall = random.color(
        (0.80, 0.74, 0.62), (0.66, 0.38, 0.30), (0.86, 0.86, 0.84), (0.60, 0.62, 0.66), (0.78, 0.62, 0.36)
    )
    canvas.paint(window, (v > eaves) & (np.abs(u - 0.5) < 0.44), wall, HOUSE, bricks + 0.12 * canvas.sun * (u - 0.5))
    roof = random.color((0.55, 0.25, 0.18), (0.34, 0.32, 0.34), (0.46, 0.34, 0.26))
    gable = random(0.0, 0.5)  # 0: pointed, more: a flat ridge
    slope = gable / 2 + (0.5 - gable / 2) * v / eaves
    canvas.paint(window, (v <= eaves) & (np.abs(u - 0.5) < slope), roof, HOUSE, 0.05 * np.sin(90 * v))
    pane = random.color((0.22, 0.28, 0.36), (0.75, 0.72, 0.50))
    columns = 2 + random.upto(2)
    cell = (u - 0.08) / 0.84 * columns
    window_rows = np.abs(v - (eaves + 0.35 * (1 - eaves))) < 0.13 * (1 - eaves)
    canvas.paint(window, window_rows & (np.abs(cell % 1 - 0.5) < 0.24) & (np.abs(u - 0.5) < 0.42), pane, HOUSE)
    door = random(0.25, 0.75)
    canvas.paint(window, (np.abs(u - door) < 0.06) & (v > 1 - 0.42 * (1 - eaves)), 0.5 * roof, HOUSE)


def draw_tree(canvas: Canvas, random: Random, foot: float, nearness: float, road) -> None:
    height = (0.12 + 0.7 * nearness) * random(0.7, 1.3)
    width = height * random(0.45, 0.8)
    x = beside(random, foot, road, width / 4)
    canvas.shadow(x - 0.4 * width, x + 0.4 * width, foot, 0.08 * height)
    window, v, u = canvas.box(x - width / 2, foot - height, x + width / 2, foot)
    y, across = v[:, 0], u[0]
    bark = random.color((0.36, 0.26, 0.18), (0.45, 0.40, 0.36))
    canvas.paint(window, (np.abs(u - 0.5) < 0.05 + 0.03 * v) & (v > 0.5), bark, TREE)
    edge = 0.25 * random.noise(y, across, 7, 7) + 0.12 * random.noise(y, across, 16, 16)
    leaves = 0.12 * random.noise(y, across, 18, 14) + 0.10 * random.noise(y, across, 40, 30)
    leaves = leaves + 0.16 * canvas.sun * (u - 0.5) + 0.12 * (0.4 - v)
    green = random.color(
        (0.20, 0.40, 0.18), (0.30, 0.46, 0.18), (0.55, 0.46, 0.16), (0.62, 0.34, 0.16), (0.14, 0.32, 0.24)
    )
    if random.chance(0.35):  # a conifer: tiers of branches
        crown = np.abs(u - 0.5) < 0.5 * (0.08 + v) * (0.75 + 0.25 * np.modf(6 * v)[0] + 0.5 * edge)
        crown = crown & (v < 0.88)
    else:
        crown = (2 * u - 1) ** 2 + ((v - 0.38) / 0.38) ** 2 < 0.85 + edge
    canvas.paint(window, crown, green, TREE, leaves)


def draw_car(canvas: Canvas, random: Random, foot: float, nearness: float, road) -> None:
    middle, half = road(foot)
    width = half * random(0.7, 1.1)
    height = width * random(0.42, 0.6)
    x = middle + half * random(-0.5, 0.5)
    canvas.shadow(x - 0.55 * width, x + 0.55 * width, foot, 0.3 * height)
    window, v, u = canvas.box(x - width / 2, foot - height, x + width / 2, foot)
    paint = random.color(
        (0.75, 0.12, 0.12), (0.92, 0.92, 0.92), (0.12, 0.13, 0.15),
        (0.16, 0.30, 0.62), (0.62, 0.64, 0.66), (0.85, 0.66, 0.12),
    )
    glass = random.color((0.15, 0.19, 0.24), (0.45, 0.55, 0.62))
    across = np.abs(u - 0.5)
    canvas.paint(window, (across < 0.22 + 0.22 * v) & (v < 0.55), paint, CAR, 0.1)
    canvas.paint(window, (across < 0.16 + 0.22 * v) & (v > 0.1) & (v < 0.42) & (across > 0.02), glass, CAR)
    canvas.paint(window, (across < 0.49) & (v >= 0.45) & (v < 0.86), paint, CAR, 0.15 * (0.6 - v))
    for wheel in (0.22, 0.78):
        distance = np.hypot((u - wheel) * width, (v - 0.8) * height) / height
        canvas.paint(window, distance < 0.2, np.array([0.08, 0.08, 0.09]), CAR)
        canvas.paint(window, distance < 0.09, np.array([0.6, 0.6, 0.62]), CAR)


def draw_person(canvas: Canvas, random: Random, foot: float, nearness: float, road) -> None:
    height = (0.09 + 0.44 * nearness) * random(0.9, 1.1)
    width = 0.36 * height
    x = random(0.03, 0.97)
    canvas.shadow(x - 0.5 * width, x + 0.5 * width, foot, 0.08 * height)
    window, v, u = canvas.box(x - width / 2, foot - height, x + width / 2, foot)
    coat = random.color(
        (0.75, 0.20, 0.20), (0.20, 0.30, 0.60), (0.90, 0.80, 0.30), (0.30, 0.30, 0.30), (0.30, 0.55, 0.40), spread=0.1
    )
    legs = random.color((0.16, 0.18, 0.28), (0.35, 0.30, 0.24), (0.10, 0.10, 0.10))
    skin = random.color((0.88, 0.70, 0.58), (0.62, 0.44, 0.32), (0.40, 0.28, 0.20))
    gait, across = random(0.04, 0.16), np.abs(u - 0.5)
    canvas.paint(window, (np.abs(across - gait * (v - 0.5) * 2) < 0.11) & (v > 0.5), legs, PERSON)
    side = 0.2 * canvas.sun * (u - 0.5)
    canvas.paint(window, (across < 0.2 + 0.25 * v) & (v > 0.16) & (v < 0.58), coat, PERSON, side)
    head = np.hypot((u - 0.5) * width, (v - 0.09) * height) < 0.085 * height
    canvas.paint(window, head, skin, PERSON)
    hair = random.color((0.12, 0.09, 0.07), (0.45, 0.30, 0.15), (0.70, 0.65, 0.60))
    canvas.paint(window, head & (v < 0.07), hair, PERSON)
