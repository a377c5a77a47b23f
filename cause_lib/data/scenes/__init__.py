"""Generated outdoor scenes: the embedded data set, which needs no file and no network.

A scene is painted from far to near: the backdrop, the ground, then the things by their distance. Every stroke writes
its part into the label and its colour into the image through the same mask, so that the two are aligned to the pixel;
light, shadow, haze and weather change colours only. Labels come at three levels, part, object and group (world.py).
Colour alone does not tell the classes apart: hour, season, hue, texture, size and place vary.

Everything is measured in metres or in the unit square and rasterised last: the same scene can be drawn at any size. The
randomness is PCG64's uniform stream, seeded by (seed, split, index), and the arithmetic is IEEE 754's (canvas.py): the
same bytes on every machine.

    world       what there is: parts, objects, groups       weather     light, season, rain; the camera
    canvas      random numbers, pixels, labels              backdrop    sky, mountains, hills
    pen         strokes, in metres                          ground      grass, water, road
    composition what stands where                           houses, trees, people, animals, vehicles
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from cause_lib.data.scenes.backdrop import draw_hills, draw_mountains, draw_sky
from cause_lib.data.scenes.canvas import Canvas, Random
from cause_lib.data.scenes.composition import place_things
from cause_lib.data.scenes.fingerprint import fingerprint_of
from cause_lib.data.scenes.ground import GRASS, Road, draw_flowers, draw_grass, draw_road, draw_water
from cause_lib.data.scenes.pen import Pen
from cause_lib.data.scenes.weather import Camera, Day, draw_fall
from cause_lib.data.scenes.world import GROUPS, LEVELS, OBJECTS, PARTS, colors_at, find_level, labels_at
from cause_lib.data.source import Source
from cause_lib.errors import InputError

__all__ = ["GROUPS", "LEVELS", "OBJECTS", "PARTS", "SPLITS", "draw_scene", "labels_at", "open_scenes"]

SPLITS = {"train": 96, "val": 48, "pretrain": 20_000}
KINDS = ("street", "street", "street", "avenue", "avenue", "lake", "lake", "sea", "sea", "meadow")


def open_scenes(split: str, *, size: int, limit: int | None, level: str, **_) -> Source:
    """`limit` scenes (96 train, 48 val, 20,000 pretrain unless said), drawn at (size, size), labelled at `level`.

    Raises ValueError for another split or level.
    """
    if split not in SPLITS:
        raise InputError(f"scenes has no split '{split}': use one of {', '.join(SPLITS)}")
    classes = list(find_level(level)[0])
    return Source(
        names=[f"{split} {i}" for i in range(SPLITS[split] if limit is None else limit)],
        classes=classes,
        colors=colors_at(level),
        read=partial(read_scene, split, size, level),
        fingerprint=fingerprint_of(level),
    )


def read_scene(split: str, size: int, level: str, index: int) -> tuple[Tensor, Tensor]:
    """Scene `index` of `split`: image uint8 (3, size, size), label int32 (size, size) of `level`."""
    image, parts = draw_scene(index, split, size)
    return torch.from_numpy(image.transpose(2, 0, 1)), torch.from_numpy(labels_at(level, parts))


def draw_scene(index: int, split: str, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 (size, size, 3), label of parts uint8 (size, size). `index` is any number from 0 on."""
    random = Random(seed, list(SPLITS).index(split), index)
    roll = random(-0.07, 0.07) if random.chance(0.3) else 0.0
    day, camera = Day(random), Camera(random(0.24, 0.48), random(1.7, 2.9), roll)
    canvas = Canvas(size, random, day, camera)
    kind, grass = random.choice(*KINDS), random.color(*GRASS[day.season])

    draw_sky(canvas, random)
    if random.chance(0.5):
        draw_mountains(canvas, random)
    draw_hills(canvas, random, grass)
    draw_grass(canvas, random, grass)
    if day.season != "winter" and random.chance(0.6):
        draw_flowers(canvas, random)
    water = draw_water(canvas, random, sea=kind == "sea") if kind in ("lake", "sea") else None
    road = Road(random, camera, away=kind in ("avenue", "meadow"))
    if kind in ("street", "avenue") or random.chance(0.4):
        draw_road(canvas, random, road)
    else:
        road = None

    placed = place_things(random, camera, road, water)  # from far to near
    pens = [Pen(canvas, thing.name, *place) for thing, place in placed]
    for pen, (thing, _) in zip(pens, placed):
        if thing.ground != "water":
            pen.shadow(thing.wide, thing.tall)
    for pen, (thing, _) in zip(pens, placed):
        thing.draw(pen, random)
    if day.fall:
        draw_fall(canvas, random)
    return canvas.finish(random)
