"""Pallas on NVIDIA GPUs, compiled by Triton: words are unpacked in registers for the tensor cores, or compared and counted.

The kernels have never run on a GPU. They were tested in interpret mode, which runs wherever there is no NVIDIA GPU,
and by lowering them. From version 0.11 on, JAX warns that its Triton compiler is deprecated; the successor, for Hopper, has no
bit count.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.tiles import padded
from bnn_jax.ops.bits import WORD_BITS

TILE = 64
"""Rows and columns of a tile of the output; Triton requires a power of two."""
BLOCK = 32
"""Words of a row or column in one step of `matrix`: the depth of one 8-bit product of the tensor cores."""


def matrix(x: jax.Array, w: jax.Array, k: int) -> jax.Array:
    """32 products of 8-bit signs for each block of 32 words: product j multiplies bit j of every word. Sums are int32.

    Tail bits, and the bits of the words that fill the last block, are +1 in both operands. Each adds 1, which is subtracted
    at the end.
    """

    def product(x_ref, w_ref, b, total):
        from jax.experimental import pallas as pl

        words = pl.ds(b * BLOCK, BLOCK)
        x_block, w_block = x_ref[words, :].T, w_ref[words, :]

        # Bit j of all words is multiplied at once, because the order of the products does not change their sum.
        def add_bit(j, total):
            x_signs, w_signs = (
                (1 - 2 * (lax.shift_right_logical(block, jnp.full_like(block, j)) & 1)).astype(jnp.int8)
                for block in (x_block, w_block)
            )
            numbers = (((1,), (0,)), ((), ()))
            return total + lax.dot_general(x_signs, w_signs, numbers, preferred_element_type=jnp.int32)

        return lax.fori_loop(0, WORD_BITS, add_bit, total)

    total, n_words = _tiled(product, x, w, BLOCK)
    return total - (WORD_BITS * n_words - k)


def popcount(x: jax.Array, w: jax.Array, k: int) -> jax.Array:
    """Exclusive or and bit counts, one word of a tile at a time."""

    def differences(x_ref, w_ref, b, total):
        return total + lax.population_count(x_ref[b, :][:, None] ^ w_ref[b, :][None])

    total, _ = _tiled(differences, x, w, 1)
    return k - 2 * total


def _tiled(step, x: jax.Array, w: jax.Array, block: int) -> tuple[jax.Array, int]:
    """Calls step(x tile, w tile, b, total so far) for every block b of words.

    Returns:
        The total, (m, n) int32, and the number of words in a row after padding to whole blocks.
    """
    m, n = x.shape[1], w.shape[1]
    x, w = padded(x, (block, TILE)), padded(w, (block, TILE))
    # Each kernel call gets all words of its tile's rows and columns, so the loop over words is inside the kernel.
    n_words = x.shape[0]

    def kernel(x_ref, w_ref, out_ref):
        start = jnp.zeros((TILE, TILE), jnp.int32)
        out_ref[...] = lax.fori_loop(0, n_words // block, lambda b, total: step(x_ref, w_ref, b, total), start)

    def call(x, w, **options):
        # Imported here, because a packed network that starts on a CPU does not need Pallas.
        from jax.experimental import pallas as pl

        return pl.pallas_call(
            kernel,
            grid=(x.shape[1] // TILE, w.shape[1] // TILE),
            in_specs=[
                pl.BlockSpec((n_words, TILE), lambda i, j: (0, i)),
                pl.BlockSpec((n_words, TILE), lambda i, j: (0, j)),
            ],
            out_specs=pl.BlockSpec((TILE, TILE), lambda i, j: (i, j)),
            out_shape=jax.ShapeDtypeStruct((x.shape[1], w.shape[1]), jnp.int32),
            **options,
        )(x, w)

    def compiled(x, w):
        from jax.experimental.pallas import triton

        return call(x, w, compiler_params=triton.CompilerParams(num_warps=4))

    # Interpreted wherever there is no NVIDIA GPU, so that a test on a CPU compares this kernel with the other backends.
    total = lax.platform_dependent(x, w, cuda=compiled, default=partial(call, interpret=True))
    return total[:m, :n], n_words
