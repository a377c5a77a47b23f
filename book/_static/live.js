/* The live page: the reader arranges a scene, and a network in a thread of its own (live-worker.js) says what is where.

   Nothing is loaded before the button is pressed. State: { weather, things: { name: [x, y, size in per cent] }, picture,
   readout: which of the two masks }; each change draws the scene, of SIZE x SIZE pixels, and sends its bytes to the network, one frame at a time. */
"use strict";

const STATIC = new URL(".", document.currentScript.src);
const FILES = new URL("live/", STATIC);
const SIZES = { from: 50, to: 140, step: 10 }; // per cent
const REST = 500; // milliseconds without a change, after which words and address follow
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** The network, as functions that ask it. */
function network() {
  const worker = new Worker(new URL("live-worker.js", STATIC));
  return (message, hand = []) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
    worker.onerror = (event) => reject(new Error(event.message || "The browser does not start the network."));
    worker.postMessage(message, hand);
  });
}

function canvasOf(side) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** Draws one thing or layer of the atlas. */
function drawPiece(on, { atlas, about, state }, name, [x, y, size] = [0, 0, 100]) {
  const [left, top, wide, high, dx, dy] = about.scene.pieces[state.weather][name];
  const scale = size / 100;
  on.imageSmoothingEnabled = false; // as the generator draws: a pixel is one thing
  on.drawImage(atlas, left, top, wide, high, Math.round(x - dx * scale), Math.round(y - dy * scale), Math.round(wide * scale), Math.round(high * scale));
}

/** Draws the scene or the reader's picture on `scene`; fills `owner` (s * s), 0 or the number of the thing at a pixel. */
function drawScene(live) {
  const { scene, scratch, owner, state, about: { scene: { size } } } = live;
  owner.fill(0);
  if (state.picture) {
    const { width, height } = state.picture, side = Math.min(width, height);
    Object.assign(scene, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
    scene.drawImage(state.picture, (width - side) / 2, (height - side) / 2, side, side, 0, 0, size, size);
    return;
  }
  drawPiece(scene, live, "backdrop");
  const names = Object.keys(state.things);
  for (const name of [...names].sort((a, b) => state.things[a][1] - state.things[b][1])) { // from far to near
    drawPiece(scene, live, name, state.things[name]);
    scratch.clearRect(0, 0, size, size);
    drawPiece(scratch, live, name, state.things[name]);
    const { data } = scratch.getImageData(0, 0, size, size);
    for (let i = 0; i < owner.length; i++) if (data[4 * i + 3] === 255) owner[i] = 1 + names.indexOf(name); // no shadow
  }
  drawPiece(scene, live, "fall");
}

/** Paints colours, three bytes each, on a canvas of as many pixels a side. */
function paint(context, count, color) {
  const side = Math.sqrt(count), image = new ImageData(side, side);
  for (let i = 0; i < count; i++) image.data.set([...color(i), 255], 4 * i);
  context.canvas.width = context.canvas.height = side;
  context.putImageData(image, 0, 0);
}

/** The mask (s * s) of the chosen read-out. */
function maskOf({ found, owner, state }) {
  return found.masks.subarray(state.readout * owner.length, (state.readout + 1) * owner.length);
}

/** Shares of the mask's classes, and of each thing the class that most of its pixels have. */
function counted(live) {
  const { about, owner, state } = live, mask = maskOf(live), names = Object.keys(state.things), classes = about.classes.length;
  const counts = Array.from({ length: names.length + 1 }, () => new Array(classes).fill(0));
  mask.forEach((id, i) => counts[owner[i]][id]++);
  const all = about.classes.map((_, id) => counts.reduce((sum, count) => sum + count[id], 0) / mask.length);
  const things = state.picture ? [] : names.map((name, i) => {
    const count = counts[i + 1], seen = count.reduce((sum, n) => sum + n, 0), most = count.indexOf(Math.max(...count));
    return { name, seen, own: count[about.classes.indexOf(name)] / seen, most: about.classes[most], share: count[most] / seen };
  });
  return { all, things };
}

/** What a screen reader says once the reader rests. */
function sentence(live) {
  const { all, things } = counted(live);
  const present = all.map((share, id) => [share, live.about.classes[id]]).filter(([share]) => share >= 0.01).sort((a, b) => b[0] - a[0]);
  const said = things.filter(({ seen }) => seen).map(({ name, own, most, share }) => `${name} ${percent(own)}` +
    (most === name ? "" : ` (most of it, ${percent(share)}, is in the class ${most})`));
  return (said.length ? `Pixels that are in the class of their thing: ${said.join("; ")}. `
    : `Classes: ${present.map(([share, name]) => `${name} ${percent(share)}`).join(", ")}. `) +
    `${new Set(live.found.concepts).size} concepts. ${Math.round(live.found.ms)} ms a frame.`;
}

function showFound(live) {
  const { root, about, found, panels } = live, mask = maskOf(live);
  const concept = (k) => [0, 2, 4].map((place) => parseInt(about.concept_colors.substr(6 * k + place, 2), 16));
  paint(panels.colors, found.colors.length / 3, (i) => found.colors.subarray(3 * i, 3 * i + 3));
  paint(panels.concepts, found.concepts.length, (i) => concept(found.concepts[i]));
  paint(panels.mask, mask.length, (i) => about.colors[mask[i]]);
  root.querySelector(".count").textContent = new Set(found.concepts).size;
  root.querySelector(".found").replaceChildren(...counted(live).all.map((share, id) => [share, id]).filter(([share]) => share > 0)
    .sort((a, b) => b[0] - a[0]).map(([share, id]) => {
      const [line, swatch] = ["li", "i"].map((tag) => document.createElement(tag));
      swatch.style.background = `rgb(${about.colors[id].join(" ")})`;
      line.append(swatch, `${about.classes[id]} ${share < 0.005 ? "under 1\u00a0%" : percent(share)}`);
      return line;
    }));
  const { name, miou } = about.readouts[live.state.readout];
  root.querySelector(".readout").textContent = `${name}; mIoU ${miou} on the test scenes`;
}

/** The scene in the page's address: #weather=snow&car=104,116,100 */
function toHash({ state }) {
  const words = new URLSearchParams({ weather: state.weather, ...state.things });
  history.replaceState(null, "", state.picture ? location.pathname : `#${words.toString().replaceAll("%2C", ",")}`);
}

function fromHash(about) {
  const words = new URLSearchParams(location.hash.slice(1)), { size, weathers, things } = about.scene;
  const place = (name) => {
    const given = (words.get(name) || "").split(",").map(Number);
    const good = given.length === 3 && given.every(Number.isFinite);
    const [x, y, scale] = good ? given : [...things[name], 100];
    return [clamp(x, 0, size), clamp(y, 0, size), clamp(scale, SIZES.from, SIZES.to)];
  };
  return { weather: weathers.includes(words.get("weather")) ? words.get("weather") : weathers[0], picture: null, readout: 0,
           things: Object.fromEntries(Object.keys(things).map((name) => [name, place(name)])) };
}

/** Loads what is needed: { about, atlas, ask }. */
async function loaded() {
  const get = async (name) => {
    const response = await fetch(new URL(name, FILES));
    if (!response.ok) throw new Error(`${name} is not there (${response.status}).`);
    return response;
  };
  const ask = network();
  const [about, atlas] = await Promise.all([get("live.json").then((file) => file.json()),
    get("scene.png").then((file) => file.blob()).then((blob) => createImageBitmap(blob)),
    ask({ load: { runtime: new URL("onnxruntime/", STATIC).href, model: new URL("model.onnx", FILES).href } })]);
  return { about, atlas, ask };
}

function controls(live, changed) {
  const { root, about, state } = live, slider = root.querySelector(".size input");
  const buttons = (place, names, press) => root.querySelector(place).append(...names.map((name) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name, onclick: () => press(name) });
    return button;
  }));
  const pressed = (place, name) => root.querySelectorAll(`${place} button`).forEach((button) =>
    button.setAttribute("aria-pressed", button.textContent === name));
  const show = () => {
    pressed(".weathers", state.picture ? "" : state.weather);
    pressed(".things", live.held);
    pressed(".readouts", about.readouts[state.readout].name);
    slider.value = state.things[live.held][2];
    slider.setAttribute("aria-valuetext", `${live.held} ${slider.value} per cent`);
    root.querySelector(".size output").textContent = `${slider.value}\u00a0%`;
    changed();
  };
  const change = (next) => { Object.assign(live, next); state.picture = null; show(); };
  buttons(".weathers", about.scene.weathers, (weather) => { state.weather = weather; change({}); });
  buttons(".things", Object.keys(state.things), (held) => change({ held }));
  buttons(".readouts", about.readouts.map(({ name }) => name), (name) => {
    state.readout = about.readouts.findIndex((readout) => readout.name === name);
    show();
  });
  live.move = (x, y) => {
    const place = state.things[live.held], { size } = about.scene;
    [place[0], place[1]] = [clamp(Math.round(x), 0, size), clamp(Math.round(y), 0, size)];
    change({});
  };
  live.resize = (size) => { state.things[live.held][2] = clamp(size, SIZES.from, SIZES.to); change({}); };
  live.show = show;
  slider.oninput = () => live.resize(slider.valueAsNumber);
  root.querySelector(".again").onclick = () => {
    for (const [name, place] of Object.entries(about.scene.things)) state.things[name] = [...place, 100];
    state.weather = about.scene.weathers[0];
    change({});
  };
}

/** Mouse, finger and keys on the scene. */
function hands(live) {
  const { scene: { canvas }, state, owner, about: { scene: { size } } } = live;
  let grip = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size];
  };
  canvas.onpointerdown = (event) => {
    const [x, y] = at(event), near = [0, -4, 4, -8, 8]; // a finger is wide
    const hits = near.flatMap((dy) => near.map((dx) => [Math.round(x + dx), Math.round(y + dy)]))
      .filter(([i, j]) => i >= 0 && i < size && j >= 0 && j < size).map(([i, j]) => owner[j * size + i]).filter(Boolean);
    if (state.picture || !hits.length) return;
    live.held = Object.keys(state.things)[(owner[Math.floor(y) * size + Math.floor(x)] || hits[0]) - 1];
    grip = [state.things[live.held][0] - x, state.things[live.held][1] - y];
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("held");
    live.show();
  };
  canvas.onpointermove = (event) => {
    if (!grip) return;
    const [x, y] = at(event);
    live.move(x + grip[0], y + grip[1]);
  };
  canvas.onpointerup = canvas.onpointercancel = () => { grip = null; canvas.classList.remove("held"); };
  live.root.querySelector(".run").addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.altKey || event.metaKey) return;
    const [x, y, scale] = state.things[live.held], [dx, dy] = MOVES[event.key] || [0, 0], far = event.shiftKey ? 10 : 2;
    if (dx || dy) live.move(x + far * dx, y + far * dy);
    else if (event.key === "+" || event.key === "-") live.resize(scale + (event.key === "+" ? SIZES.step : -SIZES.step));
    else return;
    event.preventDefault();
  });
}

/** The reader's own picture, chosen or dropped. */
function ownPicture(live, says) {
  const { root, state } = live, input = root.querySelector(".file input");
  const take = async (file) => {
    if (!file) return;
    try {
      state.picture = await createImageBitmap(file);
      live.show();
    } catch {
      says(`${file.name} is not a picture that this browser can read: choose a JPEG, PNG or WebP file.`);
    }
  };
  input.onchange = () => { take(input.files[0]); input.value = ""; };
  for (const kind of ["dragover", "dragleave", "drop"]) root.addEventListener(kind, (event) => {
    event.preventDefault();
    root.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}

async function start(root) {
  const says = (text) => { root.querySelector(".says").textContent = text; };
  const begin = root.querySelector(".begin");
  begin.disabled = true;
  says("Loading \u2026");
  let live;
  try {
    live = { root, ...await loaded() };
  } catch (error) {
    begin.disabled = false;
    return says(location.protocol === "file:" ? "Browsers load this page's network from a server only: run \u201cpython -m http.server\u201d in the " +
      "folder of the book, and open the address that it says." : `The network could not be loaded (${error.message}): try again, or another browser.`);
  }
  const { size } = live.about.scene, context = (name) => root.querySelector(`canvas.${name}`).getContext("2d", { willReadFrequently: true });
  Object.assign(live, { scene: context("scene"), scratch: canvasOf(size), owner: new Uint8Array(size * size), state: fromHash(live.about),
    panels: Object.fromEntries(["colors", "concepts", "mask"].map((name) => [name, context(name)])) });
  live.held = Object.keys(live.state.things)[1];
  live.scene.canvas.width = live.scene.canvas.height = size;
  let busy = false, stale = false, resting = 0;

  async function frame() {
    if (busy) { stale = true; return; }
    busy = true;
    try {
      do {
        stale = false;
        live.pixels = new Uint8Array(live.scene.getImageData(0, 0, size, size).data.buffer);
        live.found = await live.ask({ pixels: live.pixels });
        showFound(live);
        Object.assign(root.dataset, { ms: live.found.ms.toFixed(0), frame: Number(root.dataset.frame || 0) + 1 });
      } while (stale);
    } catch (error) {
      says(`The network stopped (${error.message}): load the page again.`);
      return;
    }
    busy = false;
    clearTimeout(resting);
    resting = setTimeout(() => { says(sentence(live)); toHash(live); root.dataset.rested = root.dataset.frame; }, REST);
  }

  controls(live, () => { drawScene(live); clearTimeout(resting); frame(); });
  hands(live);
  ownPicture(live, says);
  root.live = live; // for tests
  root.querySelector(".run").hidden = false;
  root.querySelector(".waits").hidden = true;
  live.show();
}

document.querySelectorAll(".live").forEach((root) => { root.querySelector(".begin").onclick = () => start(root); });
