"""XNOR and popcount in plain JAX: a loop over words, which XLA:CPU turns into vector code without temporaries.

The obvious broadcast, `sum(popcount(x[:, None] ^ w[None]), -1)`, is not fused on CPU and runs about 20 times slower.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.bits import WORD_BITS, words_for
from bnn_jax.kernels.borders import outside_sum, tap_sums
from bnn_jax.windows import Window


@partial(jax.jit, static_argnames='k')
def matmul(x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
    """k - 2 popcount(x xor w): tail bits are 0 in both and never differ."""
    return k - 2 * _differences(x_words.T, w_words.T)


@partial(jax.jit, static_argnames=('channels', 'window', 'pad_value'))
def conv2d(x_words: jax.Array, w_words: jax.Array, channels: int, window: Window, pad_value: int) -> jax.Array:
    """As `matmul` on the words of every window; pad value 0 is +1 padding less what the padding added."""
    n, height, width, n_words = x_words.shape
    taps = window.taps(x_words, padding_words(channels, pad_value))
    rows = taps.shape[2:4]
    words_first = jnp.moveaxis(taps, -1, 1).reshape(-1, n * rows[0] * rows[1])
    k = window.size[0] * window.size[1] * channels
    differences = _differences(words_first, w_words.reshape(words_first.shape[0], -1))
    product = (k - 2 * differences).reshape(n, *rows, -1)
    if pad_value == 0:
        product = product - outside_sum(tap_sums(w_words, channels), window, height, width)[None]
    return product


def padding_words(channels: int, pad_value: int) -> jax.Array:
    """The words of one pixel outside the image: all +1 for pad value +1 or 0, all -1 (tail bits still 0) for -1."""
    bits = [min(WORD_BITS, channels - WORD_BITS * i) for i in range(words_for(channels))]
    return jnp.asarray([(1 << b) - 1 if pad_value == -1 else 0 for b in bits], jnp.uint32)


def _differences(x: jax.Array, w: jax.Array) -> jax.Array:
    """(words, m), (words, n) -> (m, n) int32: how many bits differ, one word of both at a time."""

    def add_word(i, total):
        x_word = lax.dynamic_index_in_dim(x, i, keepdims=False)[:, None]
        w_word = lax.dynamic_index_in_dim(w, i, keepdims=False)[None]
        return total + lax.population_count(x_word ^ w_word).astype(jnp.int32)

    return lax.fori_loop(0, x.shape[0], add_word, jnp.zeros((x.shape[1], w.shape[1]), jnp.int32))
