"""The concept explorer: a reader points at patches of images, to see concepts, similar concepts and the rule of Eq. 4.

    D_M[id(a), id(x)] > phi+ : x is a positive of the anchor a;  < phi- : a negative;  else ignored

It also shows segments, the connected components of an image's concepts tied by D_M > phi+, and labels if there are any.

D_M travels as integers, q = 2 floor(1000 D) + [D is above that thousandth], so that the script's comparisons are those
of the library for any threshold in thousandths: D > t/1000 just where q > 2t, and D < t/1000 just where q < 2t.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cause_lib.clusterbook import Clusterbook
from cause_lib.errors import InputError

EXAMPLES, NEAREST = 3, 6  # patches shown for a concept, and concepts listed beside it
TILE, ACROSS = 48, 32  # side of an example in pixels (whole blocks of JPEG), and how many stand side by side on a sheet


def explorer_data(images: Tensor, tokens: Tensor, books: Mapping[str, tuple[Clusterbook, tuple[float, float]]],
                  grid: tuple[int, int], *, shown: Sequence[int], names: Sequence[str],
                  labels: tuple[Tensor, Sequence[str], np.ndarray] | None = None) -> dict[str, Any]:
    """The data of the explorer's page, ready for JSON: {"grid", "size", "classes", "pictures", "books"}.

    A book's "numbers" are the prototypes that have patches here: those of the explored pictures, then those among the
    `NEAREST` of these; "patches" and "similarity" go by places in it.

    images: (g, 3, h, w) floating in [0, 1], at the size in which they are shown; each side a multiple of the grid's
    tokens: (g, n, d) of these images, on the CPU; images that are not explored lend example patches
    books: a name -> the clusterbook and its phi+ and phi-, which the sliders start from, in hundredths
    grid: rows and columns of the n patches
    shown: which of the images can be explored
    names: what each of those is called
    labels: of the images, int64 (g, h, w), -1 void; the classes' names; their colours, uint8 (c, 3). None: no labels

    Raises ValueError if the grid does not hold n patches, does not divide the images, or labels are of another size.
    """
    (rows, columns), (height, width) = grid, images.shape[-2:]
    if rows * columns != tokens.shape[1]:
        raise InputError(f"a grid of {rows} x {columns} patches cannot hold {tokens.shape[1]} tokens")
    if height % rows or width % columns:
        raise InputError(f"pictures of {height} x {width} pixels cannot be cut into {rows} x {columns} patches: "
                         "make each side a multiple")
    ids, classes, colors = labels or (torch.full_like(images[:, 0], -1), [], np.zeros((0, 3), np.uint8))
    if ids.shape != images[:, 0].shape:
        raise InputError(f"labels of shape {tuple(ids.shape)} do not fit images of shape {tuple(images.shape)}")
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (g, h, w, 3)
    return {"grid": [rows, columns], "size": [height, width],
            "classes": [[str(name), "#" + bytes(color).hex()] for name, color in zip(classes, colors, strict=True)],
            "pictures": [{"name": str(name), "image": _address(Image.fromarray(pixels[i]), quality=80),
                          **(_labels(ids[i].numpy(), colors, grid) if labels else {})}
                         for i, name in zip(shown, names, strict=True)],
            "books": [_book(name, book, phi, pixels, tokens, grid, shown) for name, (book, phi) in books.items()]}


def explorer_html(data: Mapping[str, Any]) -> str:
    """The explorer as one piece of HTML, for `explorer_data`; a page can hold it more than once."""
    page, looks, script = (Path(__file__).with_name(f"explorer.{end}").read_text(encoding="utf8")
                           for end in ("html", "css", "js"))
    known = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # nothing in it may end the script
    return (f'<div class="concept-explorer"><template><style>{looks}</style>{page}</template>\n'
            f'<script type="application/json">{known}</script>\n'
            "<p>The concept explorer needs JavaScript, and a page that may run it: in a notebook, run its cell.</p>\n"
            f"<script>{script}</script></div>")


def _book(name: str, book: Clusterbook, phi: tuple[float, float], pixels: np.ndarray, tokens: Tensor,
          grid: tuple[int, int], shown: Sequence[int]) -> dict[str, Any]:
    concepts = book.assign(tokens)  # (g, n)
    closeness = F.cosine_similarity(tokens, book.quantize(tokens), dim=-1)  # (g, n)
    similarity, alive = book.similarity.double().clamp(-1, 1), concepts.unique()
    seen = concepts[list(shown)].unique()
    kin = similarity[seen][:, alive].topk(min(NEAREST + 1, len(alive))).indices  # (u, 7), itself among them
    beside = alive[kin.unique()]
    numbers = torch.cat([seen, beside[~torch.isin(beside, seen)]])  # (v,)
    place = torch.full((len(similarity),), -1).scatter_(0, numbers, torch.arange(len(numbers)))
    below = torch.tril_indices(len(numbers), len(numbers), -1)
    sheet, examples = _examples(pixels, concepts.numpy(), closeness.numpy(), numbers.numpy(), grid)
    return {"name": name, "prototypes": len(similarity), "alive": len(alive), "pictures": len(tokens),
            "positive": round(phi[0], 2), "negative": round(phi[1], 2), "nearest": NEAREST,
            "numbers": numbers.tolist(),
            "wins": concepts.flatten().bincount(minlength=len(similarity))[numbers].tolist(),
            "patches": [_int16(place[concepts[i]].numpy()) for i in shown],
            "similarity": _int16(exact(similarity[numbers][:, numbers].numpy()[tuple(below)])),  # below its diagonal
            "sheet": sheet, "examples": examples, "tile": TILE, "across": ACROSS}


def exact(cosines: np.ndarray) -> np.ndarray:
    """Cosines in [-1, 1] as the q of this file's head: int in [-2000, 2000], even on a thousandth, odd in between.

    The side of a thousandth is decided on the cosine itself: its product with 1000 would be rounded.
    """
    nearest = np.round(1000 * cosines.astype(np.float64))
    border = (nearest / 1000).astype(cosines.dtype)  # as the library rounds a threshold that it holds cosines against
    return (2 * nearest + np.sign(cosines - border)).astype(int)


def _examples(pixels: np.ndarray, concepts: np.ndarray, closeness: np.ndarray, numbers: np.ndarray,
              grid: tuple[int, int]) -> tuple[str, list[int]]:
    """A sheet of example patches, concept after concept, and how many each has.

    They are those nearest to the prototype, first one of each picture. A patch is cut out with its eight neighbours.
    """
    rows, columns = grid
    high, wide = pixels.shape[1] // rows, pixels.shape[2] // columns
    padded = np.pad(pixels, ((0, 0), (high, high), (wide, wide), (0, 0)), mode="edge")
    tiles, counts = [], []
    for number in numbers:
        picture, patch = np.nonzero(concepts == number)
        order = np.lexsort((-closeness[picture, patch], picture))
        first = np.searchsorted(picture[order], picture[order])  # where each picture's patches begin
        turn = np.arange(len(order)) - first  # 0 for the best of its picture
        best = order[np.lexsort((-closeness[picture, patch][order], turn))][:EXAMPLES]
        for i, x in zip(picture[best], patch[best]):
            top, left = x // columns * high, x % columns * wide
            tiles.append(Image.fromarray(padded[i, top:top + 3 * high, left:left + 3 * wide]).resize((TILE, TILE)))
        counts.append(len(best))
    sheet = Image.new("RGB", (TILE * ACROSS, TILE * -(-len(tiles) // ACROSS)))
    for at, tile in enumerate(tiles):
        sheet.paste(tile, (at % ACROSS * TILE, at // ACROSS * TILE))
    return _address(sheet, quality=55), counts


def _labels(ids: np.ndarray, colors: np.ndarray, grid: tuple[int, int]) -> dict[str, str]:
    """A picture's labels (h, w) as a mask whose void is clear, and those at the centres of its patches (n,)."""
    high, wide = ids.shape[0] // grid[0], ids.shape[1] // grid[1]
    mask = Image.fromarray((ids + 1).astype(np.uint8))
    mask.putpalette([0, 0, 0, *colors.flatten().tolist()])
    return {"mask": _address(mask, "PNG", transparency=0),
            "labels": _int16(ids[high // 2::high, wide // 2::wide].flatten())}


def _address(image: Image.Image, kind: str = "JPEG", **options: int) -> str:
    file = io.BytesIO()
    image.save(file, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def _int16(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<i2").tobytes()).decode()
