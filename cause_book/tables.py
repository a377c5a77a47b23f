"""Tables of numbers as HTML that a reader can sort: a plain table, and what `book/_static/sort.js` needs to know of it.

A cell is what it shows, or a `Cell`, which shows one thing and sorts by another (3 h 10 min by its seconds). Without
the script it is a table like any other.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """What a cell shows, and the number or text that it is sorted by."""

    shown: str
    value: Any


def sortable(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, caption: str,
             formats: Mapping[str, str] | None = None) -> str:
    """One `<table class="sortable">`; all text is escaped, and numbers carry the class `number`.

    rows: for each line, column -> number, text, `Cell`; None, NaN and missing cells stay empty
    columns: in this order; the first names the line
    caption: what the table holds, in words
    formats: column -> format of its numbers, such as "{:.1f}"; other numbers as Python writes them
    """
    formats = formats or {}
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    lines = [[_cell(row.get(name), formats.get(name), name == columns[0]) for name in columns] for row in rows]
    body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return (f'<table class="sortable">\n<caption>{html.escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>")


def duration(seconds: float) -> Cell:
    """Seconds as 40 s, 12 min or 3 h 10 min; sorted by the seconds."""
    if seconds < 90:
        return Cell(f"{seconds:.0f} s", seconds)
    minutes = round(seconds / 60)
    return Cell(f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min", seconds)


def change(values: Sequence[float]) -> Cell:
    """Changes of one number over several runs: their mean with its sign, and in brackets each; sorted by the mean."""
    mean = sum(values) / len(values)
    return Cell(f"{_signed(mean)} ({', '.join(map(_signed, values))})", mean)


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("+0.0", "0.0").replace("-", "\N{MINUS SIGN}")


def _cell(found: Any, form: str | None, names_the_line: bool) -> str:
    shown, value = found if isinstance(found, Cell) else (found, found)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        shown = value = ""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(found, Cell):
        shown = form.format(value) if form and number else str(shown)
    attributes = (' class="number"' if number else "") + (f' data-value="{html.escape(str(value))}"' if number else "")
    tag, scope = ("th", ' scope="row"') if names_the_line else ("td", "")
    return f"<{tag}{scope}{attributes}>{html.escape(str(shown))}</{tag}>"
