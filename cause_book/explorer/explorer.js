/* The concept explorer of cause_book/explorer/__init__.py: point at a patch and see its concept, its kin, and Eq. 4 at work.

   Every `.concept-explorer` of the page gets a shadow root, so that no style or name of the page reaches in or out. The
   element itself says what is shown, for tests and for other scripts: data-picture and data-anchor (places, from 0),
   data-book, data-concept (the prototype's number), data-positive, data-ignored, data-negative (patches of the picture),
   data-view, data-segments (how many at this phi+), data-segment (the anchor's, the largest is 0) and data-kept (the patch
   that a click or a key chose; while the mouse points at another, data-anchor is that one). The first explorer of a page
   keeps what its reader has chosen in the page's address. */
(() => {
  "use strict";
  const VIEWS = { relations: "positives and negatives", segments: "segments at this \u03c6\u207a", labels: "labels" };
  const INKS = 8; // colours of segments, before they begin again
  const NAMES = { 1: "positive", 0: "ignored", "-1": "negative" };

  /** Base64 of little-endian int16 as numbers. */
  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  }

  /** D_M of the concepts at places i and j as the data has it, 2 floor(1000 D) + 1 between thousandths. */
  function alike(book, i, j) {
    if (i === j) return 2000;
    const [low, high] = i < j ? [i, j] : [j, i];
    return book.similarity[(high * (high - 1)) / 2 + low];
  }

  /** Eq. 4: 1 positive, 0 ignored, -1 negative; thresholds in hundredths. */
  function relation(similarity, positive, negative) {
    return similarity > 20 * positive ? 1 : similarity < 20 * negative ? -1 : 0;
  }

  /** What every patch of a picture is to the anchor: an array of 1, 0 and -1. The anchor itself gets what its concept gets. */
  function relations(book, patches, anchor, positive, negative) {
    return Array.from(patches, (concept) => relation(alike(book, patches[anchor], concept), positive, negative));
  }

  /** The segment of every patch of a picture: connected components of its concepts, tied where D_M > phi+ (in hundredths).
      They are numbered by their patches, the largest first, ties in the order of their first patches. */
  function segments(book, patches, positive) {
    const concepts = [...new Set(patches)];
    const of = new Map();
    concepts.forEach((start) => {
      if (of.has(start)) return;
      const waiting = [start];
      of.set(start, start);
      while (waiting.length) {
        const at = waiting.pop();
        for (const other of concepts) {
          if (of.has(other) || alike(book, at, other) <= 20 * positive) continue;
          of.set(other, start);
          waiting.push(other);
        }
      }
    });
    const roots = Array.from(patches, (concept) => of.get(concept));
    const sizes = tally(roots);
    const order = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a));
    return roots.map((root) => order.indexOf(root));
  }

  /** How often each value occurs, in the order of first appearance. */
  function tally(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    return counts;
  }

  /** Places of the concepts most like that at place i, the nearest first. */
  function nearest(book, i) {
    const others = book.numbers.map((_, j) => j).filter((j) => j !== i);
    return others.sort((a, b) => alike(book, i, b) - alike(book, i, a)).slice(0, book.nearest);
  }

  /** Where a key leads from a patch, or null if it leads nowhere. */
  function step(key, control, anchor, rows, columns) {
    const [row, column] = [Math.floor(anchor / columns), anchor % columns];
    const at = (r, c) => Math.min(Math.max(r, 0), rows - 1) * columns + Math.min(Math.max(c, 0), columns - 1);
    switch (key) {
      case "ArrowLeft": return at(row, column - 1);
      case "ArrowRight": return at(row, column + 1);
      case "ArrowUp": return at(row - 1, column);
      case "ArrowDown": return at(row + 1, column);
      case "PageUp": return at(0, column);
      case "PageDown": return at(rows - 1, column);
      case "Home": return control ? 0 : at(row, 0);
      case "End": return control ? rows * columns - 1 : at(row, columns - 1);
      default: return null;
    }
  }

  /** The book with its packed numbers as arrays; `first` is where each concept's examples begin on the sheet. */
  function unpack(book) {
    let sum = 0;
    const first = book.examples.map((count) => (sum += count) - count);
    return { ...book, first, patches: book.patches.map(decode), similarity: decode(book.similarity) };
  }

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** Set an attribute if it changes: what is set is drawn again. */
  function put(element, name, value) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }

  const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;
  const shown = (similarity) => (Math.round(similarity / 20) / 100).toFixed(2).replace("-", "\u2212");

  /** A line about a concept: example patches, its number, and what `words` says. */
  function describe(book, i, words) {
    const tiles = Array.from({ length: book.examples[i] }, (_, e) => {
      const at = book.first[i] + e;
      return make("span", { class: "tile", style: `--x: ${at % book.across}; --y: ${Math.floor(at / book.across)}` });
    });
    return [make("span", { class: "tiles", "aria-hidden": "true" }, ...tiles),
      make("span", {}, make("b", {}, `concept ${book.numbers[i]}`), make("br", {}), ...words)];
  }

  /** A fieldset's radio buttons, one for each of `labels`, the first one on. */
  function choose(fieldset, name, labels, act) {
    labels.forEach((children, place) => {
      const input = make("input", { type: "radio", name, value: place });
      input.checked = place === 0;
      input.addEventListener("change", () => act(place));
      fieldset.append(make("label", {}, input, ...children));
    });
    fieldset.hidden = labels.length < 2;
  }

  /** Turn one `.concept-explorer` into what it is named. */
  function explore(root) {
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const [rows, columns] = data.grid;
    const books = data.books.map(unpack);
    const page = root.attachShadow({ mode: "open" });
    page.append(root.querySelector("template").content.cloneNode(true));
    const [board, image, sheet] = [page.querySelector("[role=grid]"), page.querySelector("img"), make("style", {})];
    const sliders = { positive: page.querySelector("[name=positive]"), negative: page.querySelector("[name=negative]") };
    const middle = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    const now = { picture: 0, book: 0, kept: middle, anchor: middle, view: "relations" };
    const labels = data.pictures.map((picture) => (picture.labels ? decode(picture.labels) : null));
    const views = Object.keys(VIEWS).filter((view) => view !== "labels" || labels[0]);
    const mask = page.querySelector(".mask");
    page.append(sheet);

    const cells = Array.from({ length: rows * columns }, (_, x) => make("div", { role: "gridcell", tabindex: -1, "data-patch": x }));
    for (let row = 0; row < rows; row++) board.append(make("div", { role: "row" }, ...cells.slice(row * columns, (row + 1) * columns)));
    board.style.setProperty("--columns", columns);
    image.style.aspectRatio = `${data.size[1]} / ${data.size[0]}`;  // its place is there before it is

    const hundredths = (name) => Math.round(100 * sliders[name].value);

    function paint() {
      const book = books[now.book];
      const patches = book.patches[now.picture];
      const own = patches[now.anchor];
      const found = relations(book, patches, now.anchor, hundredths("positive"), hundredths("negative"));
      const joined = segments(book, patches, hundredths("positive"));
      const count = { positive: 0, ignored: 0, negative: 0, same: 0 };
      cells.forEach((cell, x) => {
        const is = x === now.anchor ? "anchor" : NAMES[found[x]];
        if (is !== "anchor") {
          count[is] += 1;
          count.same += patches[x] === own;
        }
        mark(cell, x, is, joined, patches);
        put(cell, "tabindex", x === now.kept ? 0 : -1);
        put(cell, "aria-selected", is === "anchor");
        const words = now.view === "relations" || is === "anchor" ? is : `segment ${joined[x] + 1}`;
        put(cell, "aria-label", `row ${Math.floor(x / columns) + 1}, column ${(x % columns) + 1}, concept ${book.numbers[patches[x]]}, ${words}${
          now.view === "labels" ? `, ${label(x)}` : ""}`);
      });
      Object.assign(root.dataset, { picture: now.picture, book: book.name, anchor: now.anchor, kept: now.kept, concept: book.numbers[own],
        positive: count.positive, ignored: count.ignored, negative: count.negative, view: now.view,
        segments: new Set(joined).size, segment: joined[now.anchor] });
      page.querySelectorAll("[data-count]").forEach((place) => { place.textContent = count[place.dataset.count]; });
      page.querySelectorAll("output").forEach((place) => {
        place.textContent = Number(place.parentElement.querySelector("input").value).toFixed(2).replace("-", "\u2212");
      });
      page.querySelectorAll("[data-view]").forEach((place) => { place.hidden = place.dataset.view !== now.view; });
      mask.hidden = now.view !== "labels";
      say(book, own, count, joined, patches);
    }

    /** A patch as the view has it. Borders of segments are drawn at the top and the left of a patch. */
    function mark(cell, x, is, joined, patches) {
      const relation = now.view === "relations" || is === "anchor" ? is : null;
      const segment = now.view === "segments" && is !== "anchor" ? joined[x] % INKS : null;
      const cut = [x >= columns && joined[x] !== joined[x - columns] && "top", x % columns && joined[x] !== joined[x - 1] && "left"];
      const own = now.view === "relations" ? patches[x] === patches[now.anchor] : now.view === "segments" && joined[x] === joined[now.anchor];
      for (const [name, value] of [["relation", relation], ["segment", segment],
        ["cut", now.view === "relations" || is === "anchor" ? null : cut.filter(Boolean).join(" ") || null]]) {
        if (value === null) cell.removeAttribute(`data-${name}`); else put(cell, `data-${name}`, value);
      }
      cell.toggleAttribute("data-same", own && is !== "anchor");
    }

    /** The name of the label at the centre of a patch. */
    function label(x) {
      const id = labels[now.picture][x];
      return id < 0 ? "no label" : data.classes[id][0];
    }

    function say(book, own, count, joined, patches) {
      page.querySelector(".summary").textContent = now.view === "relations" ? `Concept ${book.numbers[own]}. Of the ${cells.length - 1} other patches ` +
        `${plural(count.positive, "is", "are")} positive, ${count.ignored} ignored and ${count.negative} negative; ` +
        `${plural(count.same, "is", "are")} of its own concept.` : sayOfSegment(joined, patches);
      page.querySelector(".own").replaceChildren(...describe(book, own,
        [`wins ${plural(book.wins[own], "patch", "patches")} of ${plural(book.pictures, "picture", "pictures")}`]));
      page.querySelector(".nearest").replaceChildren(...nearest(book, own).map((i) => {
        const is = NAMES[relation(alike(book, own, i), hundredths("positive"), hundredths("negative"))];
        return make("li", { class: "concept", "data-concept": book.numbers[i] }, ...describe(book, i,
          [`${shown(alike(book, own, i))} `, make("span", { class: "mark", "data-relation": is }), ` ${is}`]));
      }));
      const most = [...tally(joined)].sort(([a], [b]) => a - b);
      page.querySelector('.legend[data-view="segments"]').replaceChildren(...most.slice(0, INKS).map(([segment, size]) =>
        make("li", {}, make("span", { class: "mark", "data-segment": segment }), `${segment + 1} `, make("b", {}, size))),
      ...(most.length > INKS ? [make("li", {}, `and ${most.length - INKS} smaller, in the same colours again`)] : []));
      if (!labels[now.picture]) return;
      const kinds = [...tally(labels[now.picture])].filter(([id]) => id >= 0).sort((a, b) => b[1] - a[1]);
      page.querySelector('.legend[data-view="labels"]').replaceChildren(...kinds.map(([id, size]) =>
        make("li", {}, make("span", { class: "mark", style: `background: ${data.classes[id][1]}` }), `${data.classes[id][0]} `, make("b", {}, size))));
    }

    /** The anchor's segment in words, and which label most of its patches have. */
    function sayOfSegment(joined, patches) {
      const members = cells.map((_, x) => x).filter((x) => joined[x] === joined[now.anchor]);
      const concepts = new Set(members.map((x) => patches[x])).size;
      const words = `Segment ${joined[now.anchor] + 1} of ${new Set(joined).size}: ${plural(members.length, "patch", "patches")} of ` +
        `${plural(concepts, "concept", "concepts")}.`;
      if (!labels[now.picture]) return words;
      const [[most, size]] = [...tally(members.map(label))].sort((a, b) => b[1] - a[1]);
      return `${words} The anchor's label: ${label(now.anchor)}. Most frequent in the segment: ${most}, ${plural(size, "patch", "patches")}.`;
    }

    function keep(anchor) {
      now.kept = now.anchor = anchor;
      paint();
      remember();
      cells[anchor].focus({ preventScroll: true });
    }

    function point(anchor) {
      if (anchor === now.anchor) return;
      now.anchor = anchor;
      paint();
    }

    function openPicture(picture) {
      now.picture = picture;
      image.src = data.pictures[picture].image;
      if (labels[picture]) mask.src = data.pictures[picture].mask;
      board.setAttribute("aria-label", `Patches of ${data.pictures[picture].name}, ${rows} rows of ${columns}`);
      paint();
    }

    function openBook(book) {
      now.book = book;
      const { sheet: picture, across } = books[book];
      sheet.textContent = `.tile { background-image: url("${picture}"); --across: ${across}; }`;
      ownThresholds();
    }

    function ownThresholds() {
      for (const name of ["positive", "negative"]) sliders[name].value = books[now.book][name];
      paint();
    }

    /** What the reader has chosen, where it is not what the page starts with, by the names that the address has for it. */
    function chosen() {
      const book = books[now.book];
      return Object.entries({ picture: [now.picture, 0], book: [book.name, books[0].name], patch: [now.kept, middle],
        plus: [hundredths("positive"), Math.round(100 * book.positive)], minus: [hundredths("negative"), Math.round(100 * book.negative)],
        view: [now.view, "relations"] }).filter(([, [value, start]]) => value !== start).map(([name, [value]]) => [name, value]);
    }

    const first = document.querySelector(".concept-explorer") === root;
    let writing = null;
    function remember() { // not at once, since browsers refuse many changes a second
      if (!first) return;
      clearTimeout(writing);
      writing = setTimeout(() => {
        const state = chosen();
        try {
          history.replaceState(null, "", state.length ? `#${new URLSearchParams(state)}` : location.pathname + location.search);
        } catch { /* the frame of a notebook has no address of its own */ }
      }, 150);
    }

    /** Takes the state from the address; what it does not name, or names wrongly, is as at the start. */
    function restore() {
      const asked = new URLSearchParams(first ? location.hash.slice(1) : "");
      const number = (name, lowest, highest, otherwise) => {
        const value = asked.get(name);
        return value !== null && /^-?\d+$/.test(value) && value >= lowest && value <= highest ? Number(value) : otherwise;
      };
      now.view = views.includes(asked.get("view")) ? asked.get("view") : "relations";
      now.kept = now.anchor = number("patch", 0, rows * columns - 1, middle);
      openBook(Math.max(books.findIndex(({ name }) => name === asked.get("book")), 0));
      for (const [name, key] of [["positive", "plus"], ["negative", "minus"]]) {
        sliders[name].value = number(key, -100, 100, Math.round(100 * sliders[name].value)) / 100;
      }
      if (hundredths("negative") > hundredths("positive")) ownThresholds();
      openPicture(number("picture", 0, data.pictures.length - 1, 0));
      for (const [name, place] of [["picture", now.picture], ["book", now.book], ["view", views.indexOf(now.view)]]) {
        page.querySelectorAll(`input[name=${name}]`).forEach((input, i) => { input.checked = i === place; });
      }
    }

    const cellOf = (event) => event.target.closest("[data-patch]");
    board.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "touch" && cellOf(event)) point(Number(cellOf(event).dataset.patch));
    });
    board.addEventListener("pointerleave", () => point(now.kept));
    board.addEventListener("click", (event) => { if (cellOf(event)) keep(Number(cellOf(event).dataset.patch)); });
    board.addEventListener("keydown", (event) => {
      const to = step(event.key, event.ctrlKey || event.metaKey, now.kept, rows, columns);
      if (to === null || event.altKey) return;
      event.preventDefault();
      keep(to);
    });
    for (const [moved, other] of [["positive", "negative"], ["negative", "positive"]]) {
      sliders[moved].addEventListener("input", () => {  // phi- is never above phi+: the one takes the other along
        if (hundredths("negative") > hundredths("positive")) sliders[other].value = sliders[moved].value;
        paint();
        remember();
      });
    }
    page.querySelector("button").addEventListener("click", () => { ownThresholds(); remember(); });
    choose(page.querySelector(".pictures"), "picture", data.pictures.map(({ name, image: src }) =>
      [make("img", { src, alt: name, title: name })]), (place) => { openPicture(place); remember(); });
    choose(page.querySelector(".books"), "book", books.map(({ name, alive, prototypes }) =>
      [make("span", {}, name, make("small", {}, ` ${alive} of ${prototypes} in use`))]), (place) => { openBook(place); remember(); });
    choose(page.querySelector(".views"), "view", views.map((view) => [make("span", {}, VIEWS[view])]), (place) => {
      now.view = views[place];
      paint();
      remember();
    });
    if (first) addEventListener("hashchange", () => { if (location.hash.includes("=") || !location.hash) restore(); });
    restore();
    root.dataset.ready = "";
  }

  if (typeof document !== "undefined") document.querySelectorAll(".concept-explorer:not([data-ready])").forEach(explore);
  if (typeof module !== "undefined") module.exports = { decode, alike, relation, relations, nearest, segments, step, unpack };
})();
