/* The network of the live page, in a thread of its own: {load: folders} -> {ready} ; {pixels} -> {colors, concepts, masks, ms}.

   ONNX Runtime Web runs here with one thread: more need headers (cross-origin isolation) that static hosting does not send. */
"use strict";

const SIDE = 160, WARM = 3; // pixels; frames before the first that is shown
let session = null;

/** A file that is packed by gzip, unpacked. */
async function unpacked(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} is not there (${response.status}).`);
  return new Response(response.body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function load({ runtime, model }) {
  const [ort, wasmBinary] = await Promise.all([import(new URL("ort.js", runtime)), unpacked(new URL("ort.wasm.gz", runtime))]);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary });
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  session.tensor = (pixels) => new ort.Tensor("uint8", pixels, [SIDE, SIDE, 4]);
  for (let i = 0; i < WARM; i++) await run(new Uint8Array(4 * SIDE * SIDE)); // the browser compiles what runs often once more
}

async function run(pixels) {
  const began = performance.now();
  const found = await session.run({ pixels: session.tensor(pixels) });
  const [colors, concepts, masks] = ["colors", "concepts", "masks"].map((name) => found[name].data);
  return { colors, concepts, masks, ms: performance.now() - began };
}

self.onmessage = async ({ data }) => {
  try {
    if (data.load) self.postMessage((await load(data.load), { ready: true }));
    else self.postMessage(await run(data.pixels));
  } catch (error) {
    self.postMessage({ error: String(error.message || error) });
  }
};
