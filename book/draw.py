"""Diagrams and pictures that pages of the book include: python book/draw.py book/_static/diagrams"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cause_book.diagrams import INK, NODES, WRONG, _box, arrow, causal_graph, figure, node, svg, text
from cause_book.plots import PALETTE, as_picture, paint
from cause_lib.data import load_dataset

TITLE, SUBTITLE = "CAUSE, the book", "Causal unsupervised semantic segmentation, step by step"
VIEWS = {"picture": None, "parts": "part", "objects": "object", "groups": "group"}
SIDE, GRID = 96, 8  # of a small picture, and patches along it
STEPS = (("image", "without label", ""), ("tokens", "frozen ViT · ch. 4", "T"),
         ("concepts", "clusterbook · ch. 5", "M"), ("features", "head · ch. 7", "Y"),
         ("clusters", "probe · ch. 8", ""), ("sharper edges", "CRF · ch. 8", ""),
         ("classes", "matching · ch. 8", ""), ("scores", "mIoU · ch. 8, 9", ""))
NATURE = {"sky": "#9CCBE8", "sun": "#F6E27A", "grass": "#7DB36A", "crown": "#3E7F4A", "trunk": "#8A6239",
          "road": "#9A9A9A"}
GROUPS = {"sky": "sky", "sun": "sky", "grass": "grass", "crown": "tree", "trunk": "tree", "road": "road"}
GROUP_COLORS = {"sky": PALETTE["sky"], "grass": PALETTE["yellow"], "tree": PALETTE["green"], "road": PALETTE["purple"]}
CONCEPT_COLORS = {"sky 0": PALETTE["sky"], "sky 1": PALETTE["blue"], "sun": PALETTE["orange"],
                  "grass 0": PALETTE["yellow"], "grass 1": "#B8A200", "crown": PALETTE["green"], "trunk": "#00604A",
                  "road 0": PALETTE["purple"], "road 1": PALETTE["vermillion"]}


def pipeline(columns: int) -> str:
    """From an image to scores, a small picture for each step, in rows of alternating direction. Returns an SVG."""
    pictures = (_scene(NATURE), _patches(_shade), _patches(_concept), _patches(_feature), _patches(_cluster),
                _scene({part: GROUP_COLORS[group] for part, group in GROUPS.items()}),
                _scene({part: GROUP_COLORS[group] for part, group in GROUPS.items()}) + _class_names(), _bars())
    parts = []
    for i, ((name, means, letter), picture) in enumerate(zip(STEPS, pictures, strict=True)):
        row, across = divmod(i, columns)
        across = across if row % 2 == 0 else columns - 1 - across
        x, y = 40 + 172 * across, 14 + 172 * row
        color = NODES.get(letter, INK)
        parts.append(f'<g transform="translate({x} {y})">{picture}<rect width="{SIDE}" height="{SIDE}" rx="3" '
                     f'fill="none" stroke="{color}" stroke-width="{3 if letter else 1.2}"/></g>')
        parts += [text(x + SIDE / 2, y + SIDE + 21, name, weight=600),
                  text(x + SIDE / 2, y + SIDE + 39, means, size=13.5)]
        if letter:
            parts.append(node(letter, x, y, radius=14, size=16))
        if i + 1 == len(STEPS):
            break
        if (i + 1) % columns == 0:
            parts.append(arrow((x + SIDE / 2, y + SIDE + 46), (x + SIDE / 2, y + 168)))
        elif row % 2 == 0:
            parts.append(arrow((x + SIDE + 14, y + SIDE / 2), (x + 158, y + SIDE / 2)))
        else:
            parts.append(arrow((x - 14, y + SIDE / 2), (x - 62, y + SIDE / 2)))
    says = ("A small landscape, eight times. The image is cut into patches, and a frozen vision transformer makes a "
            "token T of each. Each token gets its concept M of the clusterbook, finer than any class. A head makes "
            "features Y of them, in which related patches are close; a probe groups these into clusters; a CRF "
            "sharpens the edges on the pixels; matching gives each cluster the name of a class (sky, tree, grass or "
            "road); and counting the right pixels gives scores.")
    rows = -(-len(STEPS) // columns)
    return svg(172 * columns + 4, 172 * rows, "From an image to scores", says, parts)


def _part(x: float, y: float) -> str:
    """What the small landscape shows at a place, in units of its side."""
    if (x - 24) ** 2 + (y - 34) ** 2 < 19**2:
        return "crown"
    if 20 <= x <= 28 and 50 < y < 72:
        return "trunk"
    if y < 54:
        return "sun" if (x - 74) ** 2 + (y - 20) ** 2 < 11**2 else "sky"
    return "road" if abs(x - 66) < 6 + 0.55 * (y - 54) else "grass"


def _scene(colors: Mapping[str, str]) -> str:
    """The small landscape, its parts in the given colours."""
    return (f'<rect width="96" height="96" fill="{colors["sky"]}"/>'
            f'<circle cx="74" cy="20" r="11" fill="{colors["sun"]}"/>'
            f'<rect y="54" width="96" height="42" fill="{colors["grass"]}"/>'
            f'<path d="M60 54H72L95 96H37Z" fill="{colors["road"]}"/>'
            f'<rect x="20" y="50" width="8" height="22" fill="{colors["trunk"]}"/>'
            f'<circle cx="24" cy="34" r="19" fill="{colors["crown"]}"/>')


def _patches(look) -> str:
    """The landscape's patches, each filled as `look(column, row, part)` -> (colour, opacity) says."""
    step, alike = SIDE // GRID, {}
    for row, column in np.ndindex(GRID, GRID):
        filled = look(column, row, _part((column + 0.5) * step, (row + 0.5) * step))
        alike[filled] = alike.get(filled, "") + f"M{column * step} {row * step}h11v11h-11z"
    return "".join(f'<path d="{squares}" fill="{color}" fill-opacity="{opacity:g}"/>'
                   for (color, opacity), squares in alike.items())


def _shade(column: int, row: int, part: str) -> tuple[str, float]:
    """A token: related patches have similar shades."""
    return NODES["T"], round(0.22 + 0.13 * list(NATURE).index(part) + 0.05 * ((3 * column + 5 * row) % 4), 2)


def _concept(column: int, row: int, part: str) -> tuple[str, float]:
    """A concept: finer than a class, so that one class has several."""
    finer = {"sky": row > 1, "grass": column > 2, "road": row > 5}
    return CONCEPT_COLORS[f"{part} {int(finer[part])}" if part in finer else part], 1


def _feature(column: int, row: int, part: str) -> tuple[str, float]:
    """A feature: the concepts of a class have similar colours."""
    return GROUP_COLORS[GROUPS[part]], round(0.6 + 0.1 * ((column + 2 * row) % 4), 2)


def _cluster(column: int, row: int, part: str) -> tuple[str, float]:
    return GROUP_COLORS[GROUPS[part]], 1


def _class_names() -> str:
    places = {"sky": (60, 40), "tree": (24, 39), "grass": (21, 90), "road": (66, 83)}
    return "".join(text(x, y, name, size=13, color="#222222", weight=600) for name, (x, y) in places.items())


def _bars() -> str:
    """An IoU for each class, in the classes' colours: a sketch, not a result."""
    drawn = "".join(f'<rect x="12" y="{13 + 19 * i}" width="{width}" height="13" fill="{color}"/>'
                    for i, (width, color) in enumerate(zip((70, 52, 38, 60), GROUP_COLORS.values())))
    return drawn + '<path d="M11.5 8V88" stroke="currentColor" stroke-width="1.5"/>'


GRADIENT, OF_LABELS = {"dashes": "7 5"}, {"color": WRONG, "dashes": "10 4 2 4"}


def labels_in_step_2() -> str:
    """Gradients in the released step 2, where labels act through one clip norm. Returns an SVG."""
    parts = [
        _box(215, 44, "tokens of the frozen backbone", width=252, height=36),
        arrow((160, 62), (122, 103)), arrow((270, 62), (308, 103)),
        _box(112, 124, "student head", "Y"), _box(318, 124, "teacher head", "Y"),
        arrow((184, 124), (245, 124)), text(213, 114, "EMA", size=13),
        arrow((112, 144), (112, 193)), arrow((318, 144), (318, 193)), arrow((268, 144), (185, 200)),
        text(326, 174, "detached", size=13, anchor="start"),
        _box(112, 214, "contrast"), _box(318, 214, "linear probe"), arrow((318, 234), (318, 283)),
        _box(318, 304, "cross-entropy"), _box(318, 388, "labels"), arrow((318, 368), (318, 325)),
        _box(112, 304, "one clip norm\nof all gradients", width=150, height=52),
        arrow((80, 194), (80, 145), **GRADIENT), arrow((360, 284), (360, 235), **OF_LABELS),
        arrow((248, 226), (188, 286), **OF_LABELS), arrow((37, 304), (42, 124), bend=(-14, 214), **OF_LABELS),
        _cut(218, 256), *_legend(430),
    ]
    says = ("Step 2. The student head is trained by the contrast with the teacher, its moving average. The linear "
            "probe is trained on the teacher's detached features by the cross-entropy with labels. The released code "
            "clips the gradients of student and probe in one norm, so that the probe's gradient scales the student's. "
            "label_free=True takes the probe out of that norm.")
    return svg(430, 520, "Labels in step 2", says, parts, heading="Step 2: labels act through the clip norm")


def labels_in_step_3() -> str:
    """Gradients in the released step 3, where the linear probe trains the head. Returns an SVG."""
    parts = [
        _box(215, 44, "tokens of the frozen backbone", width=252, height=36), arrow((215, 62), (215, 103)),
        _box(215, 124, "teacher head: evaluated", "Y", width=212),
        arrow((170, 144), (122, 193)), arrow((250, 144), (298, 193)), text(70, 174, "detached", size=13, anchor="start"),
        _box(112, 214, "centroids: evaluated", "Y", width=186), _box(318, 214, "linear probe"),
        arrow((112, 234), (112, 283)), arrow((318, 234), (318, 283)),
        _box(112, 304, "modularity"), _box(318, 304, "cross-entropy"),
        _box(318, 388, "labels"), arrow((318, 368), (318, 325)),
        arrow((80, 284), (80, 235), **GRADIENT), arrow((360, 284), (360, 235), **OF_LABELS),
        arrow((346, 194), (288, 146), **OF_LABELS), _cut(317, 170), *_legend(430),
    ]
    says = ("Step 3. Centroids are trained by the modularity of the teacher head's detached features. The linear "
            "probe is trained by the cross-entropy with labels, and in the released code that gradient goes on into "
            "the head. Head and centroids are evaluated. label_free=True detaches the features before the probe.")
    return svg(430, 520, "Labels in step 3", says, parts, heading="Step 3: labels act through the gradient")


def _cut(x: float, y: float) -> str:
    """Where label_free=True cuts: a cross in a disc."""
    return (f'<circle cx="{x:g}" cy="{y:g}" r="11" fill="var(--pst-color-background, transparent)" stroke="{INK}" '
            f'stroke-width="2"/><path d="M{x - 5:g} {y - 5:g}l10 10m0-10l-10 10" stroke="{INK}" stroke-width="2.5"/>')


def _legend(y: float) -> list[str]:
    ways = ({}, "values"), (GRADIENT, "gradient"), (OF_LABELS, "gradient that depends on labels")
    lines = [arrow((40, y + 20 * i), (92, y + 20 * i), **look)
             + text(104, y + 5 + 20 * i, means, size=14, anchor="start")
             for i, (look, means) in enumerate(ways)]
    return [*lines, _cut(66, y + 64), text(104, y + 69, "cut by label_free=True", size=14, anchor="start")]


def page_files() -> dict[str, str]:
    """The diagrams that pages include: the name of a file -> its text."""
    story = {"U": "a gene (hidden)", "T": "smoking", "M": "tar in the lungs", "Y": "lung cancer"}
    segmentation = {"U": "what and how to cluster (hidden)", "T": "pre-trained\nfeatures", "M": "concept\nclusterbook",
                    "Y": "semantic\ngroups"}
    front = causal_graph(segmentation, absent=("UM", "TY"), title="CAUSE on the front-door graph")
    both = {"UM": "confounded", "TY": "bypass"}
    ways = "".join(f'<div class="{name}">{pipeline(columns)}</div>' for name, columns in (("wide", 4), ("narrow", 2)))
    caption = ("The steps of CAUSE, with their chapters. Chapters 4 to 7 make the treatment T, "
               "the mediator M and the outcome Y. Labels are used only at the end: to match clusters "
               "to classes, and to compute scores.")
    of_labels = ("Labels in the released code. Step 2: the linear probe's gradient is part of the norm "
                 "that clips the head's. Step 3: the linear probe's gradient runs into the head.")
    return {
        "front.html": figure(front, caption="Arrows are effects, dashed parts are hidden. Two arrows are crossed out: "
                             "the method assumes their absence.") + "\n",
        "labels.html": figure(labels_in_step_2(), labels_in_step_3(), caption=of_labels) + "\n",
        "pipeline.html": f'<figure class="diagram">{ways}<figcaption>{caption}</figcaption></figure>\n',
        "smoking.svg": causal_graph(story, forbidden=both, absent=tuple(both)) + "\n",
        "favicon.svg": favicon() + "\n",
    }


def favicon() -> str:
    """Four patches, in the colours of the four variables. Returns an SVG."""
    patches = "".join(f'<rect x="{1 + 16 * (i % 2)}" y="{1 + 16 * (i // 2)}" width="14" height="14" rx="3" fill="{fill}"/>'
                      for i, fill in enumerate(NODES.values()))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{patches}</svg>'


def page_pictures() -> dict[str, Image.Image]:
    """The pictures of page one and of links to the book: the name of a file -> a picture with few colours."""
    views = [_view(level) for level in VIEWS.values()]
    cover = Image.new("RGB", (4 * 252 + 3 * 8, 252), "magenta")  # which no view has: it becomes transparent
    social = Image.new("RGB", (1200, 630), "white")
    draw, (regular, bold) = ImageDraw.Draw(social), (
        Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{kind}.ttf" for kind in ("", "-Bold"))
    draw.text((36, 44), TITLE, "#1b2430", ImageFont.truetype(str(bold), 76))
    draw.text((38, 158), SUBTITLE, "#4a5565", ImageFont.truetype(str(regular), 34))
    for i, (name, view) in enumerate(zip(VIEWS, views, strict=True)):
        cover.paste(view.resize((252, 252), Image.Resampling.LANCZOS), (260 * i, 0))
        social.paste(view.resize((270, 270), Image.Resampling.LANCZOS), (36 + 286 * i, 260))
        draw.text((171 + 286 * i, 548), name, "#1b2430", ImageFont.truetype(str(regular), 28), anchor="ma")
    cover, social = (each.quantize(256, dither=Image.Dither.NONE) for each in (cover, social))
    cover.info["transparency"] = cover.getpixel((255, 0))
    return {"cover.png": cover, "social.png": social}


def _view(level: str | None) -> Image.Image:
    """A generated scene with a house, a car and a cyclist; or its label at a level, in colours."""
    scenes = load_dataset("scenes", "val", image_size=540, level=level or "part")
    seen = scenes[44]
    pixels = paint(seen["label"], scenes.colors) if level else as_picture(seen["image"])
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


if __name__ == "__main__":
    for file, content in page_files().items():
        (Path(sys.argv[1]) / file).write_text(content, encoding="utf8")
    for file, picture in page_pictures().items():
        picture.save(Path(sys.argv[1]) / file, optimize=True)
