"""What a backend need not have of its own: signs of a map and of a convolution, products of floats with packed signs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.ops import bits
from bnn_jax.ops.deterministic import normalize, wide
from bnn_jax.ops.general_convolution import general_convolution
from bnn_jax.ops.windows import Window, pad_channels

TILE = 2**20
"""Signs that are unpacked at a time, at most, where there are more than 32 filters: 4 MiB of floats."""


def method(backend: Any, name: str) -> Callable:
    """backend.name, or this module's on that backend."""
    own = getattr(backend, name, None)
    return partial(globals()[name], backend) if own is None else own


def conv2d_signs(backend, x_words, w_words, sums, thresholds, flip, channels: int, window: Window, pad_value: int):
    """Words of (conv2d < thresholds) ^ flip."""
    y = backend.conv2d(x_words, w_words, sums, channels, window, pad_value)
    return below(y, thresholds, flip)


def below(integers: jax.Array, thresholds: jax.Array, flip: jax.Array) -> jax.Array:
    """Words of (integers < thresholds) ^ flip, along the last axis."""
    words = bits.pack(jnp.where(integers < jnp.broadcast_to(thresholds, integers.shape), jnp.int32(-1), jnp.int32(1)))
    return words ^ jnp.broadcast_to(flip, words.shape)


def pack(backend, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
    """`bits.pack` of x, or of `exact.normalize(x, coefficients)`."""
    return bits.pack(x if coefficients is None else normalize(x, coefficients))


def signed_matmul(backend, x: jax.Array, w_words: jax.Array) -> jax.Array:
    """x (m, k) times the signs of w_words (n, n_words)."""

    def product(w_words):
        signs = bits.unpack(w_words, x.shape[1]).astype(x.dtype)
        return lax.dot_general(x, signs, (((1,), (1,)), ((), ())), preferred_element_type=wide(x.dtype))

    return _by_filters(product, w_words, 0, x.shape[1])


def signed_conv2d(backend, x: jax.Array, w_words: jax.Array, window: Window, pad_value: int) -> jax.Array:
    """Convolution of x (N, H, W, channels) with the signs of w_words (kh, kw, n_words, out)."""
    pads, channels = window.pads(x.shape[1], x.shape[2]), x.shape[3]
    if pad_value != 0:
        x, pads = pad_channels(x, pads, jnp.full((channels,), pad_value, x.dtype)), ((0, 0), (0, 0))

    def product(w_words):
        signs = bits.unpack(w_words, channels, axis=2).astype(x.dtype)
        return general_convolution(x, signs, window.strides, pads, window.dilation)

    return _by_filters(product, w_words, 3, window.size[0] * window.size[1] * channels)


def _by_filters(product: Callable[[jax.Array], Any], w_words: jax.Array, axis: int, k: int) -> jax.Array:
    """product(w_words), whose last axis is the filters', a tile of filters after the other: all their floats never exist."""
    filters = w_words.shape[axis]
    tiles = -(-filters // max(bits.WORD_BITS, TILE // k))
    if tiles <= 1:
        return product(w_words)
    each = -(-filters // tiles)
    pads = [(0, 0)] * w_words.ndim
    pads[axis] = (0, tiles * each - filters)
    shape = (*w_words.shape[:axis], tiles, each, *w_words.shape[axis + 1 :])
    y = jnp.moveaxis(lax.map(product, jnp.moveaxis(jnp.pad(w_words, pads).reshape(shape), axis, 0)), 0, -2)
    return y.reshape(*y.shape[:-2], tiles * each)[..., :filters]
