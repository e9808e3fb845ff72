"""MobileNet, a network of depthwise 3x3 and pointwise 1x1 convolutions, in float32 and from bits: times and bytes.

    taskset -c 1 python -m benchmarks.depthwise

Weights and images are random. The float network is the same architecture under FLOAT, compiled by XLA. Its depthwise
convolutions run in two ways: as XLA's grouped convolution (feature_group_count), and as nine shifted multiply-adds, which
is faster. The calls of the compared programs alternate.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax import lax

import bnn_jax as bnn
from benchmarks.inference import machine
from benchmarks.layers import milliseconds, speedup
from benchmarks.networks import evaluated, packed_step
from benchmarks.training import take_turns
from bnn_jax.kernels import packed_conv2d, packed_conv2d_signs
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.operations import Convolution
from bnn_jax.nn.places import walk
from bnn_jax.nn.tables import listing
from bnn_jax.ops.bits import pack, words_for
from bnn_jax.schemes.scheme import Scheme

# Filters of a pointwise convolution and strides of the depthwise one before it. Source: MobileNet, arXiv:1704.04861, table 1.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)


def network(scheme: Scheme, image: int, width: float, classes: int = 1000) -> Network:
    """A 3x3 stem of stride 2, then a depthwise 3x3 and a pointwise 1x1 convolution in each block; in evaluation mode."""
    builder = NetworkBuilder((image, image, 3), scheme=scheme, width=width, rngs=nnx.Rngs(0))
    builder.conv(32, 3, strides=2, padding=1)
    for filters, strides in BLOCKS:
        channels = builder.shape[-1]
        # `builder.conv` multiplies by the width, which `channels` includes already.
        builder.conv(round(channels / width), 3, strides=strides, padding=1, groups=channels)
        builder.conv(filters, 1)
    model = builder.network(classes, average=True)
    model.eval()
    return model


def shifted(x: jax.Array, w: jax.Array, strides: int) -> jax.Array:
    """A depthwise convolution with pads of 1 as a sum of shifted products: (N, H, W, C), (3, 3, 1, C) -> (N, H', W', C)."""
    height, width = ((extent - 1) // strides + 1 for extent in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(3):
        for j in range(3):
            rows, columns = (slice(at, at + (n - 1) * strides + 1, strides) for at, n in ((i, height), (j, width)))
            y = y + padded[:, rows, columns] * w[i, j, 0]
    return y


class Shifted(Convolution):
    """A depthwise convolution as shifted products."""

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return shifted(x, kernel, self.window.strides[0])


def with_shifts(model: Network) -> Network:
    """A copy of the network with its depthwise convolutions as shifted products."""
    model = nnx.merge(*nnx.split(model))
    for place in walk(model):
        operation: Any = getattr(place.layer, 'operation', None)
        if isinstance(operation, Convolution) and operation.groups > 1:
            place.layer.operation = Shifted(operation.window, operation.pad_value, operation.groups)
    return model


def grouped(x: jax.Array, w: jax.Array, strides: int) -> jax.Array:
    """The same by XLA's grouped convolution."""
    pads, numbers = ((1, 1), (1, 1)), ('NHWC', 'HWIO', 'NHWC')
    count = x.shape[3]
    return lax.conv_general_dilated(
        x, w, (strides, strides), pads, dimension_numbers=numbers, feature_group_count=count
    )


def layer_steps(extent: int, channels: int, strides: int) -> dict[str, Callable[[], object]]:
    """Calls of one depthwise layer: float32 in two ways; words to integers and words to signs, each with two backends."""
    rng = np.random.default_rng(0)
    x, w = (
        jnp.asarray(rng.choice([-1, 1], shape), jnp.float32)
        for shape in ((1, extent, extent, channels), (3, 3, 1, channels))
    )
    x_words, w_words, pads = pack(x), pack(w, axis=3), ((1, 1), (1, 1))
    thresholds, flip = jnp.zeros(channels, jnp.int32), jnp.zeros(words_for(channels), jnp.uint32)
    options = {'strides': strides, 'padding': pads, 'groups': channels, 'filters': channels}
    calls: dict[str, Callable] = {
        'float32, XLA groups': partial(jax.jit(partial(grouped, strides=strides)), x, w),
        'float32, shifted': partial(jax.jit(partial(shifted, strides=strides)), x, w),
    }
    for backend in ('native', 'xla'):
        integers = jax.jit(partial(packed_conv2d, channels=channels, **options, backend=backend))
        signs = jax.jit(partial(packed_conv2d_signs, channels=channels, **options, backend=backend))
        calls[f'{backend}, integers'] = partial(integers, x_words, w_words)
        calls[f'{backend}, signs'] = partial(signs, x_words, w_words, thresholds, flip)
    expected = np.asarray(calls['float32, shifted']())
    for name in ('float32, XLA groups', 'native, integers', 'xla, integers'):
        if not np.array_equal(np.asarray(calls[name]()), expected):
            raise RuntimeError(f'{name}: other sums than those of shifted products')
    return {name: (lambda call=call: jax.block_until_ready(call())) for name, call in calls.items()}


def main(
    schemes: tuple[str, ...] = ('XNOR', 'BNN'),
    image_size: int = 224,
    width: float = 1.0,
    seconds: float = 3.0,
    layers: bool = True,
    cpu_time: bool = False,
) -> None:
    """Measure and print.

    Args:
        schemes: schemes of the packed networks.
        image_size: height and width of the image.
        width: scales the number of filters in each layer.
        seconds: time for each measurement.
        layers: also measure single depthwise layers.
        cpu_time: measure the CPU time of this process instead of wall time, for a core that other processes use, too.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    print(machine(), flush=True)
    if layers:
        rows = []
        for extent, channels, strides in (
            (112, 32, 1),
            (112, 64, 2),
            (56, 128, 1),
            (28, 256, 1),
            (14, 512, 1),
            (7, 1024, 1),
        ):
            times = take_turns(layer_steps(extent, channels, strides), seconds, clock)
            for name, own in times.items():
                best = speedup(times, name, 'float32, shifted')
                rows.append([f'{extent} x {extent} x {channels} / {strides}', name, *milliseconds(own), f'{best:.2f}'])
        columns = ['layer', 'how', 'ms', 'middle half', 'shifted floats / this']
        print(listing('depthwise 3x3 convolutions, batch 1', columns, rows), flush=True)
    images = np.random.default_rng(0).normal(size=(1, image_size, image_size, 3)).astype(np.float32)
    steps, sizes = {}, {}
    real = network(bnn.FLOAT, image_size, width)
    steps['float32, XLA groups'] = evaluated(real, jnp.asarray(images))
    steps['float32, shifted'] = evaluated(with_shifts(real), jnp.asarray(images))
    for scheme in schemes:
        model = network(getattr(bnn, scheme), image_size, width)
        packed = bnn.convert(model)
        sizes[scheme] = packed.report.bytes
        for backend in ('native', 'xla'):
            name = f'{scheme}, {backend}'
            steps[name] = packed_step(packed, jnp.asarray(images), backend)
            same = np.array_equal(np.asarray(steps[name]()), np.asarray(evaluated(model, jnp.asarray(images))()))
            print(f'{name}: logits {"equal" if same else "DIFFER FROM"} those in training arithmetic')
    times = take_turns(steps, seconds, clock)
    rows = [
        [name, *milliseconds(own), f'{speedup(times, name, "float32, shifted"):.2f}'] for name, own in times.items()
    ]
    title = f'{len(BLOCKS)} depthwise and pointwise blocks, {image_size} x {image_size}, width {width}, batch 1'
    print(listing(title, ['network', 'ms', 'middle half', 'shifted floats / this'], rows))
    print(f'bytes: float32 {bnn.summarize(real, images.shape).bytes}, packed {sizes}')


if __name__ == '__main__':
    tyro.cli(main, prog='python -m benchmarks.depthwise', description=__doc__)
