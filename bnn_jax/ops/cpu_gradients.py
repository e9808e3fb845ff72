"""Gradients of a convolution for CPU as matrix products, where the C++ library does not run.

On CPU, XLA computes dkernel as a convolution whose window is as large as the output, and dx as a convolution that also
multiplies the zeros around the gradient of the output. Both are slow.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bnn_jax.native.library import varying_as
from bnn_jax.ops.geometry import Pads, Pair
from bnn_jax.ops.products import divisor, dot

# Elements in a block of patches: 1 MiB in float32, which stays in a core's cache.
BLOCK = 2**18
# A block may have this many patches even if they exceed BLOCK: adding the blocks' products then costs little compared
# with the products.
ROWS = 512
# With fewer channels than this, a row of pixels is a longer contiguous run than a pixel's channels.
FEW = 32


def shifted_products(
    kernel: Float[Array, 'kh kw channels filters'], g: Float[Array, 'n rows columns filters'], *, pads: Pads
) -> Float[Array, 'n height width channels']:
    """dx of `convolution` at stride 1.

    One matrix product for each row of g gives what each tap adds to dx. These parts are shifted and added.

    Args:
        kernel: the weights.
        g: the gradient of the output.
        pads: the padding of the convolution, ((top, bottom), (left, right)).

    Returns:
        The gradient of the input.
    """
    kh, kw, channels, filters = kernel.shape
    n, height, width, _ = g.shape
    (top, bottom), (left, right) = pads
    zero, none = jnp.zeros((), g.dtype), (0, 0, 0)
    # Channels first, images last: a shift by one column is then a shift by n numbers in a contiguous run of width * n.
    g, taps = jnp.transpose(g, (1, 3, 2, 0)), kernel.reshape(-1, filters)

    def add(a, dx):
        row = lax.dynamic_index_in_dim(g, a, 0, keepdims=False)
        parts = dot(taps, row, 1, 0).reshape(kh, kw, channels, width, n)
        shifted = [lax.pad(parts[:, j], zero, (none, none, (j, kw - 1 - j, 0), none)) for j in range(kw)]
        rows = lax.dynamic_slice_in_dim(dx, a, kh, 0) + sum(shifted[1:], shifted[0])
        return lax.dynamic_update_slice_in_dim(dx, rows, a, 0)

    zeros = varying_as(jnp.zeros((height + kh - 1, channels, width + kw - 1, n), g.dtype), kernel, g)
    dx = lax.fori_loop(0, height, add, zeros)
    # The rows and columns of the padding have a gradient too; it is cut off here.
    return jnp.transpose(dx[top : dx.shape[0] - bottom, :, left : dx.shape[2] - right], (3, 0, 2, 1))


def products_of_patches(
    x: Float[Array, 'n height width channels'],
    g: Float[Array, 'n rows columns filters'],
    *,
    size: Pair,
    strides: Pair,
    pads: Pads,
) -> Float[Array, 'kh kw channels filters']:
    """dkernel of `convolution`: patches of x times g, block by block, summed over the blocks.

    At stride 1, all patches at once would be kh kw times as large as x, and to allocate them would take longer than the
    products.

    Args:
        x: the input.
        g: the gradient of the output.
        size: the size of the window, (kh, kw).
        strides: the strides of the convolution.
        pads: the padding of the convolution, ((top, bottom), (left, right)).

    Returns:
        The gradient of the weights.
    """
    n, height, width, filters = g.shape
    channels = x.shape[-1]
    terms = size[0] * size[1] * channels
    # Either x or the product is transposed: x if there are few channels, else the smaller of the two arrays.
    channels_first = channels < FEW or x.size < terms * filters
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x, axis = (jnp.moveaxis(x, -1, 0), 2) if channels_first else (x, 1)
    # All blocks have the same height, so that XLA compiles one loop body.
    rows = divisor(height, max(BLOCK // terms, ROWS) // (n * width))

    def product(i):
        here = lax.dynamic_slice_in_dim(x, i * (rows * strides[0]), (rows - 1) * strides[0] + size[0], axis)
        g_here = lax.dynamic_slice_in_dim(g, i * rows, rows, 1).reshape(-1, filters)
        windows = views(here, axis, size, strides, (rows, width))
        if channels_first:
            return dot(jnp.concatenate(windows, 0).reshape(terms, -1), g_here, 1, 0)
        return dot(g_here, jnp.concatenate(windows, -1).reshape(-1, terms), 0, 0)

    total = varying_as(jnp.zeros((terms, filters) if channels_first else (filters, terms), g.dtype), x, g)
    total = lax.fori_loop(0, height // rows, lambda i, total: total + product(i), total)
    return (total if channels_first else total.T).reshape(*size, channels, filters)


def views(x: jax.Array, axis: int, size: Pair, strides: Pair, count: Pair) -> list[jax.Array]:
    """For each tap of a window, row by row, the pixels that the tap reads over all window positions.

    Args:
        x: the padded image, rank 4, height along `axis` and width along the next axis.
        axis: the axis of the height.
        size: the size of the window, (kh, kw).
        strides: the strides of the window.
        count: the number of window positions, (rows, columns).

    Returns:
        kh kw arrays, with `count` pixels along the two axes.
    """

    def window(*tap):
        start, limit, step = [0] * 4, list(x.shape), [1] * 4
        for d in (0, 1):
            start[axis + d], step[axis + d] = tap[d], strides[d]
            limit[axis + d] = tap[d] + (count[d] - 1) * strides[d] + 1
        return lax.slice(x, start, limit, step)

    return [window(i, j) for i in range(size[0]) for j in range(size[1])]
