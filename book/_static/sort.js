/* Tables of class "sortable" are sorted by a click on a column's head, or Enter or space on it: upwards, then downwards.

   A cell is sorted by its data-value, a number, or else by its text; what is empty stays at the end either way, and lines
   that are equal keep their order. The heads become buttons, so the keyboard and screen readers know them; aria-sort says
   which column rules. */
"use strict";

/** Number or text that a cell is sorted by; null where it is empty. */
function valueOf(text, data) {
  if (data !== undefined && data !== null && data !== "" && !Number.isNaN(Number(data))) return Number(data);
  const trimmed = text.trim();
  return trimmed === "" ? null : trimmed;
}

/** Places of `values` in sorted order; equal ones keep their order, null comes last, numbers before text. */
function order(values, descending) {
  const places = values.map((_, place) => place);
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
  };
  return places.sort((i, j) => {
    const [a, b] = [values[i], values[j]];
    if (a === null || b === null) return (a === null) - (b === null) || i - j;
    return (descending ? compare(b, a) : compare(a, b)) || i - j;
  });
}

/** Sort a table's body by one of its columns. */
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const values = rows.map((row) => valueOf(row.cells[column].textContent, row.cells[column].dataset.value));
  for (const place of order(values, descending)) body.append(rows[place]);
}

/** Turn the heads of a table into buttons that sort it. */
function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

if (typeof document !== "undefined") {
  const start = () => document.querySelectorAll("table.sortable").forEach(makeSortable);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
}
if (typeof module !== "undefined") module.exports = { valueOf, order, makeSortable };
