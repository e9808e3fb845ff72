"""Single layers: the rate of one core, ResNet-18's binary convolutions, packing. See benchmarks.inference."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.training import take_turns
from bnn_jax.kernels import native, packed_conv2d, packed_signs
from bnn_jax.kernels.zero_padding import tap_sums
from bnn_jax.nn.tables import listing
from bnn_jax.ops.bits import pack

Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of signs with stride 1, a square map with `padding` zeros around it, and square filters."""

    extent: int
    channels: int
    filters: int
    size: int = 3
    padding: int = 1

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, including taps in the padding."""
        out = self.extent + 2 * self.padding - self.size + 1
        return out**2 * self.size**2 * self.channels * self.filters

    def __str__(self) -> str:
        return f'{self.extent} x {self.extent} x {self.channels}'


STAGES = (Layer(56, 64, 64), Layer(28, 128, 128), Layer(14, 256, 256), Layer(7, 512, 512))
"""The binary convolutions of ResNet-18's four stages."""

MAPS = ((56, 64), (112, 64))
"""Extent and channels of the maps for the packing benchmark."""


def why_not_native() -> str | None:
    """Why the backend 'native' cannot be measured; None if it can."""
    if jax.devices()[0].platform != 'cpu':
        return 'it is for CPUs'
    return native.missing()


def per_second(seconds: float, clock: Clock = time.perf_counter) -> float:
    """Products of signs per second of one thread with words in the first-level cache: the best of many runs of milliseconds.

    This is not a limit of the processor: on some processors, the same kernel is faster on a whole map.
    """

    def once(times: int) -> tuple[float, float]:
        before = clock()
        products = native.limit(times)
        return products, clock() - before

    times, elapsed = 1, 0.0
    while elapsed < 3e-3:
        times *= 2
        elapsed = once(times)[1]
    best, start = 0.0, time.perf_counter()
    while best == 0 or time.perf_counter() - start < seconds:
        products, elapsed = once(times)
        best = max(best, products / elapsed)
    return best


def speedup(times: dict[str, list[float]], name: str, twin: str) -> float:
    """In each round, the time of `twin` divided by that of `name`; the median over the rounds."""
    return float(np.median(np.divide(times[twin], times[name])))


def milliseconds(times: Sequence[float]) -> list[str]:
    """Median and middle half, in milliseconds."""
    low, median, high = np.percentile(times, [25, 50, 75]) * 1e3
    return [f'{median:.3f}', f'{low:.3f} .. {high:.3f}']


def packed_step(layer: Layer, backend: str) -> Callable:
    """A compiled function from the words of the map, the words of the weights and their tap sums to int32."""
    pads = ((layer.padding, layer.padding),) * 2

    def step(x_words, w_words, sums):
        return packed_conv2d(x_words, w_words, layer.channels, padding=pads, tap_sums=sums, backend=backend)

    return jax.jit(step)


def float_steps(layer: Layer) -> dict[str, Callable]:
    """XLA's two compiled convolutions of signs as floats: (N, H, W, C), (size, size, C, out) -> (N, H', W', out)."""
    pads = ((layer.padding, layer.padding),) * 2

    def convolution(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    def patches(x, w):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        out = x.shape[1] - layer.size + 1
        taps = [x[:, i : i + out, j : j + out] for i in range(layer.size) for j in range(layer.size)]
        rows = jnp.concatenate(taps, axis=-1).reshape(-1, w[..., 0].size)
        return (rows @ w.reshape(-1, layer.filters)).reshape(-1, out, out, layer.filters)

    return {'float32': jax.jit(convolution), 'float32, patches': jax.jit(patches)}


def steps_of(layer: Layer, backends: Sequence[str], batch: int = 1) -> dict[str, Callable[[], object]]:
    """Calls by name: 'float32' (XLA's convolution), 'float32, patches' (its matrix product), and the packed backends.

    Raises RuntimeError if their integers differ.
    """
    rng = np.random.default_rng(0)
    image = (batch, layer.extent, layer.extent, layer.channels)
    kernel = (layer.size, layer.size, layer.channels, layer.filters)
    x, w = (jnp.asarray(2.0 * rng.integers(0, 2, shape) - 1, jnp.float32) for shape in (image, kernel))
    x_words, w_words = pack(x), pack(w, axis=2)
    sums = tap_sums(w_words, layer.channels)
    calls = {name: partial(call, x, w) for name, call in float_steps(layer).items()}
    calls |= {backend: partial(packed_step(layer, backend), x_words, w_words, sums) for backend in backends}
    expected = np.asarray(calls['float32']())
    for name, call in calls.items():
        if not np.array_equal(call(), expected):
            raise RuntimeError(f'{name}, {layer}: its integers differ from those of the float convolution')
    return {name: (lambda call=call: jax.block_until_ready(call())) for name, call in calls.items()}


def alone(steps: dict[str, Callable[[], object]], seconds: float, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every call, one step after the other instead of in turns: operands and result stay in the caches."""
    return {name: take_turns({name: step}, seconds, clock)[name] for name, step in steps.items()}


def pace(macs: int, times: Sequence[float]) -> str:
    """10^9 multiply-adds per second."""
    return f'{macs / float(np.median(times)) / 1e9:.1f}'


def layers(backends: Sequence[str], batch: int, seconds: float, clock: Clock) -> str:
    """Two tables: each layer and backend, in turns and alone; each backend over all layers, in turns."""
    rows, speedups = [], {backend: [] for backend in backends}
    reason = why_not_native()
    for layer in STAGES:
        steps, macs = steps_of(layer, backends, batch), batch * layer.macs
        times = take_turns(steps, seconds, clock)
        by_itself = alone({name: steps[name] for name in backends}, seconds / 4, clock)
        for name, own in times.items():
            row = [str(layer), name, *milliseconds(own), f'{speedup(times, name, "float32"):.2f}']
            if name not in backends:
                rows.append([*row, pace(macs, own), '', ''])
                continue
            quiet = by_itself[name]
            rows.append([*row, pace(macs, own), milliseconds(quiet)[0], pace(macs, quiet)])
            speedups[name].append(speedup(times, name, 'float32'))
        if reason is not None:
            rows.append([str(layer), f'native: {reason}', *6 * ['']])
    title = f'3x3 convolutions of signs, batch {batch}: words in, int32 out'
    columns = ['map', 'backend', 'ms', 'middle half', 'float32 time / this', 'G multiply-adds/s']
    columns += ['alone, ms', 'alone, G/s']
    overall = [[name, f'{np.exp(np.mean(np.log(own))):.2f}', f'{min(own):.2f}'] for name, own in speedups.items()]
    over_all = listing('float32 time / this, over all maps', ['backend', 'geometric mean', 'worst'], overall)
    return f'{listing(title, columns, rows)}\n{over_all}'


def packing(backends: Sequence[str], batch: int, seconds: float, clock: Clock) -> str:
    """A table: bytes of float32 that are normalized and packed per second."""
    rows = []
    for extent, channels in MAPS:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(batch, extent, extent, channels)), jnp.float32)
        coefficients = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)
        steps = {}
        for backend in backends:
            call = jax.jit(partial(packed_signs, backend=backend))
            steps[backend] = lambda call=call, x=x, c=coefficients: jax.block_until_ready(call(x, c))
        for name, own in take_turns(steps, seconds, clock).items():
            rows.append(
                [
                    f'{extent} x {extent} x {channels}',
                    name,
                    *milliseconds(own),
                    f'{x.nbytes / np.median(own) / 1e9:.2f}',
                ]
            )
    title = f'signs of a normalized float32 map, batch {batch}: floats in, words out'
    return listing(title, ['map', 'backend', 'ms', 'middle half', 'GB/s of floats'], rows)
