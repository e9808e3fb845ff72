"""The page "In the browser" in a headless Chromium: logits of all digits to the bit, and digits that are drawn.

Command: make browser, which builds the page's files first. `make debian-packages` installs clang, lld and chromium.
"""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from bnn_jax import runtime
from bnn_jax.data.preprocessing import Preprocessing
from bnn_jax.inference import preprocessing_of

DOCS = Path(__file__).parents[2] / 'docs'
PAGE = DOCS / 'browser.md'
NETWORK = DOCS / 'browser' / 'digits.safetensors'
FILES = ['digits.wasm', 'digits.js', 'filters.json']
LARGEST = 200_000

# Drawn with a pointer, in pixels of the pad: a 0, a 1 and a 7.
ANGLES = np.linspace(0, 2 * np.pi, 40)
DRAWN = {
    0: [np.stack([128 + 60 * np.sin(ANGLES), 128 - 90 * np.cos(ANGLES)], 1)],
    1: [np.array([[100, 70], [135, 35], [135, 220]])],
    7: [np.array([[70, 45], [185, 45], [110, 220]]), np.array([[80, 125], [175, 125]])],
}

SCRIPT = """
import { load, start } from './digits.js';
const report = {};
try {
  const network = await load('digits.wasm');
  const images = await (await fetch('images.json')).json();
  report.logits = images.map((image) => [...new Uint32Array(network(image).buffer)]);
  await start(document.getElementById('digits'), document.baseURI);
  const [pad, answer, clear] = ['pad', 'answer', 'clear'].map((name) => document.querySelector(`#digits .${name}`));
  const box = pad.getBoundingClientRect();
  const send = (kind, [x, y], buttons) =>
    pad.dispatchEvent(new PointerEvent(kind, { clientX: box.left + x, clientY: box.top + y, buttons, bubbles: true }));
  report.answers = DRAWN.map((strokes) => {
    clear.click();
    for (const stroke of strokes) {
      send('pointerdown', stroke[0], 1);
      for (const point of stroke) send('pointermove', point, 1);
      send('pointerup', stroke.at(-1), 0);
    }
    return answer.textContent;
  });
  report.filters = document.querySelectorAll('#digits .filters canvas').length;
} catch (error) { report.error = String(error); }
document.body.innerHTML = '<pre></pre>';
document.body.firstChild.textContent = JSON.stringify(report);
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, *_):
        pass


def report_of(folder: Path) -> dict:
    """What the page of a folder writes about itself."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync']
    flags += ['--disable-background-networking', '--disable-component-update', '--virtual-time-budget=60000']
    with tempfile.TemporaryDirectory() as profile:
        command = ['chromium', *flags, f'--user-data-dir={profile}', '--dump-dom']
        address = f'http://127.0.0.1:{server.server_port}/index.html'
        page = subprocess.run([*command, address], check=True, capture_output=True, text=True, timeout=300).stdout
    server.shutdown()
    found = re.search(r'<pre>(\{.*?)</pre>', page, re.S)
    if found is None:
        sys.exit(f'The page did not finish: {page[:1000]}')
    return json.loads(found[1])


def main() -> None:
    """Compares what the browser computes with the runtime."""
    if shutil.which('chromium') is None:
        sys.exit('chromium: not found; on Debian, as root: make debian-packages')
    images = (load_digits().images * 15.9375).astype(np.uint8)[..., None]
    described = preprocessing_of(NETWORK)
    assert described is not None
    normalization = Preprocessing.of(described).normalization
    expected = runtime.load(NETWORK)(np.stack([normalization(image) for image in images]))
    markup = re.search(r'<div id="digits".*?\n</div>\n(?=<script)', PAGE.read_text(), re.S)
    style = re.search(r'<style>.*?</style>', PAGE.read_text(), re.S)
    assert markup is not None and style is not None
    drawn = json.dumps([[stroke.tolist() for stroke in strokes] for strokes in DRAWN.values()])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in FILES:
            shutil.copy(DOCS / 'browser' / file, folder)
        (folder / 'images.json').write_text(json.dumps(images.reshape(len(images), 64).tolist()))
        script = SCRIPT.replace('DRAWN', drawn)
        page = f'<meta charset="utf-8">{style[0]}{markup[0]}<script type="module">{script}</script>'
        (folder / 'index.html').write_text(page)
        report = report_of(folder)
    if 'error' in report:
        sys.exit(f'The page failed: {report["error"]}')
    wrong = int(np.sum(np.array(report['logits'], np.uint32) != expected.view(np.uint32)))
    answers = [int(answer.partition(',')[0]) for answer in report['answers']]
    size = sum((DOCS / 'browser' / file).stat().st_size for file in FILES) + len(markup[0]) + len(style[0])
    print(f'{len(images)} digits, {expected.size} logits, {wrong} differ from the runtime')
    print(f'drawn {list(DRAWN)}: read {answers}; "{report["answers"][0]}"; {report["filters"]} filters; {size:,} bytes')
    if wrong or answers != list(DRAWN) or report['filters'] != 32 or size > LARGEST:
        sys.exit('The page does not do what it says')


if __name__ == '__main__':
    main()
