"""The pictures of the live page, drawn by the generator of scenes: a backdrop for each weather, and things cut out.

    one row a weather: backdrop, what falls, then the things, all RGBA, side by side in one picture, the atlas

What is laid over something else carries its share as alpha: 255 where a thing is, less in its shadow, in rain and snow.
At scale 1 and whole places, laying the pieces over each other gives the pixels that the generator would paint, to the
rounding of alpha.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from PIL import Image

from cause_lib.data.scenes.backdrop import draw_hills, draw_mountains, draw_sky
from cause_lib.data.scenes.canvas import Canvas, Random
from cause_lib.data.scenes.ground import GRASS, Road, draw_grass, draw_road
from cause_lib.data.scenes.pen import Pen
from cause_lib.data.scenes.people import draw_walker
from cause_lib.data.scenes.trees import draw_tree
from cause_lib.data.scenes.vehicles import draw_car
from cause_lib.data.scenes.weather import Camera, Day, draw_fall

SIZE = 160  # pixels a side of the scene
CAMERA = Camera(horizon=0.36, eye=2.2, roll=0.0)
WEATHERS = {  # hour, season, what falls
    "summer": ("noon", "summer", ""), "evening": ("evening", "autumn", ""),
    "rain": ("grey", "autumn", "rain"), "snow": ("grey", "winter", "snow")}
THINGS = {  # how it is drawn, a metre on the canvas, width and height in metres, its seed, where it stands at first
    "tree": (draw_tree, 0.13, 3.2, 5.2, 9, (34, 84)),
    "car": (draw_car, 0.17, 3.5, 1.5, 4, (112, 114)),
    "person": (draw_walker, 0.30, 0.7, 1.7, 4, (58, 150))}
NOTHING = 255  # in a label where nothing is painted


def draw_atlas() -> tuple[Image.Image, dict[str, Any]]:
    """The atlas, RGBA, and where its pieces are.

    Returns:
        The picture, and {"size", "weathers", "things": {name: first place [x, y]}, "pieces": {weather: {piece: [left,
        top, width, height, x, y]}}}; pieces are `backdrop`, `fall` and the things, and (x, y) is where a thing stands
        within its piece, all in pixels.
    """
    rows, pieces = [], {}
    for name, kind in WEATHERS.items():
        day = find_day(*kind)
        drawn = {"backdrop": (backdrop(day), 0, 0), "fall": (falling(day), 0, 0)}
        drawn |= {thing: cut_out(thing, day) for thing in THINGS}
        rows.append([image for image, _, _ in drawn.values()])
        top, left, pieces[name] = sum(max(map(len, row)) for row in rows[:-1]), 0, {}
        for piece, (image, x, y) in drawn.items():
            pieces[name][piece] = [left, top, image.shape[1], image.shape[0], x, y]
            left += image.shape[1]
    places = [place for row in pieces.values() for place in row.values()]
    atlas = np.zeros((*(max(p[i] + p[i + 2] for p in places) for i in (1, 0)), 4), dtype=np.uint8)
    for place, image in zip(places, itertools.chain(*rows)):
        atlas[place[1]:place[1] + place[3], place[0]:place[0] + place[2]] = image
    return Image.fromarray(atlas), {"size": SIZE, "weathers": list(WEATHERS), "pieces": pieces,
                                    "things": {name: list(thing[-1]) for name, thing in THINGS.items()}}


def arrange(atlas: Image.Image, about: dict[str, Any], weather: str) -> np.ndarray:
    """The scene as the page first shows it, with that weather: uint8 (SIZE, SIZE, 4)."""
    scene = Image.new("RGBA", (SIZE, SIZE))
    for name, (left, top, wide, high, x, y) in about["pieces"][weather].items():
        at = about["things"].get(name, (0, 0))
        piece = Image.new("RGBA", scene.size)
        piece.paste(atlas.crop((left, top, left + wide, top + high)), (at[0] - x, at[1] - y))
        scene = Image.alpha_composite(scene, piece)
    return np.array(scene)


def find_day(hour: str, season: str, fall: str) -> Day:
    """The first day of that kind in a stream of random ones."""
    days = (Day(Random(0, i)) for i in itertools.count())
    return next(day for day in days if (day.hour, day.season, day.fall) == (hour, season, fall))


def backdrop(day: Day) -> np.ndarray:
    """Sky, mountains, hills, grass and a road: uint8 (SIZE, SIZE, 4). Each has its own random numbers."""
    canvas, grass = _canvas(SIZE, day), Random(1).color(*GRASS[day.season])
    draw_sky(canvas, Random(2))
    draw_mountains(canvas, Random(3))
    draw_hills(canvas, Random(4), grass)
    draw_grass(canvas, Random(5), grass)
    draw_road(canvas, Random(9), Road(Random(7), CAMERA, away=False))
    return _rgba(canvas, np.ones((SIZE, SIZE)))


def falling(day: Day) -> np.ndarray:
    """Rain or snow over everything, or nothing: uint8 (SIZE, SIZE, 4)."""
    canvas = _canvas(SIZE, day)
    if day.fall:
        draw_fall(canvas, Random(10))
    amount = canvas.image.max(axis=0)  # of a tint on black, whose blue is 1
    canvas.image[:] = np.array([0.95, 0.96, 1.0], dtype=np.float32)[:, None, None]
    return _rgba(canvas, amount)


def cut_out(name: str, day: Day) -> tuple[np.ndarray, int, int]:
    """A thing with its shadow: uint8 (h, w, 4), and where it stands within, x and y in pixels."""
    draw, scale, wide, tall, seed, _ = THINGS[name]
    side, foot = 3 * SIZE, 2 * SIZE  # room for a long shadow
    pen_at = dict(x=0.5, foot=foot / side, scale=scale * SIZE / side)
    shade = _canvas(side, day)
    color, shade.day.shade = day.shade, np.ones(3, dtype=np.float32)  # a tint of white on black: its amount
    Pen(shade, name, **pen_at).shadow(wide, tall)
    day.shade = color
    canvas, amount = _canvas(side, day), shade.image[0]
    canvas.image[:] = color[:, None, None]
    draw(Pen(canvas, name, haze=day.hidden(scale), **pen_at), Random(11, seed))
    there = canvas.label != NOTHING
    image = _rgba(canvas, np.where(there, 1.0, amount))
    ys, xs = np.nonzero(image[..., 3])
    top, left = ys.min(), xs.min()
    return image[top:ys.max() + 1, left:xs.max() + 1], int(side // 2 - left), int(foot - top)


def _canvas(side: int, day: Day) -> Canvas:
    canvas = Canvas(side, Random(12), day, CAMERA)
    canvas.label[:] = NOTHING
    return canvas


def _rgba(canvas: Canvas, alpha: np.ndarray) -> np.ndarray:
    image, _ = canvas.finish(Random(13))
    alpha = np.round(255 * np.clip(alpha, 0, 1)).astype(np.uint8)
    return np.concatenate([image, alpha[..., None]], axis=2) * (alpha > 0)[..., None]
