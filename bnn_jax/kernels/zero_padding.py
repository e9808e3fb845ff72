"""Zero padding in bits: compute what +1 padding adds to each output pixel, so that it can be subtracted exactly.

A bit holds +1 or -1, never 0. So the image is padded with +1. If the window of an output pixel reaches outside the
image, the sum of the weights that met padding is subtracted from that pixel.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bnn_jax.ops.bits import WORD_BITS, unpack, words_for
from bnn_jax.ops.windows import Window


def padding_words(channels: int, pad_value: int) -> jax.Array:
    """The words of one pixel outside the image: all +1 for pad value +1 or 0, all -1 (tail bits still 0) for -1."""
    bits = [min(WORD_BITS, channels - WORD_BITS * i) for i in range(words_for(channels))]
    return jnp.asarray([(1 << b) - 1 if pad_value == -1 else 0 for b in bits], jnp.uint32)


@partial(jax.jit, static_argnames='channels')
def tap_sums(w_words: jax.Array, channels: int) -> jax.Array:
    """Sum of the weights at each tap of each filter: (kh, kw, n_words, out) -> (kh, kw, out) int32."""
    # Tail bits are 0, so they do not add to the count of -1, and `channels` is the right number of terms.
    set_bits = jnp.sum(lax.population_count(w_words), axis=2, dtype=jnp.int32)
    return channels - 2 * set_bits


@partial(jax.jit, static_argnames='filters')
def narrow_tap_sums(w_words: jax.Array, filters: int) -> jax.Array:
    """`tap_sums` from words along the filters: (kh, kw, channels of a group, words_for(filters)) -> (kh, kw, filters)."""
    return jnp.sum(unpack(w_words, filters, axis=3).astype(jnp.int32), axis=2, dtype=jnp.int32)


def outside_sum(tap_sums: jax.Array, window: Window, height: int, width: int) -> jax.Array:
    """For an image of this size, the sum of `tap_sums` over the taps outside it, per output pixel: (H', W', out) int32.

    Few patterns of outside taps occur (at most 9 for a 3x3 window with one pixel of padding). So each pattern's sum is
    computed once. Which pattern a pixel has is known when the function is traced.
    """
    ones = np.ones((height, width), np.int32)
    padded = np.pad(ones, window.pads(height, width))
    views = np.lib.stride_tricks.sliding_window_view(padded, window.extent)
    views = views[:: window.strides[0], :: window.strides[1], :: window.dilation[0], :: window.dilation[1]]
    outside = 1 - views.reshape(views.shape[0] * views.shape[1], -1)
    # NumPy, not jnp: the shapes are known when the function is traced, so this costs nothing later.
    patterns, index = np.unique(outside, axis=0, return_inverse=True)
    table = lax.dot_general(
        jnp.asarray(patterns, jnp.int32),
        tap_sums.reshape(-1, tap_sums.shape[-1]),
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.int32,
    )
    return table[index.reshape(views.shape[:2])]
