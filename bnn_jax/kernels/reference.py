"""The definition: unpack, then multiply and add integers. Obvious rather than fast; every other backend equals it exactly."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.ops.bits import unpack
from bnn_jax.ops.windows import Window


@partial(jax.jit, static_argnames='k')
def matmul(x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
    """out[i, j] = sum over the k signs of x[i] * w[j]."""
    x, w = (unpack(words, k).astype(jnp.int32) for words in (x_words, w_words))
    return lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)


@partial(jax.jit, static_argnames=('channels', 'window', 'pad_value'))
def conv2d(x_words: jax.Array, w_words: jax.Array, sums, channels: int, window: Window, pad_value: int) -> jax.Array:
    """out[n, i, j, f] = sum over window taps and channels of x * w, with x = pad_value outside the image; sums: not needed."""
    x = unpack(x_words, channels).astype(jnp.int32)
    w = unpack(w_words, channels, axis=2).astype(jnp.int32)
    taps = window.taps(x, pad_value)
    w = w.reshape(taps.shape[0], channels, -1)
    # One product a tap: an integer convolution would be shorter, but padded ones are miscompiled on CPU (jax 0.10).
    products = [
        lax.dot_general(tap, kernel, (((3,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        for tap, kernel in zip(taps, w, strict=True)
    ]
    return jnp.sum(jnp.stack(products), axis=0, dtype=jnp.int32)
