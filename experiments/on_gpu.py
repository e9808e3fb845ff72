"""Measurements that `gpu_day` runs in separate processes: exactness of kernels and packed networks, training throughput."""

import dataclasses
import functools
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bnn_jax as bnn
from bnn_jax.data import Standardize, crop, flip
from bnn_jax.files import write
from bnn_jax.kernels import native, packed_conv2d, packed_matmul
from bnn_jax.ops.bits import pack
from bnn_jax.training import logits_of
from bnn_jax.training.on_device import Draw, batched, many, pixel_table
from bnn_jax.training.results import device, versions
from bnn_jax.training.state import init
from bnn_jax.training.step import update
from experiments import print_help, recipes

ON = {'gpu': ('xla', 'dense', 'pallas_gpu', 'pallas_gpu_popcount'), 'tpu': ('xla', 'dense', 'pallas_tpu')}
"""Platform -> the backends to check on it."""

SIGNS = np.array([-1, 1], np.float32)

PRODUCTS = [(5, 33, 3), (64, 2304, 128), (1000, 4608, 512), (256, 70_001, 33)]
"""(rows, products in a sum, columns) of matrix products."""

CONVOLUTIONS = [(8, 14, 96, 3, 1, 1), (4, 15, 64, 3, 2, 1), (2, 9, 33, 1, 1, 0), (2, 16, 256, 5, 1, 2)]
"""(images, height and width, channels, window, stride, padding)."""

NETWORKS = [
    ('vgg_small', 'BNN'),
    ('vgg_small', 'XNOR'),
    ('nin', 'XNOR'),
    ('resnet20', 'BIREAL'),
    ('resnet18', 'XNOR'),
    ('vgg_small', 'BC'),
    ('vgg_small', 'BWN'),
]
"""(model, scheme)."""


class Results:
    """A file of results. It is written after each result, so that a later process continues where an earlier one ended."""

    def __init__(self, path: Path):
        self._path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, measure: Any) -> None:
        """Measure a result that the file lacks. An error is a result too. If the process dies, the next one tries once more."""
        tries = self.found.get(name, {}).get('tries', 0)
        if name in self.found and tries in (0, 2):
            return
        self.found[name] = {'error': 'the process ended here', 'tries': tries + 1}
        self._write()
        try:
            self.found[name] = measure()
        except Exception as error:  # A kernel that fails must not prevent the other results.
            self.found[name] = {'error': f'{type(error).__name__}: {str(error)[:500]}'}
        print(name, self.found[name], flush=True)
        self._write()

    def end(self) -> None:
        """Mark the results as complete."""
        self.found['complete'] = True
        self._write()

    def _write(self) -> None:
        write(self._path, json.dumps(self.found, indent=2) + '\n')


def checks(output: Path, tiny: bool) -> None:
    """checks.json: each backend compared with the reference, each packed network with training arithmetic."""
    write(output / 'machine.json', json.dumps(machine(), indent=2) + '\n')
    results, rng = Results(output / 'checks.json'), np.random.default_rng(0)
    platform = jax.devices()[0].platform
    own = ('xla', 'dense', *(['native'] if native.missing() is None else []))
    for backend in ON.get(platform, own):
        for rows, k, columns in PRODUCTS[:1] if tiny else PRODUCTS:
            x, w = (rng.choice(SIGNS, (n, k)) for n in (rows, columns))
            results.add(f'{backend} {rows}x{k}x{columns}', functools.partial(_product, backend, x, w))
        for number, height, channels, window, stride, padding in CONVOLUTIONS[:1] if tiny else CONVOLUTIONS:
            for pad_value in (1,) if tiny else (0, 1, -1):
                shape = number, height, height, channels
                x, w = (
                    rng.choice(SIGNS, shape),
                    rng.choice(SIGNS, (window, window, channels, 40)),
                )
                keywords: dict[str, Any] = {
                    'strides': stride,
                    'padding': ((padding, padding),) * 2,
                    'pad_value': pad_value,
                }
                name = f'{backend} {shape} window {window} stride {stride} pad {padding} of {pad_value}'
                results.add(name, functools.partial(_convolution, backend, x, w, keywords))
    for model, scheme in NETWORKS[:1] if tiny else NETWORKS:
        results.add(f'{model} {scheme}', functools.partial(_network, model, scheme, 0.1 if tiny else 0.5))
    results.end()


def machine() -> dict[str, Any]:
    """The versions and the GPU."""
    try:
        card = subprocess.run(['nvidia-smi'], capture_output=True, text=True).stdout
    except OSError:
        card = 'no nvidia-smi'
    return {'versions': versions(), 'device': device(), 'devices': [str(d) for d in jax.devices()], 'nvidia-smi': card}


def _equal(ours: Any, theirs: Any) -> dict[str, Any]:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return {'equal': bool(np.array_equal(ours, theirs)), 'differing': int((ours != theirs).sum()), 'of': int(ours.size)}


def _product(backend: str, x: np.ndarray, w: np.ndarray) -> dict[str, Any]:
    words = pack(jnp.asarray(x)), pack(jnp.asarray(w))
    return _equal(
        packed_matmul(*words, x.shape[1], backend=backend), np.rint(x.astype(np.float64) @ w.T.astype(np.float64))
    )


def _convolution(backend: str, x: np.ndarray, w: np.ndarray, keywords: dict[str, Any]) -> dict[str, Any]:
    words = pack(jnp.asarray(x)), pack(jnp.asarray(w), axis=2)
    ours, reference = (packed_conv2d(*words, x.shape[-1], backend=name, **keywords) for name in (backend, 'reference'))
    return _equal(ours, reference)


def _network(model: str, scheme: str, width: float) -> dict[str, Any]:
    shape = {} if model == 'nin' else {'input_shape': (32, 32, 3)}
    network = getattr(bnn.models, model)(10, scheme=getattr(bnn, scheme), rngs=nnx.Rngs(0), width=width, **shape)
    network.eval()
    images = np.random.default_rng(1).normal(size=(64, 32, 32, 3)).astype(np.float32)
    ours, theirs = (np.asarray(logits_of(m)(images)) for m in (bnn.convert(network), network))
    found = {'predictions_equal': int((ours.argmax(-1) == theirs.argmax(-1)).sum()), 'of': len(images)}
    return found | {'max_abs_difference': float(np.abs(ours - theirs).max()), 'range': float(np.ptp(theirs))}


# Throughput.


@dataclasses.dataclass(frozen=True)
class Timed:
    """A training step to time."""

    recipe: str
    row: str
    batch_size: int = 256
    # Height and width of the images.
    size: int = 32


THROUGHPUT = [
    Timed('cifar10_resnet18', 'BIREAL'),
    Timed('cifar10_resnet20', 'BIREAL'),
    Timed('cifar10_nin', 'XNOR'),
    Timed('cifar10_resnet18', 'FLOAT'),
    Timed('cifar10_vgg_small', 'BNN'),
    Timed('imagenet_resnet18', 'FLOAT', size=224),
    Timed('imagenet_resnet18', 'XNOR_PAPER', size=224),
    Timed('imagenet_alexnet', 'FLOAT', size=224),
    Timed('imagenet_alexnet', 'XNOR_PAPER', size=224),
]


def throughput(output: Path, tiny: bool) -> None:
    """throughput.json: images a second in training, with all images on the device, and the seconds of the first call."""
    results = Results(output / 'throughput.json')
    for timed in [Timed('cifar10_nin', 'XNOR', 8)] if tiny else THROUGHPUT:
        for precision in ('float32',) if tiny else ('bfloat16', 'float32'):
            name = f'{timed.recipe} {timed.row} batch {timed.batch_size} {precision}'
            results.add(name, functools.partial(_time, timed, precision, tiny))
    results.end()


def _time(timed: Timed, precision: str, tiny: bool) -> dict[str, float]:
    config = dataclasses.replace(recipes()[timed.recipe].row(timed.row), precision=precision)
    number = 2 * timed.batch_size if tiny else 4 * timed.batch_size
    shape = number, timed.size, timed.size, 3
    rng = np.random.default_rng(0)
    pixels, classes = rng.integers(0, 256, shape).astype(np.uint8), 10 if timed.size == 32 else 1000
    lying = {'image': pixels, 'label': rng.integers(0, classes, number).astype(np.int32)}
    lying['table'] = pixel_table(Standardize((0.5,) * 3, (0.25,) * 3), pixels)
    lying = jax.tree.map(jnp.asarray, lying)
    augmentations = tuple(augment for a in (crop(4), flip) if (augment := batched(a)) is not None)
    model = config.model(rngs=nnx.Rngs(0), width=0.1 if tiny else 1.0)
    tx = config.optimizer(config.schedule(config.learning_rate, 1000))
    state = init(model, tx, config.loss(), operands=config.operands(), steps=1000)
    draw = Draw(0, timed.batch_size, number, augmentations)
    most = 2 if tiny else 50
    steps = jax.jit(many(update, draw, most), donate_argnums=0)

    def call(state: Any, count: int) -> tuple[Any, float]:
        began = time.perf_counter()
        state, metrics = steps(state, lying, jnp.int32(count))
        jax.block_until_ready(metrics)
        return state, time.perf_counter() - began

    state, first = call(state, 1)
    state, _ = call(state, most)
    state, seconds = call(state, most)
    rate = timed.batch_size * most / seconds
    return {'images_per_second': rate, 'milliseconds_a_step': 1000 * seconds / most, 'seconds_of_first_call': first}


if __name__ == '__main__':
    print_help(__doc__)
