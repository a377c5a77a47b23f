"""What lies below: the meadow and its flowers, a lake or the sea, a road.

The camera ties a height on the canvas to a distance and a scale, so all of this is measured in metres on the ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cause_lib.data.scenes.canvas import Canvas, Random, fraction, rgb
from cause_lib.data.scenes.pen import Pen
from cause_lib.data.scenes.weather import FOCAL, Camera
from cause_lib.data.scenes.world import ID

GRASS = {
    "winter": ((0.86, 0.89, 0.94), (0.92, 0.93, 0.96), (0.62, 0.62, 0.52)),
    "autumn": ((0.58, 0.56, 0.26), (0.66, 0.58, 0.32), (0.42, 0.50, 0.22)),
    "spring": ((0.38, 0.60, 0.22), (0.30, 0.52, 0.22), (0.52, 0.64, 0.26)),
    "summer": ((0.38, 0.60, 0.22), (0.30, 0.52, 0.22), (0.52, 0.64, 0.26), (0.72, 0.66, 0.36)),
}
PETALS = ((0.98, 0.96, 0.92), (0.98, 0.82, 0.15), (0.86, 0.20, 0.22), (0.62, 0.36, 0.80), (0.95, 0.55, 0.70))


def draw_grass(canvas: Canvas, random: Random, color: np.ndarray) -> None:
    """The meadow, its blades finer with distance."""
    camera = canvas.camera
    pixels, _, y = canvas.window(top=camera.horizon)
    rows, columns = camera.rows(canvas.centres)[pixels[0]], canvas.centres[pixels[1]]
    blades = random.noise(rows, columns, 60, 90) + random.noise(rows, columns, 14, 8)
    near = np.clip(y - camera.horizon, 0, 1)
    pen = Pen(canvas, "grass", haze=canvas.day.hidden(camera.scale(y)))
    pen.fill("blades", pixels, y > camera.horizon, color, (0.05 + 0.16 * near) * blades + 0.12 - 0.35 * near)


def draw_flowers(canvas: Canvas, random: Random) -> None:
    """In patches, and at most one in each cell of a grid on the ground; round to the eye."""
    pixels, x, y = canvas.window(top=canvas.camera.horizon + 0.12)
    scale, cell = canvas.camera.scale(y), random(0.22, 0.4)  # metres
    across, away = (x - 0.5) / scale / cell, 0.4 / scale / cell  # long cells, lest they cut a flower
    column, row = np.floor(across), np.floor(away)
    cell = (row.astype(np.int32) % 61) * 61 + column.astype(np.int32) % 61
    there, kind, right, up = (random.table(61 * 61)[cell] for _ in range(4))
    u = across - column - 0.5 - 0.2 * right
    v = (away - row - 0.5 - 0.2 * up) * scale * (canvas.camera.eye / 0.4)
    square = (u * u + v * v) / (0.26 * 0.26)
    patch = random.noise(canvas.centres[pixels[0]], canvas.centres[pixels[1]], 5, 5)
    pen, there = Pen(canvas, "grass", haze=0.0), (square < 1) & (there > 0.1 + 0.9 * patch)
    for mine in (kind > 0, kind <= 0):
        pen.fill("flowers", pixels, there & mine, random.color(*PETALS), -0.3 * square)


@dataclass(frozen=True)
class Water:
    """An ellipse of the canvas: a lake, or a sea whose upper half lies behind the horizon."""

    x: float
    y: float
    rx: float
    ry: float

    def inside(self, x, y):
        """1 in the middle, 0 at the shore, below 0 on land, for arrays or numbers."""
        u, v = (x - self.x) / self.rx, (y - self.y) / self.ry
        return 1 - u * u - v * v


def draw_water(canvas: Canvas, random: Random, sea: bool) -> Water:
    """Ripples, a mirror of what is painted above the far shore, and foam along the near one."""
    horizon, ry = canvas.camera.horizon, random(0.20, 0.34) if sea else random(0.10, 0.17)
    water = Water(random(0.2, 0.8), horizon if sea else horizon + ry + random(0.05, 0.16),
                  random(1.2, 2.0) if sea else random(0.35, 0.6), ry)
    top, wide, bottom = horizon if sea else water.y - ry, 1.2 * water.rx, water.y + 1.2 * ry
    pixels, x, y = canvas.window(water.x - wide, top - 0.05, water.x + wide, bottom)
    rows, columns = (canvas.centres[p] for p in pixels)
    rows = 1 - 0.12 / (np.maximum(rows - top, 0) + 0.12)
    ripples = random.noise(rows, columns, 70, 14) + random.noise(rows, columns, 30, 6)
    shore = water.inside(x, y) + 0.10 * canvas.noise(12, pixels) + 0.05 * canvas.noise(24, pixels)
    wet = (shore > 0) & (y > horizon)

    up = ((2 * (y - top) + 0.012 * ripples) * canvas.size).astype(np.int32)  # from a pixel to what it mirrors
    row, column = np.arange(canvas.size)[pixels[0], None] - up, np.arange(canvas.size)[None, pixels[1]]
    mirror = canvas.image[:, np.clip(row, 0, canvas.size - 1), column]  # (3, h, w)
    color = random.color((0.14, 0.36, 0.50), (0.16, 0.44, 0.48), (0.20, 0.30, 0.44), (0.28, 0.40, 0.34))
    canvas.paint(pixels, wet, 0.5 * (mirror + color[:, None, None]) * (1 + 0.1 * ripples), ID["water", "surface"])
    foam = (shore < random(0.08, 0.16)) & (y > water.y - 0.4 * ry)
    if sea:
        foam |= (ripples > random(0.95, 1.3)) & (shore < 0.75)
    Pen(canvas, "water", haze=canvas.day.hidden(0.15)).fill("foam", pixels, wet & foam, rgb((0.92, 0.95, 0.96)))
    return water


class Road:
    """A road across the picture, or off to the horizon if it leads `away`: lanes, perhaps a pavement."""

    def __init__(self, random: Random, camera: Camera, away: bool):
        self.camera, self.away, self.half = camera, away, random(1.9, 2.5)  # metres, like all that follows
        self.edge = self.half + (random(0.5, 1.0) if random.chance(0.7) else 0.0)  # where the pavement ends
        self.vanish, self.aside, self.bend = random(0.25, 0.75), random(-1.5, 1.5), random(-0.25, 0.25)
        self.distance, self.slope = FOCAL / random(0.12, 0.20), random(-1.0, 1.0)

    def middle(self, y):
        """Where the middle of a road that leads away is, at height y of the canvas."""
        t = np.clip((y - self.camera.horizon) / (1 - self.camera.horizon), 0, 1)
        return self.vanish + self.aside * self.camera.scale(y) + self.bend * t * (1 - t)

    def across(self, x, y):
        """How far (x, y) of the canvas is from the middle of the road, in metres on the ground."""
        scale = self.camera.scale(y)
        if self.away:
            return (x - self.middle(y)) / scale
        return FOCAL / scale - self.distance + self.slope * (x - 0.5)

    def along(self, x, y):
        """How far along the road (x, y) is, in metres."""
        scale = self.camera.scale(y)
        return FOCAL / scale if self.away else (x - self.vanish) / scale

    def covers(self, x: float, y: float) -> bool:
        return abs(float(self.across(x, y))) < self.edge + 0.3

    def lane(self, random: Random, scale: float, facing: int) -> tuple[float, float, float]:
        """x, y and scale of a place in the lane of those who face right (1) or left; we drive on the right."""
        aside = 0.5 * self.half * facing
        if self.away:  # who faces us comes toward us, on our left
            y = self.camera.foot(scale)
            return float(self.middle(y)) - aside * scale, y, scale
        x = random(0.1, 0.9)
        scale = FOCAL / (self.distance - self.slope * (x - 0.5) - aside)
        return x, self.camera.foot(scale), scale


def draw_road(canvas: Canvas, random: Random, road: Road) -> None:
    """Tarmac with lines and perhaps a crossing, or beaten earth."""
    camera = canvas.camera
    pixels, x, y = canvas.window(top=camera.horizon)
    across, along, ground = road.across(x, y), road.along(x, y), y > camera.horizon
    side = np.abs(across)
    rough = random.noise(camera.rows(canvas.centres)[pixels[0]], canvas.centres[pixels[1]], 90, 110)
    rough = 0.06 * rough + 0.05 * canvas.noise(12, pixels)
    pen = Pen(canvas, "road", haze=canvas.day.hidden(camera.scale(y)))
    if road.edge > road.half:
        stone = random.color((0.66, 0.64, 0.60), (0.74, 0.68, 0.58), (0.56, 0.54, 0.54), (0.70, 0.56, 0.48))
        pen.fill("pavement", pixels, ground & (side < road.edge), stone, rough - 0.14 * (fraction(1.2 * along) < 0.12))
    earth = random.chance(0.25)
    color = random.color((0.60, 0.48, 0.34), (0.70, 0.60, 0.46)) if earth else random.color(
        (0.36, 0.36, 0.39), (0.46, 0.46, 0.47), (0.30, 0.31, 0.36), (0.52, 0.48, 0.46))
    tracks = np.abs(side - 0.5 * road.half) < 0.3
    pen.fill("tarmac", pixels, ground & (side < road.half), color, rough - 0.1 * tracks)
    if earth:
        return
    lines = (side < 0.11) & (fraction(along / 2.6) < 0.55)
    if random.chance(0.5):
        lines = lines | (np.abs(side - road.half + 0.25) < 0.07)
    if random.chance(0.5):
        crossing = FOCAL / 0.15 if road.away else random(-2, 2)
        lines = lines | (np.abs(along - crossing) < 1.1) & (fraction(across / 0.9) < 0.5) & (side < road.half - 0.1)
    pen.fill("marking", pixels, ground & lines, random.color((0.92, 0.92, 0.88), (0.93, 0.80, 0.35)), rough)
