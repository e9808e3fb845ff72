"""Float32 convolution on CPU and its gradients by the C++ library: operands and results as those of `convolution`.

Operands that are +-1 alone are found out as the call runs, and counted in bits: the same integers. Else every output pixel is
summed up tap by tap, channel by channel, whatever its batch, and every gradient in an order that the shapes
alone decide: neither depends on the number of threads. Sums of integers are exact up to 2^24.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.native.library import call, usable
from bnn_jax.ops.geometry import Pads, Pair


def runs(dtype) -> bool:
    """Whether these functions are to be lowered for CPU here."""
    return dtype == jnp.float32 and usable()


@partial(jax.jit, static_argnames=('strides', 'pads', 'instructions'))
def product(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, instructions: str = '') -> jax.Array:
    """y (N, H', W', F). instructions: as in `kernels.native`."""
    extents = zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    rows, columns = ((extent + sum(pair) - size) // stride + 1 for extent, size, stride, pair in extents)
    shape = (x.shape[0], rows, columns, kernel.shape[3])
    return _call('bnn_jax_float_convolution', shape, x, kernel, strides, pads, instructions)


@partial(jax.jit, static_argnames=('shape', 'strides', 'pads', 'instructions'))
def input_gradient(
    kernel: jax.Array, g: jax.Array, shape: tuple[int, ...], strides: Pair, pads: Pads, instructions: str = ''
) -> jax.Array:
    """dx, of this shape."""
    return _call('bnn_jax_float_input_gradient', shape, kernel, g, strides, pads, instructions)


@partial(jax.jit, static_argnames=('shape', 'strides', 'pads', 'instructions'))
def kernel_gradient(
    x: jax.Array, g: jax.Array, shape: tuple[int, ...], strides: Pair, pads: Pads, instructions: str = ''
) -> jax.Array:
    """dkernel, of this shape."""
    return _call('bnn_jax_float_kernel_gradient', shape, x, g, strides, pads, instructions)


def _call(name, shape, a, b, strides, pads, instructions):
    # Top and left alone: where the windows end is in the shape of the result.
    geometry = np.asarray([*strides, pads[0][0], pads[1][0]], np.int64)
    return call(name, shape, jnp.float32, a, b, geometry=geometry, instructions=instructions)
