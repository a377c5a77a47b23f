/* The front-door simulator: smoking, tar, cancer and a gene, with a slider for the strength of each arrow.

   Everything is computed exactly, from the tables of StructuralModel.smoking in cause_book/frontdoor.py; nothing is drawn at
   random. A setting has a strength for each of that function's arguments, and `seen`, the share of people for whom a test
   of the gene is right: 1 sees the gene, 0.5 is a coin. */
"use strict";

const CHAPTER = { u_t: 1, u_y: 1, t_m: 1, m_y: 1, confounding: 0, bypass: 0, seen: 1 };
const PRESETS = { chapter: {}, confounded: { confounding: 1 }, bypassed: { bypass: 1 }, unconfounded: { u_t: 0 } };
const EDGES = { u_t: "UT", u_y: "UY", t_m: "TM", m_y: "MY", confounding: "UM", bypass: "TY" };
const BINARY = [0, 1];
const GENE = [0.7, 0.3]; // without and with the gene
const AXIS = { from: -30, to: 65, ticks: [-20, 0, 20, 40, 60] }; // percentage points; no setting leaves it
const SAME = 0.0005; // half of the last digit shown: 0.1 percentage points

/** The tables of a setting: smoke[u] = p(T=1|u), tar[u][t] = p(M=1|u,t), cancer(u, t, m) = p(Y=1|u,t,m). */
function tables(s) {
  const plain = [0.5 - 0.4 * s.t_m, 0.5 + 0.4 * s.t_m];
  return {
    smoke: [0.5 - 0.3 * s.u_t, 0.5 + 0.3 * s.u_t],
    tar: [plain, plain.map((p) => p + s.confounding * (0.95 - p))],
    cancer: (u, t, m) => 0.05 + 0.3 * s.u_y * u + 0.1 * s.m_y * (1 + s.u_y * u) * m + 0.3 * s.bypass * t,
  };
}

/** All kinds of people, each with its share p: gene u, what the test says of it w, smoking t, tar m, cancer y. */
function people(s) {
  const { smoke, tar, cancer } = tables(s);
  const of = (yes, value) => (value ? yes : 1 - yes);
  const cells = [];
  for (const u of BINARY) for (const w of BINARY) for (const t of BINARY) for (const m of BINARY) for (const y of BINARY) {
    const p = GENE[u] * of(s.seen, w === u) * of(smoke[u], t) * of(tar[u][t], m) * of(cancer(u, t, m), y);
    cells.push({ u, w, t, m, y, p });
  }
  return cells;
}

/** The three answers and the truth: by how much smoking raises the share of the ill, each in [-1, 1]. */
function effects(s) {
  const cells = people(s);
  const mass = (fixed) => cells.reduce((sum, cell) =>
    sum + (Object.keys(fixed).every((name) => cell[name] === fixed[name]) ? cell.p : 0), 0);
  const share = (what, given = {}) => { // p(what | given)
    const of = mass(given);
    return of > 0 ? mass({ ...given, ...what }) / of : 0;
  };
  const sum = (of) => of(0) + of(1);
  const effect = (answer) => answer(1) - answer(0);
  const { tar, cancer } = tables(s);
  return {
    naive: effect((t) => share({ y: 1 }, { t })),
    backdoor: effect((t) => sum((w) => share({ w }) * share({ y: 1 }, { t, w }))),
    frontdoor: effect((t) => sum((m) => share({ m }, { t }) * sum((other) => share({ t: other }) * share({ y: 1 }, { t: other, m })))),
    // the arrow into smoking is cut, and t is set for everybody
    truth: effect((t) => sum((u) => GENE[u] * ((1 - tar[u][t]) * cancer(u, t, 0) + tar[u][t] * cancer(u, t, 1)))),
  };
}

const round = (value) => (Math.round(1000 * Math.abs(value)) / 10).toFixed(1);
/** A share of people as percentage points with its sign. */
const points = (value) => (round(value) === "0.0" ? "" : value < 0 ? "\u2212" : "+") + round(value);
const percent = (value) => `${Math.round(1000 * value) / 10}\u00a0%`;

/** What each slider has just set, in words: the table behind an arrow. */
function readings(s) {
  const { smoke, tar, cancer } = tables(s);
  const more = (u, t, m, v, q, n) => points(cancer(u, t, m) - cancer(v, q, n));
  return {
    u_t: `${percent(smoke[0])} smoke without the gene, ${percent(smoke[1])} with it`,
    u_y: `the gene: ${more(1, 0, 0, 0, 0, 0)} points of cancer without tar, ${more(1, 0, 1, 0, 0, 1)} with tar`,
    t_m: `tar in ${percent(tar[0][0])} of non-smokers, ${percent(tar[0][1])} of smokers`,
    m_y: `tar: ${more(0, 0, 1, 0, 0, 0)} points of cancer without the gene, ${more(1, 0, 1, 1, 0, 0)} with it`,
    confounding: `with the gene: tar in ${percent(tar[1][0])} of non-smokers, ${percent(tar[1][1])} of smokers`,
    bypass: `smoking: ${more(0, 1, 0, 0, 0, 0)} points of cancer that no tar explains`,
    seen: s.seen === 1 ? "a test that is always right" : s.seen === 0.5 ? "a test that is no better than a coin"
      : `a test that is right for ${percent(s.seen)} of people`,
  };
}

/** "right" or how far off, of an answer. */
function verdict(value, truth) {
  const off = value - truth;
  return Math.abs(off) < SAME ? "right" : `${round(off)} too ${off > 0 ? "high" : "low"}`;
}

/** What is right and what is wrong now, in words. */
function sentence(s, found) {
  const { truth } = found;
  const [naive, backdoor, frontdoor] = ["naive", "backdoor", "frontdoor"].map((name) =>
    verdict(found[name], truth).replace(" too", " points too"));
  const said = [Math.abs(truth) < SAME ? "In this world smoking has no effect on cancer."
    : `In this world smoking raises the share of the ill by ${round(truth)} percentage points.`];
  said.push(naive === "right" ? "Seeing is right: the gene opens no second path from smoking to cancer."
    : `Seeing is ${naive}, for smokers carry the gene ${s.u_t > 0 ? "more" : "less"} often than others.`);
  if (naive !== "right" && Math.abs(found.naive) >= SAME && found.naive < 0) said.push("To it, smoking looks healthy.");
  said.push(backdoor === "right" ? `Back-door adjustment is right${s.seen === 1 ? ": it sees the gene" : ""}.`
    : `Back-door adjustment is ${backdoor}: its test of the gene is right for ${percent(s.seen)} of people only.`);
  const broken = [s.bypass > 0 && "smoking also harms without tar", s.confounding > 0 && "the gene also decides who has tar"];
  const why = broken.filter(Boolean).join(", and ");
  if (frontdoor !== "right") said.push(`Front-door adjustment is ${frontdoor}, because ${why}.`);
  else said.push(why ? `Front-door adjustment is right here, although ${why}.`
    : "Front-door adjustment is right, and has never seen the gene.");
  return said.join(" ");
}

// --- the page ---

const place = (value) => `${(100 * (100 * value - AXIS.from)) / (AXIS.to - AXIS.from)}%`;

/** A mark on a bar's track, from one value to another. */
function mark(track, name, from, to = from) {
  const element = track.querySelector(`.${name}`) || track.appendChild(document.createElement("i"));
  element.className = name;
  element.style.left = place(Math.min(from, to));
  element.style.width = from === to ? "" : `calc(${place(Math.max(from, to))} - ${place(Math.min(from, to))})`;
  element.hidden = name === "off" && Math.abs(from - to) < SAME;
}

/** Draw the bars of all answers, and the truth as a line through them. */
function drawBars(root, found) {
  for (const row of root.querySelectorAll("[data-answer]")) {
    const value = found[row.dataset.answer];
    const track = row.querySelector(".track");
    mark(track, "zero", 0);
    mark(track, "bar", 0, Math.abs(value) < SAME ? 0 : value);
    mark(track, "off", found.truth, value);
    mark(track, "truth", found.truth);
    row.querySelector(".value").textContent = points(value);
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

function start(root) {
  const sliders = Array.from(root.querySelectorAll("input[type=range]"));
  const buttons = Array.from(root.querySelectorAll("button[data-preset]"));

  function show() {
    const s = Object.fromEntries(sliders.map((slider) => [slider.name, slider.valueAsNumber / 100]));
    const found = effects(s);
    Object.assign(root.dataset, found);
    const words = readings(s);
    for (const slider of sliders) {
      root.querySelector(`output[for="${slider.id}"]`).textContent = words[slider.name];
      root.querySelector(`label[for="${slider.id}"] b`).textContent = `${slider.value.replace("-", "\u2212")}\u00a0%`;
      slider.setAttribute("aria-valuetext", words[slider.name]);
    }
    for (const button of buttons) {
      const preset = { ...CHAPTER, ...PRESETS[button.dataset.preset] };
      button.setAttribute("aria-pressed", Object.keys(s).every((name) => s[name] === preset[name]));
    }
    drawBars(root, found);
    drawGraph(root, s);
    root.querySelector(".says").textContent = sentence(s, found);
  }

  for (const slider of sliders) slider.addEventListener("input", show);
  for (const button of buttons) button.addEventListener("click", () => {
    const preset = { ...CHAPTER, ...PRESETS[button.dataset.preset] };
    for (const slider of sliders) slider.value = 100 * preset[slider.name];
    show();
  });
  const axis = root.querySelector(".axis");
  for (const tick of AXIS.ticks) {
    const label = axis.appendChild(document.createElement("span"));
    label.textContent = String(tick).replace("-", "\u2212");
    label.style.left = place(tick / 100);
  }
  show();
}

if (typeof document !== "undefined") document.querySelectorAll(".simulator").forEach(start);
if (typeof module !== "undefined") module.exports = { CHAPTER, effects, sentence };
