"""The concept explorer: what it counts against the library's own rule, and what its script makes of the data."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cause_book.explorer import ACROSS, EXAMPLES, NEAREST, TILE, exact, explorer_data, explorer_html
from cause_book.granularity import segments
from cause_book.plots import RELATION
from cause_book.usage import neighbours
from cause_lib.clusterbook import Clusterbook

SCRIPT = Path(__file__).resolve().parents[2] / "cause_book/explorer/explorer.js"
GRID, SHOWN = (4, 5), [1, 3, 4]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world():
    """Six pictures of plain patches, their tokens, and two clusterbooks; prototype 0 of the second is far from all."""
    shade = torch.rand(6, 3, *GRID, generator=torch.Generator().manual_seed(3))
    images = shade.repeat_interleave(16, 2).repeat_interleave(16, 3)  # (g, 3, 64, 80)
    tokens = randn(6, 20, 8) + 1.0
    books = {"few": (Clusterbook(randn(7, 8, seed=1)), (0.304, 0.1)),
             "many": (Clusterbook(torch.cat([torch.full((1, 8), -1.0), randn(60, 8, seed=2) + 0.5])), (0.8, -0.25))}
    return images, tokens, books, explorer_data(images, tokens, books, GRID, shown=SHOWN, names=["b", "d", "e"])


def int16(text):
    return np.frombuffer(base64.b64decode(text), "<i2").astype(int)


def in_node(code: str, data):
    """What `code` says in Node about the script's functions and the data, or None where there is no Node."""
    if (node := shutil.which("node")) is None:
        return None
    program = (f"const js = require({json.dumps(str(SCRIPT))}); "
               "const data = JSON.parse(require('fs').readFileSync(0)); "
               f"const books = data.books.map(js.unpack); console.log(JSON.stringify({code}))")
    return json.loads(subprocess.run([node, "-e", program], input=json.dumps(data), check=True, text=True,
                                     capture_output=True).stdout)


def test_whole_numbers_compare_as_cosines_do():
    cosines = torch.cat([randn(5000).clamp(-1, 1), torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0])]).double().numpy()
    found = exact(cosines)
    assert found.min() >= -2000 and found.max() <= 2000
    for hundredths in range(-100, 101):
        assert np.array_equal(found > 20 * hundredths, cosines > hundredths / 100)
        assert np.array_equal(found < 20 * hundredths, cosines < hundredths / 100)


def test_a_cosine_on_a_thousandth_is_neither_above_nor_below_it():
    """In the library's single precision too, where a product with 1000 would come out beside 251, 127 and others."""
    for dtype in (torch.float32, torch.float64):
        cosines = (torch.arange(-1000, 1001, dtype=torch.float64) / 1000).to(dtype)
        assert exact(cosines.numpy()).tolist() == list(range(-2000, 2001, 2))
        for aim, step in ((2.0, 1), (-2.0, -1)):
            beside = torch.nextafter(cosines, torch.tensor(aim, dtype=dtype)).clamp(-1, 1).numpy()
            wanted = np.clip(np.arange(-2000, 2001, 2) + step, -2000, 2000)
            assert np.array_equal(exact(beside), wanted)


def relations_by_loops(data, book, picture, anchor, positive, negative):
    """Eq. 4 from the data alone, a patch at a time: (n,) 1, 0, -1."""
    patches, packed, found = int16(book["patches"][picture]), int16(book["similarity"]), []
    for x in patches:
        high, low = max(patches[anchor], x), min(patches[anchor], x)
        similarity = 2000 if high == low else packed[high * (high - 1) // 2 + low]
        found.append(1 if similarity > 20 * positive else -1 if similarity < 20 * negative else 0)
    return found


@pytest.mark.parametrize("positive, negative", [(30, 10), (80, -25), (0, 0), (-100, -100), (100, -100)])
def test_counts_are_those_of_the_library(world, positive, negative):
    _, tokens, books, data = world
    for name, book in zip(books, data["books"]):
        library = books[name][0]
        similarity = library.similarity.double().clamp(-1, 1).fill_diagonal_(1)
        for picture, index in enumerate(SHOWN):
            concepts = library.assign(tokens[index:index + 1])  # (1, n)
            assert [book["numbers"][place] for place in int16(book["patches"][picture])] == concepts[0].tolist()
            wanted = [counts[0].tolist() for counts in neighbours(concepts, similarity, positive / 100, negative / 100)]
            found = [relations_by_loops(data, book, picture, anchor, positive, negative) for anchor in range(20)]
            others = [[value for x, value in enumerate(row) if x != anchor] for anchor, row in enumerate(found)]
            assert [row.count(1) for row in others] == wanted[0] and [row.count(-1) for row in others] == wanted[1]


def test_the_script_follows_the_same_rule(world):
    data = world[-1]
    for positive, negative in ((30, 10), (80, -25), (100, -100)):
        said = in_node("books.map((book) => book.patches.map((patches) => Array.from(patches, "
                       f"(_, anchor) => js.relations(book, patches, anchor, {positive}, {negative}))))", data)
        assert said in (None, [[[relations_by_loops(data, book, picture, anchor, positive, negative)
                                 for anchor in range(20)] for picture in range(3)] for book in data["books"]])


def test_nearest_are_the_nearest_with_patches(world):
    _, tokens, books, data = world
    said = in_node("books.map((book) => book.numbers.map((_, i) => js.nearest(book, i).map((j) => book.numbers[j])))",
                   data)
    for place, (name, (library, _)) in enumerate(books.items()):
        book, alive = data["books"][place], library.assign(tokens).unique().tolist()
        assert book["alive"] == len(alive) and book["prototypes"] == len(library.prototypes)
        for i in sorted({int(at) for patches in book["patches"] for at in int16(patches)}):
            row = library.similarity[book["numbers"][i]]
            wanted = sorted((other for other in alive if other != book["numbers"][i]), key=lambda k: -float(row[k]))
            kept = [number for number in wanted if number in book["numbers"]]
            assert kept[:NEAREST] == wanted[:NEAREST]
            if said is not None:
                assert torch.allclose(row[said[place][i]], row[wanted[:NEAREST]], atol=1e-3)


def test_dead_prototypes_are_left_out(world):
    many = world[-1]["books"][1]
    assert 0 not in many["numbers"] and many["alive"] <= 60 < many["prototypes"]


def test_examples_are_the_patches_nearest_to_the_prototype(world):
    images, tokens, books, data = world
    for (library, _), book in zip(books.values(), data["books"]):
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(book["sheet"].split(",")[1])))).astype(int)
        concepts = library.assign(tokens)
        closeness = F.cosine_similarity(tokens, library.quantize(tokens), dim=-1)
        at = 0
        for number, count, wins in zip(book["numbers"], book["examples"], book["wins"]):
            assert wins == int((concepts == number).sum()) and count == min(EXAMPLES, wins)
            order = sorted((concepts == number).nonzero().tolist(), key=lambda place: -float(closeness[tuple(place)]))
            best = [next(place for place in order if place[0] == i) for i in dict.fromkeys(i for i, _ in order)]
            best += [place for place in order if place not in best]
            if len({i for i, _ in order}) >= count:  # one of each picture, the nearest first
                for i, x in best[:count]:
                    row, column = at // ACROSS * TILE + TILE // 2, at % ACROSS * TILE + TILE // 2
                    colour = images[i, :, x // 5 * 16 + 8, x % 5 * 16 + 8] * 255
                    seen = sheet[row - 2:row + 2, column - 2:column + 2].mean((0, 1))
                    assert np.abs(seen - colour.numpy()).max() < 25
                    at += 1
            else:
                at += count
        assert at == sum(book["examples"])


def test_keys_lead_where_they_should():
    steps = {("ArrowLeft", 0, 7): 6, ("ArrowLeft", 0, 5): 5, ("ArrowRight", 0, 9): 9, ("ArrowUp", 0, 7): 2,
             ("ArrowUp", 0, 2): 2, ("ArrowDown", 0, 7): 12, ("ArrowDown", 0, 17): 17, ("Home", 0, 7): 5,
             ("End", 0, 7): 9, ("Home", 1, 7): 0, ("End", 1, 7): 19, ("PageUp", 0, 12): 2, ("PageDown", 0, 2): 17,
             ("a", 0, 7): None}
    said = in_node(f"data.keys.map(([key, control, at]) => js.step(key, control, at, {GRID[0]}, {GRID[1]}))",
                   {"books": [], "keys": list(steps)})
    assert said in (None, list(steps.values()))


def test_thresholds_are_in_hundredths(world):
    assert [(book["positive"], book["negative"]) for book in world[-1]["books"]] == [(0.3, 0.1), (0.8, -0.25)]


def test_a_picture_takes_less_than_a_megabyte():
    """At the size of the published settings, 400 patches of 16 pixels, with 512 prototypes all alive."""
    images = F.interpolate(torch.rand(8, 3, 60, 60), size=480, mode="bilinear")  # much more in them than in photographs
    tokens = randn(8, 400, 16)
    books = {name: (Clusterbook(randn(512, 16, seed=seed)), (0.3, 0.1)) for seed, name in enumerate(("one", "other"))}
    text = explorer_html(explorer_data(images, tokens, books, (20, 20), shown=range(4), names="abcd"))
    assert len(text.encode()) / 4 < 1_000_000


def test_one_piece_of_html_that_may_stand_twice_on_a_page(world):
    images, tokens, books, _ = world
    data = explorer_data(images, tokens, books, GRID, shown=[0], names=["</script><b>&"])
    text = explorer_html(data)
    (known,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    assert json.loads(known) == data
    assert not re.findall(r'(?:src|href|@import)\s*=?\s*["\']?(?:https?:)?//', text)  # nothing is fetched
    outside = text.split("<template>")[0] + text.split("</template>")[1]
    assert " id=" not in outside and "<style" not in outside  # names and looks stay in the shadow
    assert text.count("</script>") == 2
    assert text.startswith('<div class="concept-explorer">') and text.endswith("</div>")


def test_colours_are_those_of_the_figures():
    looks = SCRIPT.with_suffix(".css").read_text()
    assert RELATION["positive"].lower() in looks and RELATION["negative"].lower() in looks


def test_what_does_not_fit_is_said(world):
    images, tokens, books, _ = world
    with pytest.raises(ValueError, match="4 x 4 patches cannot hold 20 tokens"):
        explorer_data(images, tokens, books, (4, 4), shown=[0], names=["a"])
    with pytest.raises(ValueError, match="64 x 79 pixels cannot be cut into 4 x 5"):
        explorer_data(images[..., 1:], tokens, books, GRID, shown=[0], names=["a"])
    with pytest.raises(ValueError, match=r"labels of shape \(6, 64, 79\) do not fit images of shape \(6, 3, 64, 80\)"):
        labels = torch.zeros(6, 64, 79, dtype=torch.int64), ["sky"], np.zeros((1, 3), np.uint8)
        explorer_data(images, tokens, books, GRID, shown=[0], names=["a"], labels=labels)


def test_labels_are_those_at_the_centres_and_a_mask_with_a_clear_void(world):
    images, tokens, books, without = world
    assert without["classes"] == [] and "mask" not in without["pictures"][0]
    ids = torch.randint(-1, 3, (6, 64, 80), generator=torch.Generator().manual_seed(0))
    colors = np.array([[1, 2, 3], [40, 50, 60], [255, 0, 7]], dtype=np.uint8)
    data = explorer_data(images, tokens, books, GRID, shown=SHOWN, names="bde", labels=(ids, ["x", "y", "z"], colors))
    assert data["classes"] == [["x", "#010203"], ["y", "#28323c"], ["z", "#ff0007"]]
    for i, picture in zip(SHOWN, data["pictures"]):
        assert int16(picture["labels"]).tolist() == [int(ids[i, 16 * (x // 5) + 8, 16 * (x % 5) + 8]) for x in range(20)]
        mask = Image.open(io.BytesIO(base64.b64decode(picture["mask"].split(",")[1]))).convert("RGBA")
        wanted = np.concatenate([colors, np.zeros((1, 3), np.uint8)])[ids[i]]
        assert np.array_equal(np.asarray(mask)[..., :3], wanted)
        assert np.array_equal(np.asarray(mask)[..., 3] == 0, (ids[i] == -1).numpy())


@pytest.mark.parametrize("positive", [-100, 20, 45, 80, 100])
def test_the_scripts_segments_are_those_of_chapter_7(world, positive):
    """Connected components of the concepts of a picture, the largest first."""
    _, tokens, books, data = world
    said = in_node(f"books.map((book) => book.patches.map((patches) => js.segments(book, patches, {positive})))", data)
    for place, (library, _) in enumerate(books.values() if said else ()):
        for found, i in zip(said[place], SHOWN):
            concepts = library.assign(tokens[i:i + 1])[0]
            there = concepts.unique()
            of = segments(library.similarity.double()[there][:, there].fill_diagonal_(1), positive / 100)
            of = of[torch.searchsorted(there, concepts).numpy()]
            assert len(set(zip(found, of.tolist()))) == len(set(found)) == len(set(of.tolist()))
            sizes = np.bincount(found)
            assert (np.diff(sizes) <= 0).all()
