"""Pallas kernels for TPU. A tile's words are unpacked for the matrix unit, or their bits are compared and counted.

They have never run on a TPU. The TPU compiler (libtpu 0.0.50) accepts them for v5e and v6e. For v4 it accepts all but
the one with int8 operands. On other devices Pallas interprets them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.tiles import padded, rounded_up
from bnn_jax.ops.bits import WORD_BITS

TILE = 256
"""The largest number of rows, and of columns, of a tile of the output. Smaller numbers are multiples of 128, the lanes."""
BLOCK = 32
"""The largest number of words of each row and column in one step. As int32, the signs of one operand's block take 1 MiB."""


def matrix(x: jax.Array, w: jax.Array, k: int, *, operand) -> jax.Array:
    """Unpack the words to +1 and -1 and multiply them in the matrix unit.

    operand: the dtype of the unpacked signs, int8 or bfloat16 (TPU v4 has no int8).

    A step sums at most 32 * BLOCK terms, which is exact in int32 and float32; the steps are added in int32. Tail bits, and
    the bits of the words that fill the last block, are +1 in both operands. Each adds 1, which is
    subtracted at the end.
    """
    sums = {jnp.int8: jnp.int32, jnp.bfloat16: jnp.float32}[operand]

    def product(x_block, w_block):
        x_signs, w_signs = (_signs(block).astype(operand) for block in (x_block, w_block))
        numbers = (((0,), (0,)), ((), ()))
        return lax.dot_general(x_signs, w_signs, numbers, preferred_element_type=sums).astype(jnp.int32)

    total, n_words = _tiled(product, x, w)
    return total - (WORD_BITS * n_words - k)


def popcount(x: jax.Array, w: jax.Array, k: int) -> jax.Array:
    """Compute the exclusive or and count its bits in the vector unit, one word of a tile at a time."""

    def differences(x_block, w_block):
        columns = x_block.T
        counts = [lax.population_count(columns[:, i : i + 1] ^ w_block[i : i + 1]) for i in range(w_block.shape[0])]
        return sum(counts[1:], start=counts[0])

    total, _ = _tiled(differences, x, w)
    return k - 2 * total


def _signs(words: jax.Array) -> jax.Array:
    """(words, n) int32 -> (32 words, n) int32 of +1 and -1: first bit 0 of all words, then bit 1 of all words, and so on."""
    bits = [lax.shift_right_logical(words, jnp.full_like(words, j)) & 1 for j in range(WORD_BITS)]
    return 1 - 2 * jnp.concatenate(bits)


def _tiled(step, x: jax.Array, w: jax.Array) -> tuple[jax.Array, int]:
    """Sum step(x block, w block) over blocks of words. Returns (m, n) int32 and the number of words, padding included."""
    n_words, (m, n) = x.shape[0], (x.shape[1], w.shape[1])
    blocks = -(-n_words // BLOCK)
    # The memory of a TPU is tiled: 8 rows of 128 lanes of 32 bits.
    block = rounded_up(-(-n_words // blocks), 8)
    rows, columns = (min(TILE, rounded_up(extent, 128)) for extent in (m, n))
    x, w = padded(x, (block, rows)), padded(w, (block, columns))

    def call(x, w, interpret):
        # Imported here, because a packed network that starts on a CPU does not need Pallas.
        from jax.experimental import pallas as pl

        return pl.pallas_call(
            partial(_kernel, step),
            grid=(x.shape[1] // rows, w.shape[1] // columns, blocks),
            in_specs=[
                pl.BlockSpec((block, rows), lambda i, j, b: (b, i)),
                pl.BlockSpec((block, columns), lambda i, j, b: (b, j)),
            ],
            out_specs=pl.BlockSpec((rows, columns), lambda i, j, b: (i, j)),
            out_shape=jax.ShapeDtypeStruct((x.shape[1], w.shape[1]), jnp.int32),
            interpret=interpret,
        )(x, w)

    total = lax.platform_dependent(x, w, tpu=partial(call, interpret=False), default=partial(call, interpret=True))
    return total[:m, :n], block * blocks


def _kernel(step, x_ref, w_ref, out_ref):
    from jax.experimental import pallas as pl

    # The blocks of words are the last axis of the grid, so the output's tile stays in memory while they are added.
    @pl.when(pl.program_id(2) == 0)
    def _():
        out_ref[...] = jnp.zeros_like(out_ref)

    out_ref[...] += step(x_ref[...], w_ref[...])
