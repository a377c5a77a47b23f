"""What lies behind: the sky with its sun and clouds, mountains, hills, a far forest."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import Canvas, Random, fraction, rgb
from cause_lib.data.scenes.pen import Pen
from cause_lib.data.scenes.trees import leaf_color
from cause_lib.data.scenes.world import ID


def draw_sky(canvas: Canvas, random: Random) -> None:
    day, horizon, (pixels, x, y) = canvas.day, canvas.camera.horizon, canvas.window()
    t = np.clip(y / (horizon + 0.05), 0, 1)
    high, low = day.high[:, None, None], day.low[:, None, None]
    canvas.paint(pixels, True, high + (low - high) * t * t, ID["sky", "air"])
    pen = Pen(canvas, "sky", haze=0.0)  # in the unit square, with y upwards from the upper edge
    if not day.grey and random.chance(0.6):
        late, r = day.hour in ("evening", "dusk"), random(0.035, 0.065)
        at = 0.5 + 0.45 * day.sun[0], horizon * (0.75 if late else random(0.25, 0.5))
        square = (x - at[0]) * (x - at[0]) + (y - at[1]) * (y - at[1])
        glow = rgb((1.0, 0.86, 0.55) if late else (1.0, 0.98, 0.85))
        canvas.tint(pixels, glow, 0.8 / (1 + 40 * square))
        pen.ellipse("sun", at[0], -at[1], r, r, glow + 0.15, light=0, rim=0)
    white = 0.4 * day.low + (0.48 if day.grey else 0.62)
    if day.grey or random.chance(0.25):  # a cover with holes, or a veil
        cover = random.noise(canvas.centres, canvas.centres, 9, 3)
        cover = cover + 0.7 * canvas.noise(6, pixels) + 0.4 * canvas.noise(12, pixels) + 0.2 * canvas.noise(24, pixels)
        holes = random(-0.7, 0.1) if day.grey else random(0.2, 0.6)
        shade = 0.10 * canvas.noise(24, pixels) + np.clip(0.12 * (cover - holes), 0, 0.2) - 0.12
        pen.fill("cloud", pixels, cover > holes, white, shade)
        return
    for _ in range(random.upto(4)):
        draw_cloud(pen, random, random(-0.05, 1.05), -horizon * random(0.1, 0.85), random(0.1, 0.26), white)


def draw_cloud(pen: Pen, random: Random, x: float, y: float, half: float, color: np.ndarray) -> None:
    """A heap of round puffs with flat bases."""
    for _ in range(6):
        across = random(-0.75, 0.75)
        r = half * (0.5 - 0.35 * abs(across)) * random(0.8, 1.2)
        pen.ellipse("cloud", x + half * across, y + 0.2 * r, 1.35 * r, r, color, light=0.16, rim=0.1, rough=0.1,
                    clump=0.06, where=lambda u, v: v > -0.2)


def draw_mountains(canvas: Canvas, random: Random) -> None:
    """One or two jagged ridges: faces in the light and in the shade, and snow above a ragged line."""
    day, horizon = canvas.day, canvas.camera.horizon
    rock = random.color((0.46, 0.44, 0.46), (0.42, 0.46, 0.50), (0.52, 0.44, 0.38), (0.36, 0.40, 0.36))
    snow_line = 0.04 if day.season == "winter" else random(0.05, 0.22) if random.chance(0.75) else 1.0
    for far in random.choice((1,), (2, 1)):
        height = random(0.14, 0.3) * min(1.0, horizon / 0.35)
        pixels, x, y = canvas.window(top=horizon - 2 * height, bottom=horizon + 0.01)
        ridge = 0.75 + 0.6 * random.ridge(0.5 * x + random(0, 0.5), 9) + 0.25 * random.ridge(x, 22)
        up = horizon - y  # above the plain
        below = height * (ridge + 0.05 * random.ridge(x, 70)) - up
        face = random.ridge(fraction(0.6 * x + 0.45 * day.sun[0] * below + 1), 26)
        shade = 0.3 * (face > 0.1) - 0.14 + 0.07 * canvas.noise(48, pixels)
        pen = Pen(canvas, "mountain", haze=min(0.85, 0.22 * far + day.hidden(0.06 / far)))
        pen.fill("rock", pixels, (below > 0) & (up >= 0), rock, shade)
        line = snow_line + 0.05 * random.ridge(x, 40) + 0.03 * face
        pen.fill("snow", pixels, (below > 0) & (up > line), rgb((0.93, 0.95, 1.0)), 0.5 * shade)


def draw_hills(canvas: Canvas, random: Random, grass: np.ndarray) -> None:
    """Green hills, and a forest so far away that its trees are one row of crowns."""
    horizon, haze = canvas.camera.horizon, canvas.day.hidden(0.03)
    if random.chance(0.6):
        height = random(0.02, 0.10)
        pixels, x, y = canvas.window(top=horizon - height - 0.01, bottom=horizon + 0.01)
        top = random.noise(np.zeros(1, dtype=np.float32), canvas.centres, 1, 4)[:, pixels[1]]
        below = y - horizon + height * (0.5 + 0.5 * top)
        shade = 0.06 * canvas.noise(24, pixels) + 3 * np.clip(below, 0, 0.05) - 0.1
        Pen(canvas, "grass", haze=min(0.6, 0.2 + haze)).fill("blades", pixels, below > 0, grass, shade)
    if random.chance(0.6):
        pen = Pen(canvas, "tree", 0.0, horizon, haze=min(0.6, 0.15 + haze))
        green, x, end = leaf_color(random, canvas.day.season), random(-0.3, 0.5), random(0.5, 1.3)
        while x < end:
            r = random(0.03, 0.06)
            pen.ellipse("crown", x, 0.3 * r, r, 1.2 * r, green, light=0.25, rough=0.15, clump=0.015,
                        where=lambda u, v: v > -0.3)
            x += 1.1 * r
