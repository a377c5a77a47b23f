"""Diagrams of the book as vector graphics: causal graphs and the two heads.

Each function returns the text of an SVG that says in words what it shows (`title` and `desc`). Lines and letters take
the colour of the text around them, so that a diagram follows a page's theme. T, M, Y and U have the colours of NODES in
all of them; dashed is what is not observed; vermillion is what violates the front-door criterion; dotted with a cross
is what is assumed to be absent.

`figure` puts a diagram and its caption into a notebook. Pages of the book include files, which are written by
`python book/draw.py book/_static/diagrams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

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
    """The front-door graph as an SVG: U -> T, U -> Y, T -> M, M -> Y; U is dashed, because it is not observed.

    captions: "U", "T", "M", "Y" -> a word or two beside the node, "\\n" between lines
    title: a name for the whole, shown above it
    forbidden: arrows that violate the criterion -> a word beside each, such as {"TY": "bypass"}
    absent: arrows that are assumed to be absent, such as ("UM", "TY")
    """
    forbidden = dict(forbidden or {})
    height = 300 if "TY" in (*forbidden, *absent) else 262
    parts = [_graph_arrow(name) for name in ARROWS]
    parts += [_graph_arrow(name, wrong=word) for name, word in forbidden.items()]
    parts += [_graph_arrow(name, crossed=True) for name in absent]
    for name, (x, y) in PLACES.items():
        lines = captions[name].split("\n")
        below = y + RADIUS + 20 if name == "M" else y - RADIUS - 10 - 18 * (len(lines) - 1)
        parts += [node(name, x, y), text(x, below, captions[name])]
    says = "; ".join(f"{name} ({' '.join(captions[name].split())}) acts on {' and '.join(ends)}"
                     for name, ends in (("U", "TY"), ("T", "M"), ("M", "Y")))
    says = f"Causal graph. {says}; Y is {' '.join(captions['Y'].split())}."
    says += "".join(f" {arrow[0]} also acts on {arrow[1]}: {word}." for arrow, word in forbidden.items())
    says += "".join(f" {arrow[0]} is assumed not to act on {arrow[1]}." for arrow in absent)
    return svg(480, height, title or "Causal graph", says, parts, heading=title)


def _graph_arrow(name: str, *, wrong: str | None = None, crossed: bool = False) -> str:
    """An arrow of the causal graph; `wrong` is the word beside one that should not be there."""
    (x0, y0), (x1, y1) = PLACES[name[0]], PLACES[name[1]]
    look = {"color": WRONG} if wrong is not None or crossed else {}
    if name[0] == "U" or wrong is not None:
        look["dashes"] = "7 5"
    if crossed:
        look |= {"dashes": "1 6", "opacity": 0.8}
    if name == "TY":  # below the mediator and its caption
        drawn = arrow((x0 + 14, y0 + 24), (x1 - 14, y1 + 24), bend=((x0 + x1) / 2, y0 + 160), **look)
        middle, beside = ((x0 + x1) / 2, 279), (240, 297, "middle")
    else:
        along = np.array([x1 - x0, y1 - y0]) / np.hypot(x1 - x0, y1 - y0)
        drawn = arrow(np.array([x0, y0]) + (RADIUS + 3) * along, np.array([x1, y1]) - (RADIUS + 3) * along, **look)
        middle, beside = ((x0 + x1) / 2, (y0 + y1) / 2), (251, 152, "start")
    if crossed:
        x, y = middle
        drawn += f'<path class="cross" d="M{x - 7:g} {y - 7:g}l14 14m0-14l-14 14" stroke="{WRONG}" stroke-width="3"/>'
    if wrong:
        x, y, anchor = beside
        drawn += text(x, y, wrong, size=15, anchor=anchor)
    return f'<g data-edge="{name}">{drawn}</g>'


def mlp_head() -> str:
    """The MLP head, f1(t) + f2(t): a linear map plus a small network, for each patch separately. Returns an SVG."""
    parts = [
        _box(170, 70, "token of a patch", "T"), _line((170, 90), (170, 108)), _line((85, 108), (255, 108)),
        arrow((85, 108), (85, 185)), arrow((255, 108), (255, 142)), _box(85, 206, "linear, d to r"),
        _box(255, 163, "linear, d to d"), arrow((255, 183), (255, 203)), _box(255, 224, "ReLU"),
        arrow((255, 244), (255, 264)), _box(255, 285, "linear, d to r"), _line((85, 226), (85, 345)),
        arrow((85, 345), (154, 345)), _line((255, 305), (255, 345)), arrow((255, 345), (186, 345)),
        _plus(170, 345), arrow((170, 360), (170, 402)), _box(170, 423, "its feature", "Y"),
    ]
    says = ("The token of a patch takes two paths: a linear map from width d to width r; and a linear map, a ReLU and "
            "a linear map to width r. Their sum is the patch's feature. Other patches have no influence.")
    return svg(340, 455, "MLP head", says, parts, heading="MLP head: each patch separately")


def tr_head() -> str:
    """The TR head: a patch attends, with its concept as the query, to all patches of its picture. Returns an SVG."""
    parts = [
        _box(60, 70, "token of\na patch", "T", width=96, height=48),
        _box(214, 70, "nearest prototype\n+ position", "M", width=150, height=48),
        arrow((108, 70), (138, 70)), arrow((194, 94), (194, 143)), text(204, 115, "query", size=14, anchor="start"),
        '<rect x="122" y="126" width="144" height="168" rx="10" fill="none" stroke="currentColor" '
        'stroke-dasharray="3 4" opacity="0.7"/>', text(272, 269, "decoder\nlayer", size=14, anchor="start"),
        _box(194, 161, "self-attention", width=128, height=34), arrow((194, 178), (194, 193)),
        _box(194, 211, "cross-attention", width=128, height=34), arrow((194, 228), (194, 243)),
        _box(194, 261, "feed-forward", width=128, height=34),
        _box(310, 211, "all\ntokens", "T", width=58, height=48), arrow((281, 211), (260, 211)),
        _line((60, 94), (60, 324)), arrow((60, 324), (178, 324)), arrow((194, 278), (194, 309)), _plus(194, 324),
        arrow((194, 338), (194, 353)), _box(194, 370, "MLP head", width=128, height=32),
        arrow((194, 386), (194, 402)), _box(194, 423, "its feature", "Y", width=128),
    ]
    says = ("The nearest prototype of a patch's token, with a learned position, is the query of one decoder layer: "
            "self-attention, cross-attention to all tokens of the picture, and a feed-forward network. The output is "
            "added to the patch's token, and the MLP head turns the sum into the patch's feature.")
    return svg(340, 455, "TR head", says, parts, heading="TR head: each patch attends to all")


def svg(width: int, height: int, title: str, says: str, parts: list[str], *, heading: str = "") -> str:
    """An SVG as wide as its place allows, at most its own size; its name and description are for screen readers."""
    top = -16 if heading else 0
    shown = text(0, 2, heading, anchor="start", weight=600) if heading else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" viewBox="0 {top} {width} {height - top}" '
            f'role="img" style="display:block;width:100%;max-width:{width}px;height:auto" fill="{INK}">'
            f"<title>{escape(title)}</title><desc>{escape(says)}</desc>{shown}{''.join(parts)}</svg>")


def text(x: float, y: float, words: str, *, size: float = 16, anchor: str = "middle", weight: int = 400,
           color: str = INK) -> str:
    """Lines of text, the first on the height y."""
    lines = "".join(f'<tspan x="{x:g}" dy="{18 * (i > 0)}">{escape(line)}</tspan>'
                    for i, line in enumerate(words.split("\n")))
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{color}">{lines}</text>')


def node(name: str, x: float, y: float, *, radius: float = RADIUS, size: float = 22) -> str:
    """A variable: its letter in a disc of its colour; dashed if not observed."""
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
            + text(x, first, words, size=15))


def _plus(x: float, y: float) -> str:
    return (f'<circle cx="{x:g}" cy="{y:g}" r="14" fill="none" stroke="{INK}" stroke-width="1.5"/>'
            f'<path d="M{x - 7:g} {y:g}h14m-7-7v14" stroke="{INK}" stroke-width="2"/>')


def _line(start, end) -> str:
    return f'<path d="M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}" stroke="{INK}" stroke-width="2"/>'


def arrow(start, end, *, bend=None, color: str = INK, dashes: str = "", opacity: float = 1.0) -> str:
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
