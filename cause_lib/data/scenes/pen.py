"""A pen draws one thing in metres from the place where it stands: ellipses, limbs, polygons, lit and hazed."""

from __future__ import annotations

import numpy as np

from cause_lib.data.scenes.canvas import CELLS, Canvas, rgb, unit
from cause_lib.data.scenes.world import ID

WHITE, SNOW, DARK, STEEL = (
    rgb(color) for color in ((0.95, 0.95, 0.93), (0.95, 0.96, 1.0), (0.10, 0.10, 0.12), (0.62, 0.64, 0.68))
)


def step(start: tuple, toward: tuple, length: float) -> tuple[float, float]:
    """The point `length` away from `start` in the direction `toward`."""
    x, y = unit(*toward)
    return start[0] + length * x, start[1] + length * y


class Pen:
    """Where a thing stands, and how large, turned and hazed it is there.

    Args:
        canvas: what it draws on. thing: an object of the world. x, foot: the place where it stands.
        scale: a metre on the canvas. facing: 1, or -1 to mirror it. haze: how much of it the air hides, from its
            scale unless given: a number or (h, w).
    """

    def __init__(self, canvas: Canvas, thing: str, x: float = 0.0, foot: float = 0.0, scale: float = 1.0,
                 facing: int = 1, haze=None):
        self.canvas, self.day, self.thing = canvas, canvas.day, thing
        self.x, self.foot, self.scale, self.facing = x, foot, scale, facing
        self.sun = canvas.day.sun[0] * facing, canvas.day.sun[1]  # to the right, up
        self.haze = canvas.day.hidden(scale) if haze is None else haze

    def other(self, thing: str, size: float = 1.0) -> Pen:
        """A pen for another thing at the same place, so many times as large."""
        return Pen(self.canvas, thing, self.x, self.foot, size * self.scale, self.facing)

    def frame(self, left: float, bottom: float, right: float, top: float):
        """The pixels around a rectangle, and x and y in metres there."""
        scale, side = self.scale, self.scale * self.facing
        ends = sorted((self.x + side * left, self.x + side * right))
        pixels, x, y = self.canvas.window(ends[0], self.foot - scale * top, ends[1], self.foot - scale * bottom)
        return pixels, (x - self.x) / side, (self.foot - y) / scale

    def grain(self, pixels, clump: float) -> np.ndarray:
        """Noise in [-1, 1] whose clumps are about so many metres wide."""
        across = 1 / (clump * self.scale)
        return self.canvas.noise(min(CELLS, key=lambda cells: max(cells / across, across / cells)), pixels)

    def fill(self, part: str, pixels, mask: np.ndarray, color: np.ndarray, shade=0.0) -> None:
        """Paints `mask` in `color` (3,), lighter or darker by the share `shade`, behind the air that lies between."""
        tone = (1 - self.haze) * color[:, None, None] * (1 + shade)
        tone += self.haze * self.day.air[:, None, None]
        self.canvas.paint(pixels, mask, tone, ID[self.thing, part])

    def round(self, part: str, pixels, u, v, color, *, light: float = 0.2, rim: float = 0.2, rough: float = 0.0,
              clump: float = 0.3, where=None) -> None:
        """Paints where u² + v² < 1 and `where(u, v)`, lit from the sun's side, darker at the rim, `rough` or not."""
        square = u * u + v * v
        shade = light * (self.sun[0] * u + self.sun[1] * v) - rim * square
        inside = square < 1
        if rough:
            grain = rough * self.grain(pixels, clump)
            inside, shade = square < 1 - rough + grain, shade + grain
        self.fill(part, pixels, inside & where(u, v) if where else inside, color, shade)

    def ellipse(self, part: str, x: float, y: float, rx: float, ry: float, color, **look) -> None:
        """An upright ellipse around (x, y)."""
        pixels, u, v = self.frame(x - rx, y - ry, x + rx, y + ry)
        self.round(part, pixels, (u - x) / rx, (v - y) / ry, color, **look)

    def limb(self, part: str, a: tuple, b: tuple, ra: float, rb: float, color, **look) -> None:
        """From a to b, round at both ends, of radius ra there and rb here."""
        r, dx, dy = max(ra, rb), b[0] - a[0], b[1] - a[1]
        pixels, x, y = self.frame(min(a[0], b[0]) - r, min(a[1], b[1]) - r, max(a[0], b[0]) + r, max(a[1], b[1]) + r)
        x, y = x - a[0], y - a[1]
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        radius = ra + (rb - ra) * along
        self.round(part, pixels, (x - dx * along) / radius, (y - dy * along) / radius, color, **look)

    def polygon(self, part: str, corners, color, shade=None) -> None:
        """The inside of a closed line; `shade(x, y)` in metres is its texture."""
        (left, *_, right), (bottom, *_, top) = (sorted(ends) for ends in zip(*corners))
        pixels, x, y = self.frame(left, bottom, right, top)
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
        for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]]):
            if y0 != y1:  # does a line from the point to the right cross this edge?
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
        self.fill(part, pixels, inside, color, shade(x, y) if shade else 0.0)

    def box(self, part: str, left: float, bottom: float, right: float, top: float, color, shade=None) -> None:
        """An upright rectangle; `shade(x, y)` in metres is its texture."""
        pixels, x, y = self.frame(left, bottom, right, top)
        inside = (x >= left) & (x < right) & (y >= bottom) & (y < top)
        self.fill(part, pixels, inside, color, shade(x, y) if shade else 0.0)

    def shadow(self, wide: float, tall: float) -> None:
        """Darkens the ground where a thing of that size, in metres, keeps the sun off."""
        day, rx, ry = self.day, 0.55 * wide * self.scale, 0.16 * wide * self.scale
        reach = tall * self.scale * day.reach
        dx, dy = -day.sun[0] * reach, -0.25 * day.depth * reach
        pixels, x, y = self.canvas.window(self.x + min(dx, 0) - rx, self.foot + min(dy, 0) - ry,
                                          self.x + max(dx, 0) + rx, self.foot + max(dy, 0) + ry)
        x, y, dx, dy = (x - self.x) / rx, (y - self.foot) / ry, dx / rx, dy / ry
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        u, v = x - dx * along, y - dy * along
        self.canvas.tint(pixels, day.shade, day.shadow * np.clip(2.5 - 2.5 * (u * u + v * v), 0, 1))
