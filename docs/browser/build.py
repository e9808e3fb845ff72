"""The network of the page "In the browser": exported to C, compiled to WebAssembly, and the bits of its first filters.

Command: make browser. `make debian-packages` installs clang and lld. The network is that of
`python -m experiments.digits_vgg_small --scheme=BNN`, seed 0.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import bnn_jax as bnn
from bnn_jax.data.preprocessing import Preprocessing
from bnn_jax.inference import float_twin, preprocessing_of
from bnn_jax.interop import c_library

HERE = Path(__file__).parent
NETWORK = HERE / 'digits.safetensors'

# What JavaScript sees: where the image and the logits lie in memory, and a call from one to the other.
EXPORTS = """
#include "digits.h"
static unsigned char pixels[DIGITS_HEIGHT * DIGITS_WIDTH];
static float results[DIGITS_CLASSES];
static digits_cell scratch[DIGITS_SCRATCH];
__attribute__((export_name("image"))) unsigned char *image(void) { return pixels; }
__attribute__((export_name("logits"))) float *logits(void) { return results; }
__attribute__((export_name("run"))) void run(void) { digits_bytes(pixels, results, scratch); }
"""
# Bulk memory: copies are instructions, not calls of a C library.
COMPILE = [
    'clang',
    '--target=wasm32',
    '-mbulk-memory',
    '-ffreestanding',
    '-nostdlib',
    '-Wl,--no-entry',
    '-Wl,--strip-all',
]
COMPILE += ['-std=c99', '-Wall', '-Wextra', '-pedantic', '-Werror', '-O3']


def build(folder: Path) -> None:
    """Writes digits.wasm and filters.json."""
    network = bnn.load(NETWORK)
    described = preprocessing_of(NETWORK)
    assert described is not None
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        c_library(network, room, (8, 8, 1), name='digits', normalization=Preprocessing.of(described).normalization)
        (room / 'exports.c').write_text(EXPORTS)
        subprocess.run([*COMPILE, 'digits.c', 'exports.c', '-o', 'digits.wasm'], cwd=room, check=True)
        (folder / 'digits.wasm').write_bytes((room / 'digits.wasm').read_bytes())
    first = float_twin(network).body.layers[0].weights  # (3, 3, 1, filters), of +1 and -1
    filters = np.moveaxis(np.asarray(first)[:, :, 0], -1, 0) > 0
    (folder / 'filters.json').write_text(json.dumps(filters.reshape(len(filters), 9).astype(int).tolist()))


if __name__ == '__main__':
    build(HERE)
    print({path.name: path.stat().st_size for path in sorted(HERE.iterdir()) if path.is_file()})
