"""Docstrings of the library as they are written, plain text, made readable for Sphinx's autodoc.

The library's docstrings are typed for the eye: paragraphs, formulas and columns that are laid out by hand, and Google's
sections (Args, Returns, Raises). Sphinx takes them for reStructuredText, where an indent or a |P| means something else.
So, before napoleon turns the sections into lists:

    paragraphs             marks of reStructuredText are escaped, `code` is set as code
    formulas and columns   blocks that are indented, or have two spaces in a row, stay as they are, as literal blocks
    examples               are Python code
    name: what it is       paragraphs of such lines, in functions and classes, become a section Args
"""

from __future__ import annotations

import re

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Fields[^:]*):$")
ITEM = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*: \S")


def escape(line: str) -> str:
    """A line of prose whose only mark-up is `code`."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a lone backtick
        return re.sub(r"([*|`\\])", r"\\\1", line)
    prose = [re.sub(r"(\w)_(?=\W|$)", r"\1\\_", re.sub(r"([*|\\])", r"\\\1", part)) for part in parts[::2]]
    code = [f"``{part}``" if part else "" for part in parts[1::2]]
    spaced = [part if re.match(r"$|[\s.,:;!?)\]}'\"/-]", part) else "\\ " + part for part in prose[1:]]
    return prose[0] + "".join(c + p for c, p in zip(code, spaced))


def laid_out(block: list[str]) -> bool:
    """Whether a block's spaces matter: an indented line, or columns."""
    return any(line.startswith("    ") or re.search(r"\S {2,}\S", line) for line in block)


def readable(lines: list[str], is_module: bool) -> list[str]:
    """A docstring's lines, as reStructuredText with Google's sections."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line.rstrip())
        elif blocks[-1]:
            blocks.append([])
    made: list[str] = []
    for block in filter(None, blocks):
        prose = next((i for i, line in enumerate(block) if line.lstrip().startswith(">>>")), len(block))
        if block[0] == "Examples:" or prose < len(block):
            made += [*map(escape, block[:prose]), *([""] if prose else [])]
            if block[prose:]:
                made += ["    .. code-block:: python", "", *("    " + line for line in block[prose:]), ""]
        elif SECTION.match(block[0]):
            if block[0].startswith("Fields"):
                made += [escape(block[0]), ""]
                block[0] = "Args:"
            made += [block[0], *map(escape, block[1:]), ""]
        elif not is_module and ITEM.match(block[0]) and all(ITEM.match(x) or x.startswith("    ") for x in block):
            made += ["Args:", *("    " + escape(line) for line in block), ""]
        elif laid_out(block):
            # a paragraph that ends in a colon may lead straight into the lines that it announces
            prose = 1 if block[0].endswith(":") and all(line.startswith("    ") for line in block[1:]) else 0
            made += [*map(escape, block[:prose]), *([""] if prose else []), ".. code-block:: text", ""]
            made += ["    " + line for line in block[prose:]] + [""]
        else:
            made += [*map(escape, block), ""]
    return made


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")

    def process(app, what, name, obj, options, lines):
        lines[:] = readable(lines, what == "module")

    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon's
    return {"parallel_read_safe": True}
