"""Pallas on TPU: words come into a tile's memory and are unpacked there for the matrix unit, or compared and counted.

Interpret mode is what runs where there is no TPU. Never run on a TPU; the TPU compiler (libtpu 0.0.50) takes these kernels
for v5e and v6e, and for v4 all but the one with int8 operands.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.tiles import padded, rounded_up
from bnn_jax.ops.bits import WORD_BITS

TILE = 256
"""Rows and columns of a tile of the output, in lanes of 128."""
BLOCK = 32
"""Words of each row and column in one step, at most: unpacked to 32 bits each, 1 MB an operand."""


def matrix(x: jax.Array, w: jax.Array, k: int, *, operand) -> jax.Array:
    """Words unpacked to +1 and -1 in `operand`, int8 or bfloat16 (TPU v4 has no int8), multiplied by the matrix unit.

    Sums in a step have at most 32 BLOCK terms, exact in either; they are added up in int32. Tail bits and the words that
    fill the last block are +1 in both operands: they add 1 each and are taken off at the end.
    """
    sums = {jnp.int8: jnp.int32, jnp.bfloat16: jnp.float32}[operand]

    def product(x_block, w_block):
        x_signs, w_signs = (_signs(block).astype(operand) for block in (x_block, w_block))
        numbers = (((0,), (0,)), ((), ()))
        return lax.dot_general(x_signs, w_signs, numbers, preferred_element_type=sums).astype(jnp.int32)

    total, n_words = _tiled(product, x, w)
    return total - (WORD_BITS * n_words - k)


def popcount(x: jax.Array, w: jax.Array, k: int) -> jax.Array:
    """Exclusive or and bit counts in the vector unit, one word of a tile at a time."""

    def differences(x_block, w_block):
        columns = x_block.T
        counts = [lax.population_count(columns[:, i : i + 1] ^ w_block[i : i + 1]) for i in range(w_block.shape[0])]
        return sum(counts[1:], start=counts[0])

    total, _ = _tiled(differences, x, w)
    return k - 2 * total


def _signs(words: jax.Array) -> jax.Array:
    """(words, n) int32 -> (32 words, n) int32 of +1 and -1, all words' bits 0 first, then all bits 1, ..."""
    bits = [lax.shift_right_logical(words, jnp.full_like(words, j)) & 1 for j in range(WORD_BITS)]
    return 1 - 2 * jnp.concatenate(bits)


def _tiled(step, x: jax.Array, w: jax.Array) -> tuple[jax.Array, int]:
    """Sum over blocks of words of step(x block, w block), (m, n) int32, and the number of words with those filled in."""
    n_words, (m, n) = x.shape[0], (x.shape[1], w.shape[1])
    blocks = -(-n_words // BLOCK)
    # The memory of a TPU is tiled: 8 rows of 128 lanes of 32 bits.
    block = rounded_up(-(-n_words // blocks), 8)
    rows, columns = (min(TILE, rounded_up(extent, 128)) for extent in (m, n))
    x, w = padded(x, (block, rows)), padded(w, (block, columns))

    def call(x, w, interpret):
        # Importing Pallas takes a tenth of the time that a packed network needs to start on a CPU.
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

    # The blocks of words are the last axis of the grid: the output's tile stays while they pass.
    @pl.when(pl.program_id(2) == 0)
    def _():
        out_ref[...] = jnp.zeros_like(out_ref)

    out_ref[...] += step(x_ref[...], w_ref[...])
