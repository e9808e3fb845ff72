// The page "In the browser": a digit is drawn, reduced to 8 x 8 bytes, and read by the network, which is WebAssembly.

const BOX = 32; // the data set's digits were bitmaps of 32 x 32, of which 4 x 4 pixels each were counted

/** The network: 64 bytes of an 8 x 8 image -> its ten logits. */
export async function load(url) {
  const { instance } = await WebAssembly.instantiate(await (await fetch(url)).arrayBuffer());
  const { memory, image, logits, run } = instance.exports;
  return (bytes) => {
    new Uint8Array(memory.buffer, image(), 64).set(bytes);
    run();
    return new Float32Array(memory.buffer, logits(), 10).slice();
  };
}

/** Strokes, lists of [x, y] -> 64 bytes: the drawing fills the box, as the data set's digits do. */
export function reduced(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const pen = 4;
  const scale = (BOX - pen) / Math.max(right - left, bottom - top, 1);
  const canvas = Object.assign(document.createElement('canvas'), { width: BOX, height: BOX });
  const context = canvas.getContext('2d');
  Object.assign(context, { lineWidth: pen, lineCap: 'round', lineJoin: 'round' });
  const at = ([x, y]) => [BOX / 2 + (x - (left + right) / 2) * scale, BOX / 2 + (y - (top + bottom) / 2) * scale];
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...at(stroke[0]));
    for (const point of stroke) context.lineTo(...at(point));
    context.stroke();
  }
  const { data } = context.getImageData(0, 0, BOX, BOX);
  const counts = new Uint8Array(64);
  for (let y = 0; y < BOX; ++y)
    for (let x = 0; x < BOX; ++x) counts[(y >> 2) * 8 + (x >> 2)] += data[4 * (y * BOX + x) + 3] > 127;
  return counts.map((count) => Math.round((count * 255) / 16));
}

/** Mean time of a call in microseconds. */
export function microseconds(network, bytes, calls = 50) {
  const start = performance.now();
  for (let call = 0; call < calls; ++call) network(bytes);
  return (1000 * (performance.now() - start)) / calls;
}

function drawCells(canvas, values, side) {
  const context = canvas.getContext('2d');
  const size = canvas.width / side;
  values.forEach((value, k) => {
    context.fillStyle = `rgb(${value} ${value} ${value})`;
    context.fillRect((k % side) * size, Math.floor(k / side) * size, size, size);
  });
}

/** Makes the page's element alive. */
export async function start(root, base) {
  const network = await load(new URL('digits.wasm', base));
  const filters = await (await fetch(new URL('filters.json', base))).json();
  const find = (name) => root.querySelector(`.${name}`);
  const [pad, seen, answer, bars, clear] = ['pad', 'seen', 'answer', 'bars', 'clear'].map(find);
  for (const filter of filters) {
    const canvas = Object.assign(document.createElement('canvas'), { width: 24, height: 24 });
    drawCells(canvas, filter.map((bit) => 255 * bit), 3);
    find('filters').append(canvas);
  }
  for (let digit = 0; digit < 10; ++digit) bars.insertAdjacentHTML('beforeend', `<div><i></i>${digit}</div>`);

  let strokes = [];
  const context = pad.getContext('2d');
  Object.assign(context, { lineWidth: 18, lineCap: 'round', lineJoin: 'round', strokeStyle: 'white' });
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };
  const read = () => {
    const bytes = reduced(strokes);
    const logits = network(bytes);
    const powers = logits.map((logit) => Math.exp(logit - Math.max(...logits)));
    const total = powers.reduce((sum, power) => sum + power);
    drawCells(seen, [...bytes], 8);
    answer.textContent = `${logits.indexOf(Math.max(...logits))}, in ${microseconds(network, bytes).toFixed(0)} microseconds`;
    [...bars.children].forEach((bar, digit) => (bar.firstChild.style.height = `${(100 * powers[digit]) / total}%`));
  };
  pad.addEventListener('pointerdown', (event) => {
    strokes.push([place(event)]);
    if (event.isTrusted) pad.setPointerCapture(event.pointerId);
  });
  pad.addEventListener('pointermove', (event) => {
    if (!event.buttons || !strokes.length) return;
    const [from, to] = [strokes.at(-1).at(-1), place(event)];
    strokes.at(-1).push(to);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  });
  pad.addEventListener('pointerup', read);
  clear.addEventListener('click', () => {
    strokes = [];
    for (const canvas of [pad, seen]) canvas.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
    answer.textContent = '';
    for (const bar of bars.children) bar.firstChild.style.height = 0;
  });
}
