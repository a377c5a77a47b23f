"""What stands where: on its own ground, at a size that suits its distance, and not one thing behind another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cause_lib.data.scenes.animals import draw_animal
from cause_lib.data.scenes.canvas import Random
from cause_lib.data.scenes.ground import Road, Water
from cause_lib.data.scenes.houses import draw_house
from cause_lib.data.scenes.pen import Pen
from cause_lib.data.scenes.people import draw_idler, draw_walker
from cause_lib.data.scenes.trees import draw_tree
from cause_lib.data.scenes.vehicles import draw_bicycle, draw_boat, draw_car, draw_car_end
from cause_lib.data.scenes.weather import Camera


@dataclass(frozen=True)
class Thing:
    """Something to draw: rough size in metres, smallest and largest scale, its ground, how many there may be."""

    name: str
    draw: Callable[[Pen, Random], None]
    wide: float
    tall: float
    far: float
    near: float
    ground: str  # "grass", "road", "water", or "land": grass or road
    fewest: int
    most: int


THINGS = (
    Thing("house", draw_house, 5.5, 5.0, 0.06, 0.105, "grass", 0, 3),
    Thing("tree", draw_tree, 3.2, 5.2, 0.07, 0.15, "grass", 0, 4),
    Thing("car", draw_car, 3.5, 1.5, 0.10, 0.22, "road", 1, 3),
    Thing("boat", draw_boat, 3.4, 4.0, 0.06, 0.13, "water", 1, 3),
    Thing("bicycle", draw_bicycle, 1.9, 1.8, 0.18, 0.30, "land", 0, 2),
    Thing("animal", draw_animal, 1.6, 1.3, 0.18, 0.34, "grass", 0, 3),
    Thing("person", draw_walker, 0.7, 1.7, 0.18, 0.34, "land", 0, 3),
    Thing("person", draw_idler, 0.7, 1.7, 0.16, 0.28, "grass", 0, 3),
    Thing("animal", draw_animal, 1.6, 1.3, 0.14, 0.26, "grass", 0, 2),
)
CAR_END = Thing("car", draw_car_end, 1.9, 1.5, 0.10, 0.24, "road", 1, 3)  # on a road that leads away

Place = tuple[float, float, float, int]  # x, foot, scale, facing: where a pen starts


def place_things(random: Random, camera: Camera, road: Road | None, water: Water | None) -> list[tuple[Thing, Place]]:
    """Things and where they stand, from far to near. What finds no place in eight throws stays away."""
    placed: list[tuple[Thing, Place]] = []
    for thing in THINGS:
        if (thing.ground == "road" and road is None) or (thing.ground == "water" and water is None):
            continue
        if thing.name == "car" and road.away:
            thing = CAR_END
        for _ in range(thing.fewest + random.upto(thing.most - thing.fewest)):
            for _ in range(8):
                place = throw(random, camera, thing, road, water)
                if place and all(apart(thing, place, *other) for other in placed):
                    placed.append((thing, place))
                    break
    return sorted(placed, key=lambda entry: entry[1][1])


def throw(random: Random, camera: Camera, thing: Thing, road: Road | None, water: Water | None) -> Place | None:
    """A place on the canvas, or None if the ground there is not the thing's."""
    x, scale, facing = random(0.02, 0.98), random(thing.far, thing.near), random.choice(-1, 1)
    foot = camera.foot(scale)
    if thing.ground == "road":
        x, foot, scale = road.lane(random, scale, facing)
    elif thing.ground == "water":
        foot = water.y + random(-0.6, 0.4) * water.ry
        scale = min(max(1.6 * float(camera.scale(foot)), thing.far), thing.near)  # boats are larger than they should be
    ends = [x + side * 0.5 * thing.wide * scale for side in (-1, 0, 1)]
    wet = [water.inside(end, foot) for end in ends] if water else [-1.0]
    paved = road is not None and any(road.covers(end, foot) for end in ends)
    fits = {
        "road": True,
        "land": max(wet) < -0.25,
        "grass": max(wet) < -0.25 and not paved,
        "water": min(wet) > 0.2 and not paved and foot > camera.horizon + 0.02,
    }
    return (x, foot, scale, facing) if fits[thing.ground] and foot < 0.99 else None


def apart(thing: Thing, place: Place, other: Thing, there: Place) -> bool:
    """Whether most of the farther one can still be seen: beside the nearer one, or above it."""
    (x, foot, scale, _), (x2, foot2, scale2, _) = place, there
    half, half2 = 0.5 * thing.wide * scale, 0.5 * other.wide * scale2
    overlap = min(x + half, x2 + half2) - max(x - half, x2 - half2)
    near, far = (other.tall * scale2, foot2 - foot) if foot2 > foot else (thing.tall * scale, foot - foot2)
    return overlap < 0.7 * min(half, half2) or far > 0.6 * near
