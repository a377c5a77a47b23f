"""Diagrams of the book as vector graphics: causal graphs, the two heads, and the way of a picture through the method.

Each function returns the text of an SVG that says in words what it shows (`title` and `desc`). Lines and letters take
the colour of the text around them, so that a diagram follows a page's theme. One visual language in all of them: T, M,
Y and U have the colours of NODES everywhere; dashed is what nobody sees; vermillion is what breaks the front door;
dotted with a cross is what is assumed not to be there.

`figure` puts a diagram and its caption into a notebook. Pages of the book include files, which are written by
`python -m cause_book.diagrams FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np

from cause_book.plots import PALETTE

INK = "currentColor"
NODES = {"T": PALETTE["blue"], "M": PALETTE["green"], "Y": PALETTE["orange"], "U": PALETTE["purple"]}
WRONG = PALETTE["vermillion"]
PLACES = {"U": (240, 74), "T": (62, 186), "M": (240, 186), "Y": (418, 186)}
ARROWS = ("UT", "UY", "TM", "MY")  # the front-door graph
RADIUS, HEAD = 27, 13  # of a node; length of an arrow's head


class Drawing(str):
    """HTML text that a notebook shows as what it draws."""

    def _repr_html_(self) -> str:
        return str(self)


def figure(*diagrams: str, caption: str = "") -> Drawing:
    """Diagrams side by side, one below the other where the page is narrow, and a caption below them.

    Styles stand in the elements, because a notebook elsewhere (Colab, say) knows nothing of the book's style sheets.
    """
    drawn = "".join(f'<div style="flex:1 1 19rem;max-width:30rem">{diagram}</div>' for diagram in diagrams)
    return Drawing('<figure class="diagram" style="margin:1rem 0"><div style="display:flex;flex-wrap:wrap;gap:1.5rem">'
                   f"{drawn}</div><figcaption>{escape(caption)}</figcaption></figure>")


def causal_graph(captions: Mapping[str, str], *, title: str = "", forbidden: Mapping[str, str] | None = None,
                 absent: tuple[str, ...] = ()) -> str:
    """The front-door graph: U acts on T and Y, T acts on M, M acts on Y; U is dashed, because nobody sees it.

    captions: "U", "T", "M", "Y" -> a word or two beside the node, "\\n" between lines; title: a name for the whole,
    shown above it; forbidden: arrows that break the front door -> a word beside each, such as {"TY": "bypass"};
    absent: arrows that are assumed not to be there, such as ("UM", "TY"). Returns an SVG.
    """
    forbidden = dict(forbidden or {})
    height = 300 if "TY" in (*forbidden, *absent) else 262
    parts = [_graph_arrow(name) for name in ARROWS]
    parts += [_graph_arrow(name, wrong=word) for name, word in forbidden.items()]
    parts += [_graph_arrow(name, crossed=True) for name in absent]
    for name, (x, y) in PLACES.items():
        lines = captions[name].split("\n")
        below = y + RADIUS + 20 if name == "M" else y - RADIUS - 10 - 18 * (len(lines) - 1)
        parts += [_node(name, x, y), _words(x, below, captions[name])]
    says = "; ".join(f"{name} ({' '.join(captions[name].split())}) acts on {' and '.join(ends)}"
                     for name, ends in (("U", "TY"), ("T", "M"), ("M", "Y")))
    says = f"Causal graph. {says}; Y is {' '.join(captions['Y'].split())}."
    says += "".join(f" {arrow[0]} also acts on {arrow[1]}: {word}." for arrow, word in forbidden.items())
    says += "".join(f" {arrow[0]} is assumed not to act on {arrow[1]}." for arrow in absent)
    return _svg(480, height, title or "Causal graph", says, parts, heading=title)


def _graph_arrow(name: str, *, wrong: str | None = None, crossed: bool = False) -> str:
    """An arrow of the causal graph; `wrong` is the word beside one that should not be there."""
    (x0, y0), (x1, y1) = PLACES[name[0]], PLACES[name[1]]
    look = {"color": WRONG} if wrong is not None or crossed else {}
    if name[0] == "U" or wrong is not None:
        look["dashes"] = "7 5"
    if crossed:
        look |= {"dashes": "1 6", "opacity": 0.8}
    if name == "TY":  # below the mediator and its caption
        drawn = _arrow((x0 + 14, y0 + 24), (x1 - 14, y1 + 24), bend=((x0 + x1) / 2, y0 + 160), **look)
        middle, beside = ((x0 + x1) / 2, 279), (240, 297, "middle")
    else:
        along = np.array([x1 - x0, y1 - y0]) / np.hypot(x1 - x0, y1 - y0)
        drawn = _arrow(np.array([x0, y0]) + (RADIUS + 3) * along, np.array([x1, y1]) - (RADIUS + 3) * along, **look)
        middle, beside = ((x0 + x1) / 2, (y0 + y1) / 2), (251, 152, "start")
    if crossed:
        x, y = middle
        drawn += f'<path class="cross" d="M{x - 7:g} {y - 7:g}l14 14m0-14l-14 14" stroke="{WRONG}" stroke-width="3"/>'
    if wrong:
        x, y, anchor = beside
        drawn += _words(x, y, wrong, size=15, anchor=anchor)
    return f'<g data-edge="{name}">{drawn}</g>'


def mlp_head() -> str:
    """The MLP head, f1(t) + f2(t): a linear map beside a small network, for each patch by itself. Returns an SVG."""
    parts = [
        _box(170, 70, "token of a patch", "T"),
        _line((170, 90), (170, 108)), _line((85, 108), (255, 108)),
        _arrow((85, 108), (85, 185)), _arrow((255, 108), (255, 142)),
        _box(85, 206, "linear, d to r"), _box(255, 163, "linear, d to d"), _arrow((255, 183), (255, 203)),
        _box(255, 224, "ReLU"), _arrow((255, 244), (255, 264)), _box(255, 285, "linear, d to r"),
        _line((85, 226), (85, 345)), _arrow((85, 345), (154, 345)),
        _line((255, 305), (255, 345)), _arrow((255, 345), (186, 345)),
        _plus(170, 345), _arrow((170, 360), (170, 402)), _box(170, 423, "its feature", "Y"),
    ]
    says = ("The token of a patch goes two ways: through a linear map from width d to width r, and through a linear "
            "map, a ReLU and a linear map to width r. The sum of both is the patch's feature. No other patch is asked.")
    return _svg(340, 455, "MLP head", says, parts, heading="MLP head: every patch by itself")


def tr_head() -> str:
    """The TR head: a patch asks, with its concept as the query, all patches of its picture. Returns an SVG."""
    parts = [
        _box(60, 70, "token of\na patch", "T", width=96, height=48),
        _box(214, 70, "nearest prototype\n+ position", "M", width=150, height=48),
        _arrow((108, 70), (138, 70)), _arrow((194, 94), (194, 143)), _words(204, 115, "asks", size=14, anchor="start"),
        '<rect x="122" y="126" width="144" height="168" rx="10" fill="none" stroke="currentColor" '
        'stroke-dasharray="3 4" opacity="0.7"/>',
        _words(272, 269, "decoder\nlayer", size=14, anchor="start"),
        _box(194, 161, "self-attention", width=128, height=34), _arrow((194, 178), (194, 193)),
        _box(194, 211, "cross-attention", width=128, height=34), _arrow((194, 228), (194, 243)),
        _box(194, 261, "feed-forward", width=128, height=34),
        _box(310, 211, "all\ntokens", "T", width=58, height=48), _arrow((281, 211), (260, 211)),
        _line((60, 94), (60, 324)), _arrow((60, 324), (178, 324)),
        _arrow((194, 278), (194, 309)), _plus(194, 324),
        _arrow((194, 338), (194, 353)), _box(194, 370, "MLP head", width=128, height=32),
        _arrow((194, 386), (194, 402)), _box(194, 423, "its feature", "Y", width=128),
    ]
    says = ("The nearest prototype of a patch's token, with a learned position, is the query of one decoder layer: "
            "self-attention, cross-attention to all tokens of the picture, and a feed-forward network. The answer is "
            "added to the patch's token, and the MLP head turns the sum into the patch's feature.")
    return _svg(340, 455, "TR head", says, parts, heading="TR head: every patch asks all")


# --- the way of a picture through the method ---

SIDE, GRID = 96, 8  # of a small picture, and patches along it
STEPS = (("image", "no label in sight", ""), ("tokens", "frozen ViT · ch. 2", "T"),
         ("concepts", "clusterbook · ch. 3", "M"), ("features", "head · ch. 4", "Y"),
         ("clusters", "probe · ch. 5", ""), ("sharper edges", "CRF · ch. 5", ""),
         ("classes", "matching · ch. 5", ""), ("numbers", "count · ch. 5, 6", ""))
NATURE = {"sky": "#9CCBE8", "sun": "#F6E27A", "grass": "#7DB36A", "crown": "#3E7F4A", "trunk": "#8A6239",
          "road": "#9A9A9A"}
GROUPS = {"sky": "sky", "sun": "sky", "grass": "grass", "crown": "tree", "trunk": "tree", "road": "road"}
GROUP_COLORS = {"sky": PALETTE["sky"], "grass": PALETTE["yellow"], "tree": PALETTE["green"], "road": PALETTE["purple"]}
CONCEPT_COLORS = {"sky 0": PALETTE["sky"], "sky 1": PALETTE["blue"], "sun": PALETTE["orange"],
                  "grass 0": PALETTE["yellow"], "grass 1": "#B8A200", "crown": PALETTE["green"], "trunk": "#00604A",
                  "road 0": PALETTE["purple"], "road 1": PALETTE["vermillion"]}


def pipeline(columns: int) -> str:
    """From an image to numbers, a step a small picture, in rows of so many that run to and fro. Returns an SVG."""
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
        parts += [_words(x + SIDE / 2, y + SIDE + 21, name, weight=600),
                  _words(x + SIDE / 2, y + SIDE + 39, means, size=13.5)]
        if letter:
            parts.append(_node(letter, x, y, radius=14, size=16))
        if i + 1 == len(STEPS):
            break
        if (i + 1) % columns == 0:
            parts.append(_arrow((x + SIDE / 2, y + SIDE + 46), (x + SIDE / 2, y + 168)))
        elif row % 2 == 0:
            parts.append(_arrow((x + SIDE + 14, y + SIDE / 2), (x + 158, y + SIDE / 2)))
        else:
            parts.append(_arrow((x - 14, y + SIDE / 2), (x - 62, y + SIDE / 2)))
    says = ("A small landscape, eight times. The image is cut into patches, and a frozen vision transformer makes a "
            "token T of each. Each token gets its concept M of the clusterbook, finer than any class. A head makes "
            "features Y of them, in which kindred patches lie together; a probe groups these into clusters; a CRF "
            "sharpens the edges on the pixels; matching gives each cluster the name of a class (sky, tree, grass or "
            "road); and counting right pixels gives numbers.")
    rows = -(-len(STEPS) // columns)
    return _svg(172 * columns + 4, 172 * rows, "From an image to numbers", says, parts)


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
    """A token: kindred patches have like shades, no two quite the same one."""
    return NODES["T"], round(0.22 + 0.13 * list(NATURE).index(part) + 0.05 * ((3 * column + 5 * row) % 4), 2)


def _concept(column: int, row: int, part: str) -> tuple[str, float]:
    """A concept: finer than a class, so that one class has several."""
    finer = {"sky": row > 1, "grass": column > 2, "road": row > 5}
    return CONCEPT_COLORS[f"{part} {int(finer[part])}" if part in finer else part], 1


def _feature(column: int, row: int, part: str) -> tuple[str, float]:
    """A feature: the concepts of a class have drawn together, and are still not one."""
    return GROUP_COLORS[GROUPS[part]], round(0.6 + 0.1 * ((column + 2 * row) % 4), 2)


def _cluster(column: int, row: int, part: str) -> tuple[str, float]:
    return GROUP_COLORS[GROUPS[part]], 1


def _class_names() -> str:
    places = {"sky": (60, 40), "tree": (24, 39), "grass": (21, 90), "road": (66, 83)}
    return "".join(_words(x, y, name, size=13, color="#222222", weight=600) for name, (x, y) in places.items())


def _bars() -> str:
    """An IoU for each class, in the classes' colours: a sketch, not a result."""
    drawn = "".join(f'<rect x="12" y="{13 + 19 * i}" width="{width}" height="13" fill="{color}"/>'
                    for i, (width, color) in enumerate(zip((70, 52, 38, 60), GROUP_COLORS.values())))
    return drawn + '<path d="M11.5 8V88" stroke="currentColor" stroke-width="1.5"/>'


# --- what all diagrams are made of ---


def _svg(width: int, height: int, title: str, says: str, parts: list[str], *, heading: str = "") -> str:
    """An SVG as wide as its place allows, at most its own size; its name and description are for those who listen."""
    top = -16 if heading else 0
    shown = _words(0, 2, heading, anchor="start", weight=600) if heading else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" viewBox="0 {top} {width} {height - top}" '
            f'role="img" style="display:block;width:100%;max-width:{width}px;height:auto" fill="{INK}">'
            f"<title>{escape(title)}</title><desc>{escape(says)}</desc>{shown}{''.join(parts)}</svg>")


def _words(x: float, y: float, words: str, *, size: float = 16, anchor: str = "middle", weight: int = 400,
           color: str = INK) -> str:
    """Lines of text, the first on the height y."""
    lines = "".join(f'<tspan x="{x:g}" dy="{18 * (i > 0)}">{escape(line)}</tspan>'
                    for i, line in enumerate(words.split("\n")))
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{color}">{lines}</text>')


def _node(name: str, x: float, y: float, *, radius: float = RADIUS, size: float = 22) -> str:
    """A variable: its letter in a disc of its colour; dashed if nobody sees it."""
    dashes = ' stroke-dasharray="5 4"' if name == "U" else ""
    ground = f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="var(--pst-color-background, transparent)"/>'
    return (f'<g data-node="{name}">{ground}<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{NODES[name]}" '
            f'fill-opacity="0.22" stroke="{NODES[name]}" stroke-width="3"{dashes}/>'
            f'<text x="{x:g}" y="{y + 0.34 * size:g}" font-size="{size:g}" font-style="italic" '
            f'font-family="serif" text-anchor="middle">{name}</text></g>')


def _box(x: float, y: float, words: str, node: str = "", *, width: float = 140, height: float = 40) -> str:
    """A step or a value in a box around (x, y); a value that is T, M or Y has its colour."""
    look = (f'fill="{NODES[node]}" fill-opacity="0.22" stroke="{NODES[node]}" stroke-width="3"' if node
            else f'fill="none" stroke="{INK}" stroke-width="1.5"')
    first = y + 5 - 9 * words.count("\n")
    return (f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="7" {look}/>'
            + _words(x, first, words, size=15))


def _plus(x: float, y: float) -> str:
    return (f'<circle cx="{x:g}" cy="{y:g}" r="14" fill="none" stroke="{INK}" stroke-width="1.5"/>'
            f'<path d="M{x - 7:g} {y:g}h14m-7-7v14" stroke="{INK}" stroke-width="2"/>')


def _line(start, end) -> str:
    return f'<path d="M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}" stroke="{INK}" stroke-width="2"/>'


def _arrow(start, end, *, bend=None, color: str = INK, dashes: str = "", opacity: float = 1.0) -> str:
    """A line from start to end, or a parabola drawn towards `bend`, with a head that has its tip at the end.

    The head is a shape of its own: a marker would need an id, and a page may hold many diagrams.
    """
    start, end = np.array(start, float), np.array(end, float)
    ahead = end - (start if bend is None else np.array(bend, float))
    length = min(HEAD, 0.9 * np.hypot(*(end - start)))
    ahead = length * ahead / np.hypot(*ahead)
    side = 0.45 * np.array([-ahead[1], ahead[0]])
    foot = end - ahead
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, foot + side, foot - side))
    way = f"Q{bend[0]:.1f} {bend[1]:.1f} " if bend is not None else "L"
    stop = foot + 0.1 * ahead
    dashed = f' stroke-dasharray="{dashes}" stroke-linecap="{"round" if dashes.startswith("1 ") else "butt"}"'
    return (f'<g opacity="{opacity:g}"><path d="M{start[0]:.1f} {start[1]:.1f}{way}{stop[0]:.1f} {stop[1]:.1f}" '
            f'fill="none" stroke="{color}" stroke-width="2.5"{dashed if dashes else ""}/>'
            f'<polygon points="{corners}" fill="{color}"/></g>')


# --- files for the pages of the book ---


def page_files() -> dict[str, str]:
    """The diagrams that pages include: the name of a file -> its text."""
    story = {"U": "a gene (hidden)", "T": "smoking", "M": "tar in the lungs", "Y": "lung cancer"}
    both = {"UM": "confounded", "TY": "bypass"}
    ways = "".join(f'<div class="{name}">{pipeline(columns)}</div>' for name, columns in (("wide", 4), ("narrow", 2)))
    caption = ("The way of a picture through CAUSE: each step is a chapter's. Chapters 2 to 4 make the treatment T, "
               "the mediator M and the outcome Y. Labels are looked at only at the very end, to give clusters the "
               "names of classes and to count what is right.")
    return {
        "pipeline.html": f'<figure class="diagram">{ways}<figcaption>{caption}</figcaption></figure>\n',
        "smoking.svg": causal_graph(story, forbidden=both, absent=tuple(both)) + "\n",
    }


if __name__ == "__main__":
    for file, text in page_files().items():
        (Path(sys.argv[1]) / file).write_text(text, encoding="utf8")
