"""C++ kernels for CPU, called by XLA on its own threads: the widest instruction set that the processor has, found there.

Built with the package (`build.py`); `missing` says why they are not there, if so. `vmap` calls them once an example; under
a mesh they run within `jax.shard_map`, for XLA does not look into them. No gradients.
"""

import ctypes
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.kernels import fallbacks
from bnn_jax.kernels.zero_padding import padding_words
from bnn_jax.native import build
from bnn_jax.native.library import DISABLED_CHECKS as DISABLED_CHECKS
from bnn_jax.native.library import call, expect_there
from bnn_jax.native.library import instruction_sets as instruction_sets
from bnn_jax.native.library import missing as missing
from bnn_jax.ops import bits
from bnn_jax.ops.bits import words_for
from bnn_jax.ops.deterministic import normalize
from bnn_jax.ops.windows import Window, pad_channels


def limit(times: int, instructions: str = '') -> int:
    """Count the bits of words that stay in the first-level cache, `times` rounds on this thread, and store nothing.

    Returns how many products of signs that was: with the time it took, the most that a core can do with these kernels.
    """
    expect_there()
    function = ctypes.CDLL(str(build.LIBRARY)).bnn_limit
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_char_p, ctypes.c_int64]
    products = function(instructions.encode(), times)
    if products < 0:
        raise ValueError(f'instruction set: got {instructions!r}, expected one of {", ".join(instruction_sets())}')
    return products


@partial(jax.jit, static_argnames=('k', 'instructions'))
def matmul(x_words: jax.Array, w_words: jax.Array, k: int, instructions: str = '') -> jax.Array:
    """k - 2 popcount(x xor w), shared out by filters. Raises RuntimeError where the kernels cannot run.

    instructions: one of `instruction_sets()`; empty for the first.
    """
    shape = (x_words.shape[0], w_words.shape[0])
    return call('bnn_product', shape, jnp.int32, x_words, w_words, k=np.int64(k), instructions=instructions)


@partial(jax.jit, static_argnames=('channels', 'window', 'pad_value', 'instructions'))
def conv2d(
    x_words: jax.Array, w_words: jax.Array, sums, channels: int, window: Window, pad_value: int, instructions: str = ''
) -> jax.Array:
    """Convolution that reads the windows' words in place; a tap outside the image is left out, so 0 needs no correction."""
    x_words, shape, geometry = _placed(x_words, w_words, window, pad_value, padding_words(channels, pad_value))
    attributes = {'channels': np.int64(channels), 'geometry': geometry, 'instructions': instructions}
    return call('bnn_convolution', shape, jnp.int32, x_words, w_words, **attributes)


@partial(jax.jit, static_argnames=('channels', 'window', 'pad_value', 'instructions'))
def conv2d_signs(
    x_words: jax.Array,
    w_words: jax.Array,
    sums,
    thresholds: jax.Array,
    flip: jax.Array,
    channels: int,
    window: Window,
    pad_value: int,
    instructions: str = '',
) -> jax.Array:
    """Words of (conv2d < thresholds) ^ flip: no integer of the map is ever written. See `kernels.packed_conv2d_signs`."""
    x_words, shape, geometry = _placed(x_words, w_words, window, pad_value, padding_words(channels, pad_value))
    attributes = {'channels': np.int64(channels), 'geometry': geometry, 'instructions': instructions}
    shape = (*shape[:3], words_for(shape[3]))
    return call('bnn_convolution_signs', shape, jnp.uint32, x_words, w_words, thresholds, flip, **attributes)


@partial(jax.jit, static_argnames='instructions')
def signed_matmul(x: jax.Array, w_words: jax.Array, instructions: str = '') -> jax.Array:
    """Few rows along the words, each x added or taken off; many with tiles of signs unpacked for 32 filters and 32 inputs."""
    if x.dtype != jnp.float32:
        return fallbacks.signed_matmul(None, x, w_words)
    shape = (x.shape[0], w_words.shape[0])
    return call('bnn_product_floats', shape, jnp.float32, x, w_words, instructions=instructions)


@partial(jax.jit, static_argnames=('window', 'pad_value', 'instructions'))
def signed_conv2d(
    x: jax.Array, w_words: jax.Array, window: Window, pad_value: int, instructions: str = ''
) -> jax.Array:
    """Tiles of signs are unpacked for 32 filters and 32 channels, and multiply 128 pixels; all sums in one order."""
    if x.dtype != jnp.float32:
        return fallbacks.signed_conv2d(None, x, w_words, window, pad_value)
    x, shape, geometry = _placed(x, w_words, window, pad_value, jnp.full(x.shape[3:], pad_value, x.dtype))
    attributes = {'geometry': geometry, 'instructions': instructions}
    return call('bnn_convolution_floats', shape, jnp.float32, x, w_words, **attributes)


def _placed(x, w_words, window: Window, pad_value: int, outside: jax.Array):
    """The image with pads of `outside` round it unless they are 0, the shape of the result, and what `geometry` is in C++."""
    pads = window.pads(x.shape[1], x.shape[2])
    shape = (x.shape[0], *window.output_size(x.shape[1], x.shape[2]), w_words.shape[3])
    if pad_value != 0:
        x, pads = pad_channels(x, pads, outside), ((0, 0), (0, 0))
    return x, shape, np.asarray([*window.strides, pads[0][0], pads[1][0], *window.dilation], np.int64)


@partial(jax.jit, static_argnames='instructions')
def pack(x: jax.Array, coefficients: jax.Array | None = None, instructions: str = '') -> jax.Array:
    """`bits.pack` of x (..., channels), or of `exact.normalize(x, coefficients)`, which is never written; float32."""
    if x.dtype != jnp.float32:
        return bits.pack(x if coefficients is None else normalize(x, coefficients))
    if coefficients is None:
        coefficients = jnp.zeros((0,), jnp.float32)
    shape = (*x.shape[:-1], words_for(x.shape[-1]))
    return call('bnn_pack', shape, jnp.uint32, x, coefficients, instructions=instructions)
