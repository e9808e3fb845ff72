"""Float32 products on CPU by the C++ library: convolution and its gradients, as in `convolution`, and matrix products.

The convolution counts bits if all operands are +-1, there are at least 8 channels, and a sum has at most 2^24 products;
the result is the same integers. Otherwise each output pixel is summed tap by tap, channel by channel, and does not
depend on the batch. Each gradient is summed in an order that depends on the shapes alone. No result depends on the number
of threads. Sums of integers are exact up to 2^24.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float32

from bnn_jax.native.library import call, usable
from bnn_jax.ops.geometry import Pads, Pair


def runs(dtype: DTypeLike) -> bool:
    """Whether `convolution` uses this module when it is lowered for CPU.

    True if the dtype is float32, the library loads, and all hosts together have at most one CPU device.
    """
    return dtype == jnp.float32 and usable()


@partial(jax.jit, static_argnames=('strides', 'pads', 'instructions'))
def product(
    x: Float32[Array, 'n height width channels'],
    kernel: Float32[Array, 'kh kw channels filters'],
    strides: Pair,
    pads: Pads,
    instructions: str = '',
) -> Float32[Array, 'n rows columns filters']:
    """y of `convolution`. instructions: the instruction set, as in `kernels.native`; '' for the default."""
    extents = zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    rows, columns = ((extent + sum(pair) - size) // stride + 1 for extent, size, stride, pair in extents)
    shape = (x.shape[0], rows, columns, kernel.shape[3])
    return _call('bnn_jax_float_convolution', shape, x, kernel, strides, pads, instructions)


@partial(jax.jit, static_argnames=('shape', 'strides', 'pads', 'instructions'))
def input_gradient(
    kernel: Float32[Array, 'kh kw channels filters'],
    g: Float32[Array, 'n rows columns filters'],
    shape: tuple[int, ...],
    strides: Pair,
    pads: Pads,
    instructions: str = '',
) -> Float32[Array, 'n height width channels']:
    """dx of `convolution`. shape: that of x."""
    return _call('bnn_jax_float_input_gradient', shape, kernel, g, strides, pads, instructions)


@partial(jax.jit, static_argnames=('shape', 'strides', 'pads', 'instructions'))
def kernel_gradient(
    x: Float32[Array, 'n height width channels'],
    g: Float32[Array, 'n rows columns filters'],
    shape: tuple[int, ...],
    strides: Pair,
    pads: Pads,
    instructions: str = '',
) -> Float32[Array, 'kh kw channels filters']:
    """dkernel of `convolution`. shape: that of the kernel."""
    return _call('bnn_jax_float_kernel_gradient', shape, x, g, strides, pads, instructions)


@partial(jax.jit, static_argnames=('instructions',))
def matrix_product(
    x: Float32[Array, 'n terms'], w: Float32[Array, 'terms out'], instructions: str = ''
) -> Float32[Array, 'n out']:
    """x w, each sum in the order of `product` for a window of one pixel."""
    shape = x.shape[0], w.shape[1]
    return call('bnn_jax_float_product', shape, jnp.float32, x, w, instructions=instructions)


def _call(name, shape, a, b, strides, pads, instructions):
    # The padding at the top and left is enough: the shapes of x and y say where the windows end.
    geometry = np.asarray([*strides, pads[0][0], pads[1][0]], np.int64)
    return call(name, shape, jnp.float32, a, b, geometry=geometry, instructions=instructions)
