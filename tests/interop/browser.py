"""The page "In the browser" in a headless Chromium: logits of all digits to the bit, and digits that are drawn.

Command: make browser, which builds the page's files first. `make debian-packages` installs clang, lld and chromium.
"""

import functools
import http.server
import json
import queue
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
LARGEST = 200_000  # bytes of the page
LONGEST = 240  # seconds

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
await fetch('report', { method: 'POST', body: JSON.stringify(report) });
"""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on a free port, and keeps the report that its page posts."""

    def __init__(self, folder: Path):
        super().__init__(('127.0.0.1', 0), functools.partial(Handler, directory=folder))
        self.reports: queue.Queue[dict] = queue.Queue()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers a page's requests without logging them."""

    def do_POST(self):
        assert isinstance(self.server, Server)
        report = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(204)
        self.end_headers()
        self.server.reports.put(report)

    def log_message(self, *_):
        pass


def report_of(folder: Path) -> dict:
    """Opens a folder's page in Chromium and returns the report that it posts."""
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync']
    # With a debugging port Chromium stays open until it is terminated. Virtual time is no help here: it may run out while
    # WebAssembly compiles on a slow machine.
    flags += ['--disable-background-networking', '--disable-component-update', '--remote-debugging-port=0']
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile('w+') as said:
        address = f'http://127.0.0.1:{server.server_port}/index.html'
        command = ['chromium', *flags, f'--user-data-dir={profile}', address]
        with subprocess.Popen(command, stdout=said, stderr=said) as browser:
            try:
                return server.reports.get(timeout=LONGEST)
            except queue.Empty:
                said.seek(0)
                sys.exit(f'The page sent no report within {LONGEST} seconds. Chromium said:\n{said.read()}')
            finally:
                browser.terminate()
                server.shutdown()


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
