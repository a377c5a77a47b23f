/* The front-door simulator: a confounder, a treatment, a mediator and an outcome, with a slider for each arrow.

   The bars are exact: they come from the tables of StructuralModel.smoking in cause_book/frontdoor.py, sharpened as its
   method `sharpened` does. A setting has a strength for each argument of that function; `seen`, the share of people for
   whom a test of the gene is right (0.5 is a coin); and `sharp`, which raises p(m | u, t) to the power 1 / (1 - sharp).
   Error bars are the middle 95 % of the estimates from samples, drawn by a generator with a fixed seed. */
"use strict";

const CHAPTER = { u_t: 1, u_y: 1, t_m: 1, m_y: 1, confounding: 0, bypass: 0, sharp: 0, seen: 1 };
const PRESETS = { chapter: {}, confounded: { confounding: 1 }, bypassed: { bypass: 1 }, sharpened: { sharp: 1 }, unconfounded: { u_t: 0 } };
const EDGES = { u_t: "UT", u_y: "UY", t_m: "TM", m_y: "MY", confounding: "UM", bypass: "TY" };
const ANSWERS = { naive: "seeing", backdoor: "back-door", frontdoor: "front-door" };
const SIZES = [100, 300, 1000, 3000, 10000, Infinity]; // people in a sample, by the slider's position; the last: no sampling
const SAMPLES = 200;
const BINARY = [0, 1];
const GENE = [0.7, 0.3]; // without and with the gene
const AXIS = { from: -30, to: 65, ticks: [-20, 0, 20, 40, 60] }; // percentage points; no exact value leaves it
const SAME = 0.0005; // half of the last digit shown: 0.1 percentage points

/* The two stories. Lower case: the name alone; upper case: as the subject of a sentence. */
const WORDS = {
  smoking: {
    u: "gene", t: "smoking", m: "tar", y: "cancer", people: "people", share: "the share of people with cancer",
    U: "the gene", T: "smoking", M: "tar", Y: "cancer", with_t: "smokers", without_t: "non-smokers", have_t: "smoke",
    nodes: { U: "a gene (hidden)", T: "smoking", M: "tar in the lungs", Y: "lung cancer" },
    pairs: ["non-smokers with tar", "smokers without tar"],
    bypassed: "smoking also harms without tar", confounded: "the gene also decides who has tar", reversed: "To it, smoking looks healthy.",
  },
  cause: {
    u: "confounder", t: "token", m: "concept", y: "group", people: "patches", share: "the share of patches in the group",
    U: "the confounder", T: "the token", M: "the concept", Y: "the group", with_t: "patches with the token",
    without_t: "patches without the token", have_t: "have the token",
    nodes: { U: "what and how to cluster", T: "token", M: "concept", Y: "group" },
    pairs: ["patches with the concept but not the token", "patches with the token but not the concept"],
    bypassed: "the token also acts on the group without the concept", confounded: "the confounder also acts on the concept",
    reversed: "To it, the token speaks against the group.",
  },
};

/** [p(M=0), p(M=1)] raised to the power 1 / (1 - sharp), from p(M=1); at 1 the larger of the two is certain. */
function sharpen(p, sharp) {
  if (sharp === 1) return p > 0.5 ? [0, 1] : [1, 0];
  const raised = (own, other) => 1 / (1 + (other / own) ** (1 / (1 - sharp)));
  return [raised(1 - p, p), raised(p, 1 - p)];
}

/** The tables of a setting: smoke[u] = p(T=1|u), tar[u][t] = [p(M=0|u,t), p(M=1|u,t)], cancer(u, t, m) = p(Y=1|u,t,m). */
function tables(s) {
  const plain = [0.5 - 0.4 * s.t_m, 0.5 + 0.4 * s.t_m];
  return {
    smoke: [0.5 - 0.3 * s.u_t, 0.5 + 0.3 * s.u_t],
    tar: [plain, plain.map((p) => p + s.confounding * (0.95 - p))].map((row) => row.map((p) => sharpen(p, s.sharp))),
    cancer: (u, t, m) => 0.05 + 0.3 * s.u_y * u + 0.1 * s.m_y * (1 + s.u_y * u) * m + 0.3 * s.bypass * t,
  };
}

/** p(w, t, m, y) as 16 numbers, y the fastest: what the test says of the gene, smoking, tar and cancer. */
function observed(s) {
  const { smoke, tar, cancer } = tables(s);
  const of = (yes, value) => (value ? yes : 1 - yes);
  const joint = new Array(16).fill(0);
  for (const u of BINARY) for (const w of BINARY) for (const t of BINARY) for (const m of BINARY) for (const y of BINARY) {
    joint[8 * w + 4 * t + 2 * m + y] += GENE[u] * of(s.seen, w === u) * of(smoke[u], t) * tar[u][t][m] * of(cancer(u, t, m), y);
  }
  return joint;
}

/** The three estimates from p(w, t, m, y), or from counts: by how much T raises the share of Y, each in [-1, 1] or NaN where
    it is undefined. `left`: front-door adjustment where pairs of t and m that do not occur are left out of its sums. */
function estimates(joint) {
  const mass = (w, t, m, y) => { // null: any value
    let sum = 0;
    for (let i = 0; i < 16; i++) {
      if ((w === null || i >> 3 === w) && (t === null || ((i >> 2) & 1) === t) && (m === null || ((i >> 1) & 1) === m) && (y === null || (i & 1) === y)) sum += joint[i];
    }
    return sum;
  };
  const all = mass(null, null, null, null);
  const mean = (weights, values) => { // a value of weight 0 does not count, whatever it is
    const total = weights[0] + weights[1];
    return total > 0 ? BINARY.reduce((sum, i) => (weights[i] > 0 ? sum + weights[i] / total * values[i] : sum), 0) : NaN;
  };
  const share = (w, t, m) => mean([mass(w, t, m, 0), mass(w, t, m, 1)], BINARY); // p(Y=1 | ...)
  const effect = (answer) => answer(1) - answer(0);
  const occurs = BINARY.map((t) => mass(null, t, null, null));
  const tested = BINARY.map((w) => mass(w, null, null, null));
  const byPair = BINARY.map((m) => BINARY.map((t) => share(null, t, m)));
  const inner = byPair.map((shares) => mean(occurs, shares));
  const kept = byPair.map((shares) => mean(occurs.map((p, t) => (Number.isNaN(shares[t]) ? 0 : p)), shares));
  const through = (values) => effect((t) => mean(BINARY.map((m) => mass(null, t, m, null) / all), values));
  return {
    naive: effect((t) => share(null, t, null)),
    backdoor: effect((t) => mean(tested, BINARY.map((w) => share(w, t, null)))),
    frontdoor: through(inner),
    left: through(kept),
  };
}

/** The estimates from the exact probabilities, and the truth. */
function effects(s) {
  const { tar, cancer } = tables(s);
  // the arrow into smoking is cut, and t is set for everybody
  const ill = (t) => BINARY.reduce((sum, u) => sum + GENE[u] * BINARY.reduce((part, m) => part + tar[u][t][m] * cancer(u, t, m), 0), 0);
  return { ...estimates(observed(s)), truth: ill(1) - ill(0) };
}

/** Numbers in [0, 1) from a seed (mulberry32). */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** What SAMPLES samples of `size` people give, for each estimate: {low, high, without}: the ends of the middle 95 %, and in
    how many samples it is undefined; low and high are NaN where that is so in more than half of them. */
function spreads(s, size, seed = 0) {
  const random = generator(seed);
  const bounds = observed(s).reduce((found, p) => [...found, (found.at(-1) ?? 0) + p], []);
  const from = Uint8Array.from({ length: 1024 }, (_, i) => Math.max(bounds.findIndex((bound) => bound > i / 1024), 0)); // where to look first
  const found = Object.fromEntries(Object.keys(ANSWERS).map((name) => [name, []]));
  for (let sample = 0; sample < SAMPLES; sample++) {
    const counts = new Uint32Array(16);
    for (let person = 0; person < size; person++) {
      const at = random();
      let cell = from[Math.floor(1024 * at)];
      while (cell < 15 && at >= bounds[cell]) cell++;
      counts[cell] += 1;
    }
    const got = estimates(counts);
    for (const name of Object.keys(ANSWERS)) if (!Number.isNaN(got[name])) found[name].push(got[name]);
  }
  return Object.fromEntries(Object.entries(found).map(([name, values]) => {
    values.sort((a, b) => a - b);
    const enough = 2 * values.length >= SAMPLES;
    const at = (part) => (enough ? values[Math.round(part * (values.length - 1))] : NaN);
    return [name, { low: at(0.025), high: at(0.975), without: SAMPLES - values.length }];
  }));
}

const round = (value) => (Math.round(1000 * Math.abs(value)) / 10).toFixed(1);
/** A share of people as percentage points with its sign. */
const points = (value) => (round(value) === "0.0" ? "" : value < 0 ? "\u2212" : "+") + round(value);
/** A share in per cent. */
const percent = (value) => (value > 0 && value < 0.0001 ? "under 0.01" : value < 0.001 ? Math.round(10000 * value) / 100
  : Math.round(1000 * value) / 10) + "\u00a0%";

/** What each slider has just set, in words: the table behind an arrow. */
function readings(s, size, words) {
  const { smoke, tar, cancer } = tables(s);
  const { U, T, M, Y } = words;
  const more = (u, t, m, v, q, n) => points(cancer(u, t, m) - cancer(v, q, n));
  const pair = (t, m) => BINARY.reduce((sum, u) => sum + GENE[u] * (t ? smoke[u] : 1 - smoke[u]) * tar[u][t][m], 0);
  return {
    u_t: `${percent(smoke[0])} ${words.have_t} without ${U}, ${percent(smoke[1])} with it`,
    u_y: `${U}: ${more(1, 0, 0, 0, 0, 0)} points of ${Y} without ${M}, ${more(1, 0, 1, 0, 0, 1)} with it`,
    t_m: `${M} in ${percent(tar[0][0][1])} of ${words.without_t}, ${percent(tar[0][1][1])} of ${words.with_t}`,
    m_y: `${M}: ${more(0, 0, 1, 0, 0, 0)} points of ${Y} without ${U}, ${more(1, 0, 1, 1, 0, 0)} with it`,
    confounding: `with ${U}: ${M} in ${percent(tar[1][0][1])} of ${words.without_t}, ${percent(tar[1][1][1])} of ${words.with_t}`,
    bypass: `${T}: ${more(0, 1, 0, 0, 0, 0)} points of ${Y} that ${M} does not explain`,
    sharp: `${percent(pair(0, 1))} are ${words.pairs[0]}, ${percent(pair(1, 0))} ${words.pairs[1]}`,
    seen: s.seen === 1 ? "a test that is always right" : s.seen === 0.5 ? "a test that is no better than a coin"
      : `a test that is right for ${percent(s.seen)} of ${words.people}`,
    size: Number.isFinite(size) ? `error bars: the middle 95\u00a0% of ${SAMPLES} samples` : "no sampling: exact probabilities",
  };
}

/** "right" or how far off, of an answer. */
function verdict(value, truth) {
  const off = value - truth;
  if (Number.isNaN(off)) return "undefined";
  return Math.abs(off) < SAME ? "right" : `${round(off)} too ${off > 0 ? "high" : "low"}`;
}

/** Which pairs of treatment and mediator never occur, in words. */
function missing(s, words) {
  const { tar } = tables(s);
  return words.pairs.filter((_, t) => BINARY.every((u) => tar[u][t][1 - t] === 0)).map((pair) => `no ${pair}`).join(" and ");
}

/** What is right and what is wrong now, in words. */
function sentence(s, found, words = WORDS.smoking) {
  const { truth } = found;
  const { U, T, Y } = words;
  const [naive, backdoor, frontdoor] = Object.keys(ANSWERS).map((name) => verdict(found[name], truth).replace(" too", " points too"));
  const said = [Math.abs(truth) < SAME ? `In this world ${T} has no effect on ${Y}.`
    : `In this world ${T} raises ${words.share} by ${round(truth)} percentage points.`];
  said.push(naive === "right" ? `Seeing is right: ${U} opens no second path from ${T} to ${Y}.`
    : `Seeing is ${naive}, for ${words.with_t} have ${U} ${s.u_t > 0 ? "more" : "less"} often than others.`);
  if (naive !== "right" && Math.abs(found.naive) >= SAME && found.naive < 0) said.push(words.reversed);
  said.push(backdoor === "right" ? `Back-door adjustment is right${s.seen === 1 ? `: it sees ${U}` : ""}.`
    : `Back-door adjustment is ${backdoor}: its test of ${U} is right for ${percent(s.seen)} of ${words.people} only.`);
  const why = [s.bypass > 0 && words.bypassed, s.confounding > 0 && words.confounded].filter(Boolean).join(", and ");
  if (frontdoor === "undefined") {
    said.push(`Front-door adjustment is undefined: there are ${missing(s, words)}.`);
    said.push(Math.abs(found.left - found.naive) < SAME ? "With the undefined terms left out, it equals seeing (open bar)."
      : `With the undefined terms left out, it is ${verdict(found.left, truth).replace(" too", " points too")} (open bar).`);
  } else if (frontdoor !== "right") said.push(`Front-door adjustment is ${frontdoor}, because ${why}.`);
  else said.push(why ? `Front-door adjustment is right here, although ${why}.` : `Front-door adjustment is right, and has never seen ${U}.`);
  return said.join(" ");
}

/** What samples give, in words. */
function scatter(size, spread, words) {
  const ranges = Object.entries(ANSWERS).map(([name, shown]) => {
    const { low, high, without } = spread[name];
    return [Number.isNaN(low) ? shown : `${shown} ${points(low)} to ${points(high)}`, without && `undefined in ${without} samples`].filter(Boolean).join(", ");
  });
  return ` Of ${SAMPLES} samples of ${size.toLocaleString("en")} ${words.people}, the middle 95\u00a0% give: ${ranges.join("; ")}.`;
}

// --- the page ---

/** Where a value stands on the axis; one that leaves it stands at its end. */
const place = (value) => `${Math.min(Math.max((100 * (100 * value - AXIS.from)) / (AXIS.to - AXIS.from), 0), 100)}%`;

/** A mark on a bar's track, from one value to another; none where one is NaN. */
function mark(track, name, from, to = from) {
  const element = track.querySelector(`.${name}`) || track.appendChild(document.createElement("i"));
  element.className = name;
  element.hidden = Number.isNaN(from + to) || (name === "off" && Math.abs(from - to) < SAME);
  if (element.hidden) return;
  element.style.left = place(Math.min(from, to));
  element.style.width = from === to ? "" : `calc(${place(Math.max(from, to))} - ${place(Math.min(from, to))})`;
}

/** Draw the bars of all answers, the truth as a line through them, and error bars where there are samples. */
function drawBars(root, found, spread) {
  for (const row of root.querySelectorAll("[data-answer]")) {
    const name = row.dataset.answer;
    const value = found[name];
    const { low, high, without } = spread?.[name] ?? { low: NaN, high: NaN, without: 0 };
    Object.assign(row.dataset, { low, high, without });
    const track = row.querySelector(".track");
    mark(track, "zero", 0);
    mark(track, "bar", 0, Math.abs(value) < SAME ? 0 : value);
    mark(track, "left", 0, Number.isNaN(value) && name === "frontdoor" ? found.left : NaN);
    mark(track, "off", found.truth, value);
    mark(track, "truth", found.truth);
    mark(track, "spread", low, high);
    row.querySelector(".value").textContent = Number.isNaN(value) ? "\u2013" : points(value);
    row.querySelector(".verdict").textContent = verdict(value, found.truth);
    row.classList.toggle("wrong", verdict(value, found.truth) !== "right");
  }
  const label = root.querySelector(".truth-label");
  label.textContent = `the truth ${points(found.truth)}`;
  label.style.left = place(found.truth);
}

/** Arrows as wide as they are strong; dotted where there is none, dashed and named where one breaks the front door. */
function drawGraph(root, s) {
  for (const [name, edge] of Object.entries(EDGES)) {
    const strength = Math.abs(s[name]);
    for (const group of root.querySelectorAll(`[data-edge="${edge}"]`)) {
      const crossed = group.querySelector(".cross") !== null; // stands for the arrow where it is assumed away
      const breaking = name === "confounding" || name === "bypass";
      group.style.display = breaking && crossed === strength > 0 ? "none" : "";
      group.classList.toggle("gone", !breaking && strength === 0);
      if (!crossed) group.querySelector("path").setAttribute("stroke-width", 1 + 5 * strength);
    }
  }
}

/** The story's words, wherever the page has a place for them. */
function tell(root, words) {
  for (const slot of root.querySelectorAll("[data-word]")) slot.textContent = words[slot.dataset.word];
  for (const [name, caption] of Object.entries(words.nodes)) {
    root.querySelector(`[data-node="${name}"] + text tspan`).textContent = caption;
  }
}

function start(root) {
  const sliders = Array.from(root.querySelectorAll("input[type=range]"));
  const buttons = Array.from(root.querySelectorAll("button[data-preset]"));
  const stories = Array.from(root.querySelectorAll("input[name=words]"));
  const defaults = new Map(sliders.map((slider) => [slider.name, slider.defaultValue]).concat([["words", "smoking"]]));
  let writing = null;

  const story = () => stories.find((input) => input.checked).value;
  const values = () => new Map(sliders.map((slider) => [slider.name, slider.value]).concat([["words", story()]]));

  /** The address gets what differs from the start; not at once, since browsers refuse many changes a second. */
  function remember() {
    clearTimeout(writing);
    writing = setTimeout(() => {
      const changed = [...values()].filter(([name, value]) => value !== defaults.get(name));
      history.replaceState(null, "", changed.length ? `#${new URLSearchParams(changed)}` : location.pathname + location.search);
    }, 150);
  }

  /** Take the state from the address; what it does not name, or names wrongly, is as at the start. */
  function restore() {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const slider of sliders) {
      slider.value = slider.defaultValue;
      const value = asked.get(slider.name);
      if (value !== null && /^-?\d+$/.test(value)) slider.value = value; // the browser keeps it in the slider's range
    }
    const chosen = Object.hasOwn(WORDS, asked.get("words") ?? "") ? asked.get("words") : "smoking";
    for (const input of stories) input.checked = input.value === chosen;
    show();
  }

  function show() {
    const s = Object.fromEntries(sliders.filter(({ name }) => name in CHAPTER).map((slider) => [slider.name, slider.valueAsNumber / 100]));
    const size = SIZES[sliders.find(({ name }) => name === "size").valueAsNumber];
    const words = WORDS[story()];
    const found = effects(s);
    const spread = Number.isFinite(size) ? spreads(s, size) : null;
    const { left, ...answers } = found;
    Object.assign(root.dataset, answers);
    const said = readings(s, size, words);
    for (const slider of sliders) {
      root.querySelector(`output[for="${slider.id}"]`).textContent = said[slider.name];
      root.querySelector(`label[for="${slider.id}"] b`).textContent = slider.name === "size"
        ? (spread ? size.toLocaleString("en") : "\u221e") : `${slider.value.replace("-", "\u2212")}\u00a0%`;
      slider.setAttribute("aria-valuetext", slider.name === "size" && spread ? `${size} ${words.people}, ${said.size}` : said[slider.name]);
    }
    for (const button of buttons) {
      const preset = { ...CHAPTER, ...PRESETS[button.dataset.preset] };
      button.setAttribute("aria-pressed", Object.keys(s).every((name) => s[name] === preset[name]));
    }
    tell(root, words);
    drawBars(root, found, spread);
    drawGraph(root, s);
    root.querySelector(".says").textContent = sentence(s, found, words) + (spread ? scatter(size, spread, words) : "");
  }

  const changed = () => { show(); remember(); };
  for (const input of [...sliders, ...stories]) input.addEventListener("input", changed);
  for (const button of buttons) button.addEventListener("click", () => {
    const preset = { ...CHAPTER, ...PRESETS[button.dataset.preset] };
    for (const slider of sliders) if (slider.name in preset) slider.value = 100 * preset[slider.name];
    changed();
  });
  addEventListener("hashchange", () => { if (location.hash.includes("=") || !location.hash) restore(); });
  const axis = root.querySelector(".axis");
  for (const tick of AXIS.ticks) {
    const label = axis.appendChild(document.createElement("span"));
    label.textContent = String(tick).replace("-", "\u2212");
    label.style.left = place(tick / 100);
  }
  restore();
}

if (typeof document !== "undefined") document.querySelectorAll(".simulator").forEach(start);
if (typeof module !== "undefined") module.exports = { CHAPTER, SIZES, effects, estimates, observed, sentence, spreads };
