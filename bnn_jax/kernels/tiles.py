"""Prepares words for Pallas kernels: int32, padded with zeros to whole tiles."""

import jax
import jax.numpy as jnp
from jax import lax


def rounded_up(extent: int, to: int) -> int:
    """The smallest multiple of `to` that is not below extent."""
    return -(-extent // to) * to


def padded(words: jax.Array, tile: tuple[int, int]) -> jax.Array:
    """(rows, columns) uint32 -> int32 with the same bits, padded with zeros to multiples of the tile.

    int32, because Triton's compiler counts the bits of signed words only.
    """
    fill = [(0, rounded_up(extent, to) - extent) for extent, to in zip(words.shape, tile, strict=True)]
    # Padding is clear bits in both operands, which stand for +1, so each of them adds 1. `matrix` subtracts these ones.
    # `popcount` counts no difference.
    return jnp.pad(lax.bitcast_convert_type(words, jnp.int32), fill)
