"""Sentences of the book: none over 35 words on any page or in any chapter, at most 16 on average."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST, MEAN = 35, 16
PAGES = sorted([*(ROOT / "book").glob("**/*.md"), *(ROOT / "notebooks").glob("*.ipynb")])
PROSE = ("{admonition}", "{glossary}", "{list-table}", "{hint}", "{note}", "{tip}", "{warning}", "{dropdown}")
SHORT = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bEq\.)(?<!\bvs\.)(?<!\bal\.)"


def prose_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf8")
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def formula(found: re.Match) -> str:
    """A displayed formula is a word of the sentence that it stands in, and ends it where it ends with a full stop."""
    return " X.\n\n" if re.sub(r"\\[,;! ]|\\end\{\w+\}|\\tag\{.*?\}|[\s}]", "", found[1]).endswith(".") else " X, "


def block(found: re.Match) -> str:
    """Text in a directive is prose; a block of code, a table or raw HTML is not."""
    return found[3] if found[2].startswith(PROSE) else "\n\n"


def sentences(text: str) -> list[tuple[int, bool, str]]:
    """Words, whether an end mark closes it (headings, cells of tables and lists of links have none), and the text."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"^(`{3,})([^\n]*)\n(.*?)^\1$", block, text, flags=re.S | re.M)
    text = re.sub(r"^:{3,}.*$|^:\S+:.*$", "\n", text, flags=re.M)  # marks and options of directives
    text = re.sub(r"\s*\$\$(.*?)\$\$(?: \([\w-]+\))?\s*", formula, text, flags=re.S)
    text = re.sub(r"^([a-zA-Z][^\n:.]*)\n {4}(?=\S)", r"\1\n\n", text, flags=re.M)  # a term of the glossary
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\||#|>|\(\S+\)=|\d+\. ))", text):
        paragraph = re.sub(r"^(?:(?:[-*]|\d+\.)\s+)+", "", paragraph.strip())
        if not paragraph or re.match(r"[|>#]|\(\S+\)=$|\{\S+\}$", paragraph):
            continue
        paragraph = re.sub(r"\s*\{cite:p\}`[^`]*`", "", paragraph)
        paragraph = re.sub(r"\{term\}`([^`<]*)[^`]*`", r"\1", paragraph)
        paragraph = re.sub(r"(?:\{[\w:]+\})?`[^`]*`|\$[^$]*\$", "X", paragraph)
        paragraph = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>", r"\1", paragraph)
        for sentence in re.split(SHORT + r"(?<=[.!?])[\"”*_)]*\s+", " ".join(paragraph.split())):
            if (words := len(re.findall(r"\w[\w'’.,/-]*", sentence))) > 2:
                found.append((words, bool(re.search(r"[.!?:;,][\"”*_)]*$|[.!?:;,]$", sentence)), sentence))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_sentences_are_short(path):
    found = sentences(prose_of(path))
    counted = [words for words, closed, _ in found if closed]
    assert not [sentence for words, _, sentence in found if words > LONGEST]
    assert sum(counted) <= MEAN * len(counted)
