"""Light, season, weather and camera: what a whole picture shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cause_lib.data.scenes.canvas import Canvas, Random, fraction, rgb, unit

FOCAL = 1.6  # how far away, in metres, a metre fills a whole side of the picture
HOURS = {  # how often of ten; the sky above, the sky at the horizon, the light
    "noon": (3, (0.26, 0.52, 0.88), (0.74, 0.87, 0.96), (1.0, 1.0, 1.0)),
    "morning": (2, (0.42, 0.63, 0.86), (0.96, 0.90, 0.80), (1.0, 0.97, 0.90)),
    "evening": (2, (0.44, 0.48, 0.78), (1.0, 0.74, 0.52), (1.04, 0.92, 0.80)),
    "dusk": (1, (0.27, 0.28, 0.55), (0.90, 0.56, 0.58), (0.82, 0.76, 0.88)),
    "grey": (2, (0.58, 0.64, 0.70), (0.82, 0.84, 0.85), (0.94, 0.95, 0.97)),
}
SEASONS = ("spring", "summer", "summer", "autumn", "autumn", "winter")


class Day:
    """One day's light, as every thing of a picture sees it."""

    def __init__(self, random: Random):
        self.hour = random.choice(*(hour for hour, (often, *_) in HOURS.items() for _ in range(often)))
        self.high, self.low, self.light = (random.color(color, spread=0.04) for color in HOURS[self.hour][1:])
        self.season, self.grey = random.choice(*SEASONS), self.hour == "grey"
        self.sun = unit(random.choice(-1, 1) * random(0.3, 1.0), random(0.25, 0.9))  # to the right of us, above us
        self.depth = random(-1, 0.6)  # its direction away from us; shadows fall the other way
        self.reach = random(0.1, 0.2) if self.grey else random(0.3, 0.6) if self.hour == "noon" else random(0.5, 1.1)
        self.shade, self.shadow = rgb((0.10, 0.10, 0.22)), random(0.2, 0.3) if self.grey else random(0.4, 0.6)
        self.haze = random(0.02, 0.08) if self.grey or random.chance(0.2) else random(0.002, 0.012)
        self.air = 0.5 * (self.low + rgb((0.80, 0.84, 0.88)))
        falls = random.chance(0.6 if self.grey else 0.03)
        self.fall = "" if not falls else "snow" if self.season == "winter" else "rain"
        self.lamps = self.hour == "dusk" or random.chance(0.1)

    def hidden(self, scale):
        """How much of a thing at that scale the air hides: half of it where the scale equals `haze`."""
        return self.haze / (self.haze + scale)


@dataclass(frozen=True)
class Camera:
    """Where the horizon lies on the canvas, how high we stand in metres, and how much we tilt our head."""

    horizon: float
    eye: float
    roll: float

    def foot(self, scale: float) -> float:
        """Where on the canvas a thing of that scale stands: nearer is larger, and lower."""
        return self.horizon + self.eye * scale

    def scale(self, y):
        """A metre at the ground's height y on the canvas, an array or a number; small, but not 0, at the horizon."""
        return np.maximum(y - self.horizon, 1e-3) / self.eye

    def rows(self, centres: np.ndarray, far: float = 0.2) -> np.ndarray:
        """Coordinates in [0, 1] for noise on the ground, (h,): finer toward the horizon."""
        return 1 - far / (np.maximum(centres - self.horizon, 0) + far)


def draw_fall(canvas: Canvas, random: Random) -> None:
    """Rain or snow in front of everything, one drop or flake at most in each cell; the label does not see it."""
    snow = canvas.day.fall == "snow"
    pixels, x, y = canvas.window()
    across = (x + random(-0.4, 0.4) * y + 1) * (16.0 if snow else 40.0)
    column = np.floor(across).astype(np.int32) % 97
    down = (y + 1) * (16.0 if snow else 6.0) + random.table(97)[column]
    there, shift = (random.table(89, 97)[np.floor(down).astype(np.int32) % 89, column] for _ in range(2))
    u, v = fraction(across) - 0.5 - 0.25 * shift, fraction(down) - 0.5
    flake = (u * u + v * v < 0.02 + 0.02 * shift) & (there > 0)
    drop = (np.abs(u) < 0.12) & (np.abs(v) < 0.3) & (there > 0.3)
    canvas.tint(pixels, rgb((0.95, 0.96, 1.0)), 0.9 * flake if snow else 0.28 * drop)
