"""Max pooling, with a gradient that is fast on CPU too."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bnn_jax.ops.cpu_gradients import views
from bnn_jax.ops.deterministic import apart
from bnn_jax.ops.geometry import Pads, Pair


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, 'n height width channels'], size: Pair, strides: Pair, pads: Pads
) -> Float[Array, 'n rows columns channels']:
    """Maximum over every window; pixels outside x do not count.

    Forward: y[n, a, b, c] = max over i, j of x[n, a s + i - top, b t + j - left, c].
    Gradient: each window passes its g to the first pixel, row by row, that has the maximum; a pixel gets the sum over its
    windows. Only reverse mode is defined.

    Args:
        x: the images.
        size: the size of the window, (kh, kw).
        strides: (s, t), along height and width.
        pads: ((top, bottom), (left, right)).

    Returns:
        y, of the dtype of x.
    """
    return _forward(x, size, strides, pads)


def _forward(x, size, strides, pads):
    """XLA's max pooling; on CPU along the columns of the image, then along its rows, if that needs fewer comparisons."""

    def along(x, axes):
        window, steps, around = [1] * 4, [1] * 4, [(0, 0)] * 4
        for axis in axes:
            window[axis], steps[axis], around[axis] = size[axis - 1], strides[axis - 1], pads[axis - 1]
        return lax.reduce_window(x, -jnp.inf, lax.max, window, steps, around)

    whole = partial(along, axes=(1, 2))
    # One pass compares size[0] * size[1] numbers for each output, two passes compare size[0] + size[1]. For 3x3 windows
    # on CPU, two passes take a third of the time.
    if size[0] * size[1] <= size[0] + size[1]:
        return whole(x)
    return lax.platform_dependent(x, cpu=lambda x: along(along(x, (1,)), (2,)), default=whole)


def _max_pool_fwd(x, size, strides, pads):
    y = max_pool(x, size, strides, pads)
    return y, (x, y)


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)  # Traced once for layers of the same shape.
def _max_pool_bwd(size, strides, pads, residuals, g):
    x, y = residuals
    # Off CPU: XLA's scatter. On CPU that scatter handles one number at a time, so each pixel gathers from its windows.
    gather = partial(apart, partial(_gather, size=size, strides=strides, pads=pads))
    scatter = partial(_scatter, size=size, strides=strides, pads=pads)
    return (lax.platform_dependent(x, y, g, cpu=gather, default=scatter),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _scatter(x, y, g, *, size, strides, pads):
    """dx as XLA computes it."""
    return jax.vjp(lambda x: _forward(x, size, strides, pads), x)[1](g)[0]


def _gather(x, y, g, *, size, strides, pads):
    """dx pixel by pixel: each pixel sums the g of the windows in which it is the first maximum.

    Let s be the stride, and u = m s + a with 0 <= a < s a row of the padded image. Then u is row a + q s of window m - q,
    for each q >= 0 with a + q s below the height of the window.
    """
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
    place = jnp.full(y.shape, size[0] * size[1], jnp.int32)
    # From the last tap to the first, so that the first maximum overwrites the others.
    for tap, seen in reversed(list(enumerate(views(padded, 1, size, strides, (y.shape[1], y.shape[2]))))):
        place = jnp.where(seen == y, jnp.int32(tap), place)
    # A period is a block of strides[0] x strides[1] pixels. In each window, each of them is a different tap or lies
    # outside the window (-2 in `_taps`).
    periods = [-(-padded.shape[1 + d] // strides[d]) for d in (0, 1)]
    dx = jnp.zeros((), g.dtype)
    for shift in itertools.product(*(range(-(-size[d] // strides[d])) for d in (0, 1))):
        wanted = jnp.asarray(_taps(size, strides, shift))[None, None, :, None, :, None]
        asked = _repeated(place, strides, shift, periods, -1)
        dx += jnp.where(asked == wanted, _repeated(g, strides, shift, periods, 0), 0)
    dx = dx.reshape(x.shape[0], periods[0] * strides[0], periods[1] * strides[1], x.shape[3])
    return dx[:, pads[0][0] : pads[0][0] + x.shape[1], pads[1][0] : pads[1][0] + x.shape[2]]


def _taps(size, strides, shift):
    """(s, t): for each place in a period, the tap that reads it in the window `shift` windows earlier; -2 if none."""
    rows, columns = (np.arange(strides[d]) + shift[d] * strides[d] for d in (0, 1))
    inside = (rows < size[0])[:, None] & (columns < size[1])
    return np.where(inside, rows[:, None] * size[1] + columns, -2).astype(np.int32)


def _repeated(windows, strides, shift, periods, nothing):
    """(N, H', W', C) moved by `shift` windows, each window repeated for its period: (N, periods, s, periods, t, C)."""
    n, rows, columns, channels = windows.shape
    edges = [(shift[d], periods[d] - extent - shift[d], 0) for d, extent in enumerate((rows, columns))]
    moved = lax.pad(windows, jnp.asarray(nothing, windows.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    shape = (n, periods[0], strides[0], periods[1], strides[1], channels)
    return jnp.broadcast_to(moved[:, :, None, :, None, :], shape)
