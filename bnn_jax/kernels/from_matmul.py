"""A matrix product of words is enough to make a backend: a convolution is that product on the words of every window."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from bnn_jax.kernels.zero_padding import outside_sum, padding_words, tap_sums
from bnn_jax.ops.windows import Window


@dataclasses.dataclass(frozen=True)
class FromMatmul:
    """A backend made of `product`: (n_words, m), (n_words, n), k -> (m, n) int32, k - 2 popcount(x xor w) over all words.

    Words come first, so that one word of all rows is contiguous. The windows' words are 32 times smaller than floats.
    """

    product: Callable[[jax.Array, jax.Array, int], jax.Array]

    @partial(jax.jit, static_argnums=(0, 3))
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """The product itself: tail bits are 0 in both operands and never differ."""
        return self.product(x_words.T, w_words.T, k)

    @partial(jax.jit, static_argnums=(0, 4, 5, 6))
    def conv2d(self, x_words, w_words, sums, channels: int, window: Window, pad_value: int) -> jax.Array:
        """The product on the words of every window; pad value 0 is +1 padding less what the padding added."""
        n, height, width, _ = x_words.shape
        taps = window.taps(x_words, padding_words(channels, pad_value))
        rows = taps.shape[2:4]
        words_first = jnp.moveaxis(taps, -1, 1).reshape(-1, n * rows[0] * rows[1])
        k = window.size[0] * window.size[1] * channels
        product = self.product(words_first, w_words.reshape(words_first.shape[0], -1), k).reshape(n, *rows, -1)
        if pad_value == 0:
            sums = tap_sums(w_words, channels) if sums is None else sums
            product = product - outside_sum(sums, window, height, width)[None]
        return product
