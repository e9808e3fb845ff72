"""Makes a backend from a matrix product of words: a convolution is this product on the words of every window."""

import dataclasses
from collections.abc import Callable

import jax

from bnn_jax.kernels.backend import Backend, compiled
from bnn_jax.ops.windows import Window


@dataclasses.dataclass(frozen=True)
class FromMatmul(Backend):
    """A backend made of `product`: (n_words, m), (n_words, n), k -> (m, n) int32, k - 2 popcount(x xor w) over all words.

    Words come first, so that one word of all rows is contiguous. A convolution gathers the words of all windows. If the
    channels fill whole words, this takes 1/32 of the memory that float32 numbers would take.
    """

    product: Callable[[jax.Array, jax.Array, int], jax.Array]

    @compiled(0, 3)
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """The product itself: tail bits are 0 in both operands and never differ."""
        return self.product(x_words.T, w_words.T, k)

    @compiled(0, 4, 5, 6, 7)
    def conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """The product on the words of every window."""
        # Overridden only to compile it on its own: the default methods of `Backend` are not compiled.
        return super().conv2d(x_words, w_words, tap_sums, channels, window, pad_value, groups)

    def _product(self, x: jax.Array, w: jax.Array, k: int) -> jax.Array:
        return self.product(x, w, k)
