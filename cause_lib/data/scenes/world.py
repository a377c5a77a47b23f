"""What there is in the generated world, at three aligned levels: every part belongs to one object, that to one group.

A drawing's label holds parts; `labels_at` reads objects and groups off it. Nothing in a picture says which of the three
levels is meant by "segment it": that is what the part-whole chapters measure.
"""

from __future__ import annotations

import difflib

import numpy as np

from cause_lib.data.palette import palette, shades
from cause_lib.errors import InputError

WORLD = {  # object: (its group, its parts); the objects in the order that suits the palette
    "house": ("building", ("wall", "roof", "window", "door", "chimney")),
    "sky": ("sky and water", ("air", "cloud", "sun")),
    "tree": ("vegetation", ("crown", "trunk")),
    "grass": ("vegetation", ("blades", "flowers")),
    "water": ("sky and water", ("surface", "foam")),
    "person": ("living", ("head", "torso", "arm", "leg")),
    "car": ("vehicle", ("body", "window", "wheel")),
    "animal": ("living", ("head", "body", "leg", "tail")),
    "bicycle": ("vehicle", ("wheel", "frame")),
    "road": ("ground", ("tarmac", "marking", "pavement")),
    "mountain": ("ground", ("rock", "snow")),
    "boat": ("vehicle", ("hull", "sail")),
}
PARTS = tuple(f"{thing} {part}" for thing, (_, parts) in WORLD.items() for part in parts)
OBJECTS = tuple(WORLD)
GROUPS = tuple(dict.fromkeys(group for group, _ in WORLD.values()))

PART_TO_OBJECT = tuple(OBJECTS.index(part.split()[0]) for part in PARTS)
OBJECT_TO_GROUP = tuple(GROUPS.index(group) for group, _ in WORLD.values())
PART_TO_GROUP = tuple(OBJECT_TO_GROUP[thing] for thing in PART_TO_OBJECT)
ID = {tuple(name.split()): np.uint8(i) for i, name in enumerate(PARTS)}  # ("person", "head") -> its number

LEVELS = {  # level: (names of its classes, the class of each part)
    "part": (PARTS, tuple(range(len(PARTS)))),
    "object": (OBJECTS, PART_TO_OBJECT),
    "group": (GROUPS, PART_TO_GROUP),
}


def labels_at(level: str, parts: np.ndarray) -> np.ndarray:
    """A label of parts (h, w), integers, as a label int32 (h, w) of `level`: "part", "object" or "group".

    Raises ValueError for another level.
    """
    return np.array(find_level(level)[1], dtype=np.int32)[parts]


def colors_at(level: str) -> np.ndarray:
    """The classes' colours, uint8 (c, 3): a part is a shade of its object, a group looks like its first object."""
    objects = palette(len(OBJECTS))
    if level == "part":
        return np.concatenate([shades(color, len(parts)) for color, (_, parts) in zip(objects, WORLD.values())])
    return objects if level == "object" else objects[[OBJECT_TO_GROUP.index(i) for i in range(len(GROUPS))]]


def find_level(level: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """`LEVELS[level]`. Raises ValueError naming the nearest level if there is none of that name."""
    if level not in LEVELS:
        close = difflib.get_close_matches(str(level), LEVELS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise InputError(f"scenes has no level '{level}'{hint}: use one of {', '.join(LEVELS)}")
    return LEVELS[level]
