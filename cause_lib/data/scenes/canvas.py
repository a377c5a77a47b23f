"""Random numbers and a canvas: what reaches a pixel is the same on every machine.

Only what IEEE 754 defines to the last bit is used: + - * / sqrt, comparisons, floor, look-ups. Sines, powers, matrix
products and library sums differ between machines; a direction here is a vector divided by its length, a fall-off is a
ratio, smooth noise is a table read between its entries. Arrays are float32 and what multiplies them is a Python float,
so that no version of NumPy changes the width.
"""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np

CELLS = (6, 12, 24, 48, 96)  # how many clumps of noise lie side by side on the canvas, from coarse to fine


def unit(x: float, y: float) -> tuple[float, float]:
    """The direction of (x, y)."""
    length = sqrt(x * x + y * y)
    return x / length, y / length


def fraction(t: np.ndarray) -> np.ndarray:
    """t less the whole number below it, in [0, 1)."""
    return t - np.floor(t)


def rgb(color) -> np.ndarray:
    """Numbers as float32."""
    return np.asarray(color, dtype=np.float32)


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

    def choice(self, *choices):
        return choices[self.upto(len(choices) - 1)]

    def color(self, *choices: tuple, spread: float = 0.05) -> np.ndarray:
        """One of `choices` (red, green, blue in [0, 1]), jittered: float32 (3,)."""
        return np.clip(rgb(self.choice(*choices)) + spread * self.table(3), 0, 1)

    def paint(self) -> np.ndarray:
        """Any colour that clothes, cars or shutters come in: every hue from pale to deep, or a grey: float32 (3,)."""
        hue, strength, value = self(0, 6), self(0.35, 0.9) if self.chance(0.8) else self(0, 0.1), self(0.25, 0.95)
        pure = [min(max(abs((hue + turn) % 6 - 3) - 1, 0), 1) for turn in (0, 4, 2)]
        return rgb([value * (1 - strength * (1 - tone)) for tone in pure])

    def table(self, *shape: int) -> np.ndarray:
        """Independent numbers in [-1, 1), float32."""
        return rgb(2 * self.uniform(shape) - 1)

    def noise(self, y: np.ndarray, x: np.ndarray, cells_y: int, cells_x: int) -> np.ndarray:
        """Smooth noise in [-1, 1], (h, w), at rows y (h,) and columns x (w,) in [0, 1]."""
        return smooth(self.table(cells_x + 2, cells_y + 2), y, x)

    def ridge(self, x: np.ndarray, cells: int) -> np.ndarray:
        """Jagged noise in [-1, 1] at x, any shape, in [0, 1]: straight lines between random heights."""
        table, (cell, rest) = self.table(cells + 2), _between(np.clip(x, 0, 1) * cells)
        return table[cell] + (table[cell + 1] - table[cell]) * rest


def smooth(table: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A table (cells + 2, cells + 2), columns first, read between its entries at y (h,), x (w,) in [0, 1]: (h, w)."""
    (column, u), (row, v) = (_between(np.clip(t, 0, 1) * (n - 2)) for t, n in zip((x, y), table.shape))
    u, v = (t * t * (3 - 2 * t) for t in (u, v))  # eased, so that no lattice shows
    columns = table[column] + (table[column + 1] - table[column]) * u[:, None]  # (w, cells)
    columns = np.ascontiguousarray(columns.T)  # what follows then copies whole rows
    above, below = columns[row], columns[row + 1]  # (h, w)
    below -= above
    below *= v[:, None]
    above += below
    return above


def _between(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entry of a table at or before t, and how far on to the next."""
    cell = t.astype(np.int32)
    return cell, t - cell


class Canvas:
    """An image and its label of parts, painted through the same masks, in a unit square with y downwards.

    Args:
        size: pixels a side. random: for the noise that textures share.
        day: the light (weather.Day). camera: how we look (weather.Camera); its roll turns the scene against the pixels.
    """

    def __init__(self, size: int, random: Random, day, camera):
        self.size, self.day, self.camera = size, day, camera
        self.cos, self.sin = unit(1.0, camera.roll)
        self.centres = (np.arange(size, dtype=np.float32) + 0.5) / size  # (size,) of the pixels
        self.image = np.zeros((3, size, size), dtype=np.float32)
        self.label = np.zeros((size, size), dtype=np.uint8)
        self.tables = {cells: random.table(cells + 2, cells + 2) for cells in CELLS}

    def window(self, left: float = -0.1, top: float = -0.1, right: float = 1.1, bottom: float = 1.1):
        """The pixels (rows, columns) around a rectangle of the scene, and x (1 or h, w) and y (h, 1 or w) there."""
        c, s = self.cos, self.sin
        if s:  # the box around the rectangle, turned
            x, y, rx, ry = (left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5, (right - left) / 2, (bottom - top) / 2
            x, y, rx, ry = 0.5 + c * x - s * y, 0.5 + s * x + c * y, c * rx + abs(s) * ry, abs(s) * rx + c * ry
            left, top, right, bottom = x - rx, y - ry, x + rx, y + ry
        pixels = slice(self.pixel(top), self.pixel(bottom)), slice(self.pixel(left), self.pixel(right))
        x, y = self.centres[None, pixels[1]], self.centres[pixels[0], None]
        if s:
            x, y = 0.5 + c * (x - 0.5) + s * (y - 0.5), 0.5 + c * (y - 0.5) - s * (x - 0.5)
        return pixels, x, y

    def noise(self, cells: int, pixels) -> np.ndarray:
        """Smooth noise in [-1, 1] over a window, the same for all that ask, with one of CELLS clumps a side."""
        return smooth(self.tables[cells], self.centres[pixels[0]], self.centres[pixels[1]])

    def pixel(self, place: float) -> int:
        """The first pixel whose centre is not before `place`."""
        return min(max(ceil(place * self.size - 0.5), 0), self.size)

    def paint(self, pixels, mask: np.ndarray, color: np.ndarray, part: np.uint8) -> None:
        """Lays `color` (broadcast to (3, h, w)) and `part` on the pixels of `mask` (h, w): the only way to a label."""
        np.copyto(self.image[(slice(None), *pixels)], color, where=mask)
        np.copyto(self.label[pixels], part, where=mask)

    def tint(self, pixels, color: np.ndarray, amount: np.ndarray) -> None:
        """Moves what is there toward `color` (3,) by `amount` (h, w) in [0, 1]: shadow, glow, rain; never a label."""
        below = self.image[(slice(None), *pixels)]
        below += (color[:, None, None] - below) * rgb(amount)

    def finish(self, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """The light's colour and a little grain; image uint8 (h, w, 3), label of parts uint8 (h, w)."""
        image = self.image * self.day.light[:, None, None]
        image += 0.03 * rgb(random.uniform(self.label.shape)) - 0.015
        image = 255 * np.clip(image, 0, 1) + 0.5
        return image.astype(np.uint8).transpose(1, 2, 0), self.label
