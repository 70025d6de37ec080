// node wasm_check.js vad: runs vad.wasm on the input in vad_check.c, as a page would, and compares what it gives.
const fs = require("fs");

const name = process.argv[2];
const text = fs.readFileSync(`${name}_check.c`, "utf8");
const header = fs.readFileSync(`${name}.h`, "utf8");
const numbers = (what) => text.split(`${what}[`)[1].split("{")[1].split("}")[0].split(",").map(parseFloat);
const size = (macro) => Number(header.match(new RegExp(`#define \\w+_${macro} \\((\\d+)\\)`))[1]);
const [given, expected] = [numbers("x"), numbers("expected")];
const allowed = parseFloat(text.match(/allowed = ([^f]+)f/)[1]);
const stateBytes = 4 * [...header.matchAll(/float \w+\[(\d+)\]/g)].reduce((sum, m) => sum + Number(m[1]), 0);
const whole = header.includes("int32_t *x");
const [inputs, outputs] = [size("INPUTS"), size("OUTPUTS")];
const steps = given.length / inputs;

WebAssembly.instantiate(fs.readFileSync(`${name}.wasm`)).then(({ instance }) => {
  const { memory, __heap_base, [`${name}_reset`]: reset, [`${name}_step`]: step, [`${name}_run`]: run } = instance.exports;
  const state = __heap_base.value;
  const x = state + stateBytes;
  const y = x + 4 * given.length;
  memory.grow(Math.ceil((y + 4 * expected.length) / 65536));
  const Numbers = whole ? Int32Array : Float32Array;
  new Numbers(memory.buffer, x, given.length).set(given);
  reset(state);
  for (let t = 0; t < 5; t++) step(state, x + 4 * inputs * t, y + 4 * outputs * t);
  run(state, steps - 5, x + 4 * inputs * 5, y + 4 * outputs * 5);
  const found = new Float32Array(memory.buffer, y, expected.length);
  const largest = Math.max(...expected.map(Math.abs));
  const off = Math.max(...expected.map((value, k) => Math.abs(found[k] - value)));
  console.log(`an error of ${off} where ${allowed * largest} is allowed`);
  process.exit(off <= allowed * largest ? 0 : 1);
});
