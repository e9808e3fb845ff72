"""What a backend need not have of its own: signs of a map, and signs of a convolution, from what every backend has."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bnn_jax import bits
from bnn_jax.exact import normalize
from bnn_jax.windows import Window


def method(backend: Any, name: str) -> Callable:
    """backend.name, or this module's on that backend."""
    own = getattr(backend, name, None)
    return partial(globals()[name], backend) if own is None else own


def conv2d_signs(backend, x_words, w_words, sums, thresholds, flip, channels: int, window: Window, pad_value: int):
    """Words of (conv2d < thresholds) ^ flip."""
    y = backend.conv2d(x_words, w_words, sums, channels, window, pad_value)
    words = bits.pack(y - jnp.broadcast_to(thresholds, y.shape))
    return words ^ jnp.broadcast_to(flip, words.shape)


def pack(backend, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
    """`bits.pack` of x, or of `exact.normalize(x, coefficients)`."""
    return bits.pack(x if coefficients is None else normalize(x, coefficients))
