"""Tables that can be sorted: what stands in the HTML, and the order that the page's script puts lines into."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from cause_book.tables import Cell, change, duration, sortable

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book/_static/sort.js"


class Cells(HTMLParser):
    """For each line its cells: (tag, attributes, text)."""

    def __init__(self, text):
        super().__init__()
        self.lines, self.open = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.open = (tag, dict(attributes), [])
            self.lines[-1].append(self.open)

    def handle_endtag(self, tag):
        self.open = None if tag in ("td", "th") else self.open

    def handle_data(self, data):
        if self.open:
            self.open[2].append(data)


def in_node(code: str):
    """What `code` says in Node about the script's functions, or None where there is no Node."""
    if (node := shutil.which("node")) is None:
        return None
    program = f"const sort = require({json.dumps(str(SCRIPT))}); {code}"
    return json.loads(subprocess.run([node, "-e", program], check=True, text=True, capture_output=True).stdout)


def test_a_table_says_what_it_is_and_escapes_what_it_shows():
    rows = [{"name": "<b> & co", "score": 12.345, "took": duration(4000)}, {"name": "none", "score": None},
            {"name": "nan", "score": float("nan"), "took": ""}]
    text = sortable(rows, ["name", "score", "took"], caption="a < b", formats={"score": "{:.1f}"})
    assert text.startswith('<table class="sortable">') and "<caption>a &lt; b</caption>" in text
    head, *lines = Cells(text).lines
    assert [(tag, attributes["scope"], "".join(words)) for tag, attributes, words in head] == [
        ("th", "col", "name"), ("th", "col", "score"), ("th", "col", "took")]
    assert [["".join(words) for *_, words in line] for line in lines] == [
        ["<b> & co", "12.3", "1 h 07 min"], ["none", "", ""], ["nan", "", ""]]
    assert [line[0][1] for line in lines] == [{"scope": "row"}] * 3
    assert lines[0][1][1] == {"class": "number", "data-value": "12.345"}
    assert lines[0][2][1] == {"class": "number", "data-value": "4000"}
    assert lines[1][1][1] == lines[2][1][1] == {}


@pytest.mark.parametrize("seconds, said", [(0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (3569, "59 min"),
                                           (3571, "1 h 00 min"), (11400, "3 h 10 min")])
def test_durations(seconds, said):
    assert duration(seconds) == Cell(said, seconds)


def test_changes_have_their_sign():
    assert change([1.0, -2.06, 0.04]) == Cell("−0.3 (+1.0, −2.1, 0.0)", pytest.approx(-0.34))
    assert change([-0.01]).shown == "0.0 (0.0)" and change([10.0]).shown == "+10.0 (+10.0)"


def test_the_book_loads_the_script():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    assert SCRIPT.name in config["html_js_files"] and config["html_static_path"] == ["book/_static"]
    assert re.search(r"addEventListener\(\"click\"", SCRIPT.read_text()) and "aria-sort" in SCRIPT.read_text()


@pytest.mark.parametrize("values, up, down", [
    ([3, 1, 2], [1, 2, 0], [0, 2, 1]),
    ([None, 2, None, 10], [1, 3, 0, 2], [3, 1, 0, 2]),  # what is empty stays at the end
    ([1, 1, 0, 1], [2, 0, 1, 3], [0, 1, 3, 2]),  # equal ones keep their order
    (["ViT-S/16", "ViT-S/8", "iBOT"], [2, 1, 0], [0, 1, 2]),  # digits as numbers, whatever the case
    ([5, "b", 3, "a"], [2, 0, 3, 1], [1, 3, 0, 2]),
    ([], [], []),
])
def test_order_of_lines(values, up, down):
    said = in_node(f"const v = {json.dumps(values)}; "
                   "console.log(JSON.stringify([sort.order(v, false), sort.order(v, true)]))")
    assert said in (None, [up, down])


def test_value_of_a_cell():
    said = in_node('console.log(JSON.stringify([["1 h", "3600"], [" text ", undefined], ["", undefined], ["0.0", "0"], '
                   '["x", ""]].map((cell) => sort.valueOf(...cell))))')
    assert said in (None, [3600, "text", None, 0, "x"])


# A document of a few lines: enough to press a head and to read the body.
DOCUMENT = """
class Node_ {
  constructor(text = "") {
    Object.assign(this, { text, children: [], attributes: {}, listeners: {}, dataset: {} });
  }
  get childNodes() { return [...this.children]; }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }
  append(...nodes) {
    for (const node of nodes) {
      if (node.parent) node.parent.children = node.parent.children.filter((child) => child !== node);
      node.parent = this; this.children.push(node);
    }
  }
  addEventListener(name, what) { this.listeners[name] = what; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setAttribute(name, value) { this.attributes[name] = value; }
  removeAttribute(name) { delete this.attributes[name]; }
}
const parent = (...children) => { const node = new Node_(); node.append(...children); return node; };
globalThis.document = undefined;
const make = (heads, rows) => {
  const cellsOf = (texts) => {
    const row = parent(...texts.map((text) => parent(new Node_(text))));
    row.cells = row.children;
    return row;
  };
  const head = cellsOf(heads), body = parent(...rows.map(cellsOf));
  Object.defineProperty(body, "rows", { get() { return this.children; } });
  return { tHead: { rows: [head] }, tBodies: [body] };
};
"""


def test_pressing_a_head_sorts_and_pressing_it_again_turns_round():
    said = in_node(DOCUMENT + """
      globalThis.document = { createElement: () => new Node_() };
      const table = make(["name", "score"], [["b", "2"], ["a", ""], ["c", "10"]]);
      for (const row of table.tBodies[0].children) row.cells[1].dataset.value = row.cells[1].textContent;
      sort.makeSortable(table);
      const heads = table.tHead.rows[0].cells, seen = [];
      const press = (column) => {
        heads[column].children[0].listeners.click();
        seen.push([table.tBodies[0].children.map((row) => row.cells[0].textContent).join(""),
                   heads.map((head) => head.getAttribute("aria-sort"))]);
      };
      press(1); press(1); press(0); press(1);
      console.log(JSON.stringify([heads.map((head) => head.textContent), seen]));
    """)
    assert said in (None, [["name", "score"], [
        ["bca", [None, "ascending"]], ["cba", [None, "descending"]], ["abc", ["ascending", None]],
        ["bca", [None, "ascending"]]]])
