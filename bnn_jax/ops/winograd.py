"""Gradients of 3x3 convolutions at stride 1 by Winograd's F(2x2, 3x3): 16 products for four outputs instead of 36.

Let B, G, A be the matrices of arXiv:1509.09308, section 4.1. A 4x4 tile d of the image (neighboring tiles overlap by two
pixels) and the window g give the 2x2 outputs A^T [(G g G^T) * (B^T d B)] A, where * multiplies element by element. Summed over
channels, this is a matrix product for each of the 16 elements.

The entries of B and A are 0 and +-1, those of G include halves. So if both operands consist of +-1 and 0, every number
is a multiple of 1/4. Its magnitude is at most 81 times the number of filters that dx sums over, or 64 times the number
of tiles that dkernel sums over. Float32 holds all such numbers up to 2^22, so the result is exact up to 51781 filters
or 65536 tiles. For real numbers the rounding differs from the plain sum's, and an infinity or NaN may give NaN in any
output of its tiles. On CPU the algorithm is faster than the plain sum where there are many channels and tiles.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bnn_jax.native.library import varying_as
from bnn_jax.ops.geometry import Pads, Pair
from bnn_jax.ops.products import divisor, dot

Matrix = list[list[jax.Array]]

# The algorithm pays from this many input and output channels on: fewer products save more than the transforms cost.
MANY = 128
# The algorithm pays from this many tiles in a batch on: the window is transformed once for all of them.
TILES = 256
# Up to this many channels or filters, the sums over them are exact in float32 if both operands are signs.
EXACT = 2**24 // (4 * 81)
# Numbers that are transformed at a time: 8 MiB in float32, which a shared cache holds. One row of tiles may have more.
BLOCK = 2**21


def pays(x: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, pads: Pads, many: int | None = None) -> bool:
    """Whether `input_gradient` and `kernel_gradient` take operands of these shapes and are faster than the plain sums.

    Args:
        x: the shape of the images.
        kernel: the shape of the weights.
        strides: the strides of the convolution.
        pads: the padding of the convolution.
        many: the smallest number of channels and of filters; None: `MANY`.
    """
    many = MANY if many is None else many
    if kernel[:2] != (3, 3) or strides != (1, 1) or not all(0 <= pad <= 2 for pair in pads for pad in pair):
        return False
    height, width = (extent + sum(pair) - 2 for extent, pair in zip(x[1:3], pads, strict=True))
    tiles = x[0] * -(-height // 2) * -(-width // 2)
    return tiles >= TILES and min(kernel[2:]) >= many and max(kernel[2:]) <= EXACT


def input_gradient(
    kernel: Float[Array, '3 3 channels filters'], g: Float[Array, 'n rows columns filters'], pads: Pads
) -> Float[Array, 'n height width channels']:
    """dx of `convolution` at stride 1: the convolution of g with the rotated window, summed over filters."""
    (top, bottom), (left, right) = pads
    return _sums(g, kernel[::-1, ::-1], 1, ((2 - top, 2 - bottom), (2 - left, 2 - right)))


def _sums(x: jax.Array, kernel: jax.Array, axis: int, pads: Pads) -> jax.Array:
    """The convolution of x with a kernel. The channels of x are the kernel's axis 2 + axis."""
    height, width = (extent + sum(pair) - 2 for extent, pair in zip(x.shape[1:3], pads, strict=True))
    tiles, out = (-(-height // 2), -(-width // 2)), kernel.shape[3 - axis]
    # Computed once for the whole batch: every tile is multiplied by the same 16 matrices.
    windows = _both(_of_window, [[kernel[i, j] for j in range(3)] for i in range(3)])
    x = _padded(x, pads, tiles)
    rows = _rows(x.shape[0], tiles, sum(kernel.shape[2:]))

    # A band of tiles at a time, because the inputs of all 16 products together are four times as large as x.
    def band(i, y):
        here = lax.dynamic_slice_in_dim(x, 2 * rows * i, 2 * rows + 2, 1)
        inputs = _both(_of_tile, _phases(here, 4, (rows, tiles[1])))
        sums = [[dot(a, b, 3, axis) for a, b in zip(*two, strict=True)] for two in zip(inputs, windows, strict=True)]
        # The 2x2 outputs of each tile go to their places between those of its neighbors.
        woven = jnp.stack([jnp.stack(row, 3) for row in _both(_to_outputs, sums)], 2)
        woven = woven.reshape(-1, 2 * rows, 2 * tiles[1], out)
        return lax.dynamic_update_slice_in_dim(y, woven, 2 * rows * i, 1)

    y = varying_as(jnp.zeros((x.shape[0], 2 * tiles[0], 2 * tiles[1], out), x.dtype), x, kernel)
    return lax.fori_loop(0, tiles[0] // rows, band, y)[:, :height, :width]


def kernel_gradient(
    x: Float[Array, 'n height width channels'], g: Float[Array, 'n rows columns filters'], pads: Pads
) -> Float[Array, '3 3 channels filters']:
    """dkernel of `convolution` at stride 1: G^T [(B^T d B) * (A g A^T)] G, summed over tiles, with g that of 2x2 outputs."""
    height, width = g.shape[1:3]
    tiles = -(-height // 2), -(-width // 2)
    into, out = x.shape[-1], g.shape[-1]
    x = _padded(x, pads, tiles)
    g = jnp.pad(g, ((0, 0), (0, 2 * tiles[0] - height), (0, 2 * tiles[1] - width), (0, 0)))
    rows = _rows(x.shape[0], tiles, into + out)

    def add(i, sums):
        here = lax.dynamic_slice_in_dim(x, 2 * rows * i, 2 * rows + 2, 1)
        g_here = lax.dynamic_slice_in_dim(g, 2 * rows * i, 2 * rows, 1)
        inputs = _both(_of_tile, _phases(here, 4, (rows, tiles[1])))
        outputs = _both(_of_outputs, _phases(g_here, 2, (rows, tiles[1])))
        return [
            [total + dot(a.reshape(-1, into), b.reshape(-1, out), 0, 0) for total, a, b in zip(*three, strict=True)]
            for three in zip(sums, inputs, outputs, strict=True)
        ]

    zeros = [[varying_as(jnp.zeros((into, out), g.dtype), x, g)] * 4] * 4
    sums = lax.fori_loop(0, tiles[0] // rows, add, zeros)
    return jnp.stack([jnp.stack(row) for row in _both(_to_window, sums)])


def _of_tile(d):
    """B^T d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_window(g):
    """G g."""
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _to_outputs(m):
    """A^T m."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _of_outputs(y):
    """A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _to_window(m):
    """G^T m."""
    return [m[0] + (m[1] + m[2]) / 2, (m[1] - m[2]) / 2, (m[1] + m[2]) / 2 + m[3]]


def _both(transform, matrix: Matrix) -> Matrix:
    """The transform of the columns of a matrix of arrays, then of its rows."""
    columns = [transform(list(column)) for column in zip(*matrix, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _phases(x: jax.Array, size: int, tiles: Pair) -> Matrix:
    """Pixel (i, j) of every size x size tile, for each i and j: (N, rows of tiles, tiles in a row, C).

    Tiles begin at every second pixel.
    """
    ends = [[start + 2 * count - 1 for start in range(size)] for count in tiles]
    return [[x[:, i : ends[0][i] : 2, j : ends[1][j] : 2] for j in range(size)] for i in range(size)]


def _padded(x: jax.Array, pads: Pads, tiles: Pair) -> jax.Array:
    """x with its padding, and with one more row or column if the last tile has half its outputs outside."""
    more = [2 * count + 2 - extent - sum(pair) for count, extent, pair in zip(tiles, x.shape[1:3], pads, strict=True)]
    rows, columns = ((pair[0], pair[1] + extra) for pair, extra in zip(pads, more, strict=True))
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _rows(n: int, tiles: Pair, channels: int) -> int:
    """How many rows of tiles are transformed at a time: a divisor of their number, at most as many as BLOCK holds."""
    # A tile has 16 numbers for each input channel and each output channel.
    return divisor(tiles[0], BLOCK // (16 * n * tiles[1] * channels))
