"""Rules of wording and form for chapters and pages: python tests/lint.py prints file:line: what, and exits 1 if any.

Numbers in the prose that must equal the code's or a result's, and links, are checked by pytest (unit/test_prose.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPU = "No GPU is needed"
QUICK = {"02_quickstart"}  # no exercises
RECALLS = {"10_alive"}  # opens with equation (3), which chapter 5 has drawn
WITH_NOTICE = {"howto", "own", "batch", "reproducing"}
CODE = re.compile(r"```\{?(code|bash|python|text|bibtex)[^\n]*\n.*?```|\$\$.*?\$\$|`[^`\n]*`", re.DOTALL)
RESULT = re.compile(r"[^.\n]*\b\d+(?:\.\d+)? ?(?:%|per cent|points|seconds|minutes|MiB)[^.\n]*")

Found = tuple[int, str]  # line of the file, what is wrong there


class Document:
    """A notebook or a page: its raw text, its cells (none for a page), and its prose."""

    def __init__(self, path: Path) -> None:
        self.path, self.raw = path, path.read_text(encoding="utf8")
        found = json.loads(self.raw)["cells"] if path.suffix == ".ipynb" else []
        self.cells = [cell | {"source": "".join(cell["source"])} for cell in found]
        marked = [cell["source"] for cell in self.cells if cell["cell_type"] == "markdown"]
        self.prose = "\n\n".join(marked) if self.cells else self.raw

    def line(self, text: str) -> int:
        """The first line of the file that has the first line of `text`; 1 if none has."""
        first = text.strip().split("\n")[0]
        first = json.dumps(first, ensure_ascii=False)[1:-1] if self.cells else first
        place = self.raw.find(first)
        return self.raw.count("\n", 0, max(place, 0)) + 1

    def cell_line(self, cell: dict) -> int:
        return self.raw.count("\n", 0, self.raw.find(f'"id": "{cell["id"]}"')) + 1


def parts_of_a_chapter(chapter: Document) -> Iterator[Found]:
    """What one will know; exercises, a summary and a way on, in this order; two exercises or more; the GPU sentence."""
    text = chapter.prose
    if not re.search(r"At (its end|the end of this chapter) you will know\n\n- ", text.replace("\nyou", " you")):
        yield 1, "no list 'At the end of this chapter you will know'"
    quick = chapter.path.stem in QUICK
    wanted = ("Exercises", "Summary", "Where to go next")[quick:]
    places = [text.find(f"## {heading}") for heading in wanted]
    if min(places) < 0 or places != sorted(places):
        yield 1, f"the sections {', '.join(wanted)} are not all there, in this order"
    if not quick and len(re.findall(r"\{admonition\} Exercise \d: ", text)) < 2:
        yield 1, "fewer than two exercises"
    if GPU not in text:
        yield 1, f"no sentence with '{GPU}'"


def solutions(chapter: Document) -> Iterator[Found]:
    """Every exercise is followed by a hidden code cell."""
    for cell, after in zip(chapter.cells, [*chapter.cells[1:], {"cell_type": "none"}]):
        hidden = after["cell_type"] == "code" and "hide-cell" in after["metadata"].get("tags", [])
        if "{admonition} Exercise" in cell["source"] and not hidden:
            yield chapter.cell_line(cell), "an exercise without a hidden solution below it"


def picture_before_formula(chapter: Document) -> Iterator[Found]:
    """The first picture comes before the first displayed formula."""
    for cell in chapter.cells if chapter.path.stem not in RECALLS else ():
        code = cell["cell_type"] == "code"
        if code and ("image" in cell["metadata"].get("mystnb", {}) or "diagrams.figure(" in cell["source"]):
            return
        if not code and re.search(r"^\$\$$", cell["source"], re.M):
            yield chapter.cell_line(cell), "a formula before the first picture"
            return


def figures(chapter: Document) -> Iterator[Found]:
    """A figure has a text alternative and a caption; the only numbers in a caption are those of equations."""
    drawn = [cell for cell in chapter.cells if "image" in cell["metadata"].get("mystnb", {})]
    if not drawn:
        yield 1, "no figure"
    for cell in drawn:
        words = cell["metadata"]["mystnb"]
        alternative, caption = words["image"].get("alt", ""), words.get("figure", {}).get("caption", "")
        if len(alternative) <= 20 or len(caption) <= 20:
            yield chapter.cell_line(cell), "a figure without a text alternative or a caption of a sentence"
        if re.search(r"\d", re.sub(r"equation \(\d\)", "", caption)):
            yield chapter.line(caption), f"a number in a caption: {caption}"


def gpu_notice(page: Document) -> Iterator[Found]:
    """Pages share one notice on GPUs."""
    if page.path.stem in WITH_NOTICE and "{include} _shared/gpu.md" not in page.raw:
        yield 1, "does not include _shared/gpu.md"
    if "Runtime, Change runtime type" in page.raw:
        yield page.line("Runtime, Change runtime type"), "the notice on GPUs is typed: include _shared/gpu.md"


def typed_results(document: Document) -> Iterator[Found]:
    """Percentages, points and seconds in prose are results, which cells write."""
    text = CODE.sub("", document.prose)
    if document.path.stem == "simulator":  # tells how far to move a slider, whose ends these are
        text = re.sub(r"\b(0|100) %", "", text)
    for sentence in RESULT.findall(text):
        yield document.line(sentence), f"a result is typed: {sentence.strip()}"


def main() -> int:
    chapters = [Document(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    pages = [Document(path) for path in sorted((ROOT / "book").glob("*.md"))]
    everything = [*chapters, *pages, Document(ROOT / "README.md")]
    rules = {parts_of_a_chapter: chapters, solutions: chapters, picture_before_formula: chapters, figures: chapters,
             gpu_notice: pages, typed_results: everything}
    found = sorted((document.path.relative_to(ROOT).as_posix(), line, what) for rule, documents in rules.items()
                   for document in documents for line, what in rule(document))
    for path, line, what in found:
        print(f"{path}:{line}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
