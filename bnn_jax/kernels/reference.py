"""The definition of packed products: unpack, multiply and add integers. Every other backend gives the same integers."""

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.backend import Backend, compiled
from bnn_jax.ops.bits import unpack
from bnn_jax.ops.windows import Window


class Reference(Backend):
    """Integer products of the unpacked signs."""

    @compiled(0, 3)
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """out[i, j] = sum over the k signs of x[i] * w[j]."""
        x, w = (unpack(words, k).astype(jnp.int32) for words in (x_words, w_words))
        return lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)

    @compiled(0, 4, 5, 6, 7)
    def conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """out[n, i, j, f] = sum over window taps and channels of f's group of x * w, with x = pad_value outside the image.

        tap_sums: not needed.
        """
        each = channels // groups
        x = unpack(x_words, channels).astype(jnp.int32)
        w = unpack(w_words, each, axis=2).astype(jnp.int32)
        taps = window.taps(x, pad_value)
        taps = taps.reshape(*taps.shape[:-1], groups, each)
        w = w.reshape(taps.shape[0], each, groups, -1)
        # One product for each tap. An integer convolution would be shorter, but XLA miscompiles padded ones on CPU (jax 0.10).
        numbers = (((4,), (0,)), ((3,), (1,)))
        products = [
            lax.dot_general(tap, kernel, numbers, preferred_element_type=jnp.int32)
            for tap, kernel in zip(taps, w, strict=True)
        ]
        y = jnp.moveaxis(jnp.sum(jnp.stack(products), axis=0, dtype=jnp.int32), 0, -2)
        return y.reshape(*y.shape[:-2], -1)
