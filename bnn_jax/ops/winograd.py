"""Gradients of 3x3 convolutions of stride 1 by Winograd's F(2x2, 3x3): 16 products for four numbers, where 36 is the plain way.

With B, G, A the matrices of arXiv:1509.09308, section 4.1, a 4x4 tile d of the image (they overlap by two pixels) and the
window g give the 2x2 outputs A^T [(G g G^T) * (B^T d B)] A, * element by element; over channels, that is a matrix product
for each of the 16 elements. B and A have entries 0 and +-1, G has halves, so that on +-1 and 0 every number is a multiple
of 1/4, at most 81 a channel, and nothing is rounded in float32: exact where binary layers have to be. On real numbers it
rounds in another order than the plain sum, and an infinity or NaN makes NaN of all outputs of its tiles. On CPU it takes
less time than the plain sum where channels and tiles are many.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.ops.geometry import Pads, Pair
from bnn_jax.ops.products import divisor, dot

Matrix = list[list[jax.Array]]

MANY = 128
"""Channels, in and out, from which the 16 products cost more than what is done to their inputs and outputs."""

TILES = 256
"""Tiles of a whole batch from which they cost more than what is done to the window, too."""

EXACT = 2**24 // (4 * 81)
"""Channels up to which products of signs are exact in float32."""

BLOCK = 2**21
"""Numbers in flight, 8 MiB in float32, which a shared cache holds; more only where one row of tiles, the least, has more."""


def pays(x: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, pads: Pads, many: int | None = None) -> bool:
    """Whether operands of these shapes have the form that these functions take, and channels (many: MANY) and tiles enough."""
    many = MANY if many is None else many
    if kernel[:2] != (3, 3) or strides != (1, 1) or not all(0 <= pad <= 2 for pair in pads for pad in pair):
        return False
    height, width = (extent + sum(pair) - 2 for extent, pair in zip(x[1:3], pads, strict=True))
    tiles = x[0] * -(-height // 2) * -(-width // 2)
    return tiles >= TILES and min(kernel[2:]) >= many and max(kernel[2:]) <= EXACT


def input_gradient(kernel: jax.Array, g: jax.Array, pads: Pads) -> jax.Array:
    """dx of `convolution` at stride 1: the convolution of g with the window turned round, summed over filters."""
    (top, bottom), (left, right) = pads
    return _sums(g, kernel[::-1, ::-1], 1, ((2 - top, 2 - bottom), (2 - left, 2 - right)))


def _sums(x: jax.Array, kernel: jax.Array, axis: int, pads: Pads) -> jax.Array:
    """The convolution of x with a kernel whose channels that x has are on this axis behind the window's two."""
    height, width = (extent + sum(pair) - 2 for extent, pair in zip(x.shape[1:3], pads, strict=True))
    tiles, out = (-(-height // 2), -(-width // 2)), kernel.shape[3 - axis]
    # Once for the whole batch: every tile meets the same 16 matrices.
    windows = _both(_of_window, [[kernel[i, j] for j in range(3)] for i in range(3)])
    x = _padded(x, pads, tiles)
    rows = _rows(x.shape[0], tiles, sum(kernel.shape[2:]))

    # A band of tiles at a time: the inputs of all 16 products at once would be four times as large as x.
    def band(i, y):
        here = lax.dynamic_slice_in_dim(x, 2 * rows * i, 2 * rows + 2, 1)
        inputs = _both(_of_tile, _phases(here, 4, (rows, tiles[1])))
        sums = [[dot(a, b, 3, axis) for a, b in zip(*two, strict=True)] for two in zip(inputs, windows, strict=True)]
        # Each tile's 2x2 outputs back to their places between those of its neighbors.
        woven = jnp.stack([jnp.stack(row, 3) for row in _both(_to_outputs, sums)], 2)
        woven = woven.reshape(-1, 2 * rows, 2 * tiles[1], out)
        return lax.dynamic_update_slice_in_dim(y, woven, 2 * rows * i, 1)

    y = jnp.zeros((x.shape[0], 2 * tiles[0], 2 * tiles[1], out), x.dtype)
    return lax.fori_loop(0, tiles[0] // rows, band, y)[:, :height, :width]


def kernel_gradient(x: jax.Array, g: jax.Array, pads: Pads) -> jax.Array:
    """dkernel of `convolution` at stride 1: the products turned round, G^T [(B^T d B) * (A g A^T)] G summed over tiles."""
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

    zeros = [[jnp.zeros((into, out), g.dtype)] * 4] * 4
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
    """transform on the columns of a matrix of arrays, then on its rows."""
    columns = [transform(list(column)) for column in zip(*matrix, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _phases(x: jax.Array, size: int, tiles: Pair) -> Matrix:
    """Pixel (i, j) of all size x size tiles, which begin at every second pixel: (N, rows of tiles, tiles a row, C)."""
    ends = [[start + 2 * count - 1 for start in range(size)] for count in tiles]
    return [[x[:, i : ends[0][i] : 2, j : ends[1][j] : 2] for j in range(size)] for i in range(size)]


def _padded(x: jax.Array, pads: Pads, tiles: Pair) -> jax.Array:
    """x with its padding, and with a row or column more where the last tile has half its outputs outside."""
    more = [2 * count + 2 - extent - sum(pair) for count, extent, pair in zip(tiles, x.shape[1:3], pads, strict=True)]
    rows, columns = ((pair[0], pair[1] + extra) for pair, extra in zip(pads, more, strict=True))
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _rows(n: int, tiles: Pair, channels: int) -> int:
    """Rows of tiles at a time: a divisor of all, as many as BLOCK holds, at least one."""
    # 16 numbers a tile and channel, of inputs and of outputs.
    return divisor(tiles[0], BLOCK // (16 * n * tiles[1] * channels))
