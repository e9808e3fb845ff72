"""The bit convention: 32 signs in a uint32 word, least significant bit first, a set bit for -1, tail bits 0."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.ops.deterministic import negative

WORD_BITS = 32


def words_for(k: int) -> int:
    """How many words hold k signs."""
    return -(-k // WORD_BITS)


@partial(jax.jit, static_argnames='axis')
def pack(x, axis: int = -1) -> jax.Array:
    """Signs of x along `axis` as uint32 words: bit j of word i is set where x[32 i + j] < 0; tail bits are 0.

    x: (..., k, ...), any real dtype. Returns uint32 with ceil(k / 32) in place of k. The predicate is that of
    `quantizers.sign`: 0, -0.0 and subnormal numbers give bit 0; a NaN, which no bit can hold, gives a set bit.
    Raises TypeError for bool and complex, ValueError for an axis that is not there or is empty.
    """
    x = jnp.asarray(x)
    if x.dtype == jnp.bool_ or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f'pack: got dtype {x.dtype}, expected real numbers whose signs are to be packed')
    axis = _axis('pack', x, axis)
    k = x.shape[axis]
    if k == 0:
        raise ValueError(f'pack: got shape {x.shape}, expected at least one element along axis {axis}')
    set_bits = jnp.moveaxis(negative(x), axis, -1)
    tail = [(0, 0)] * (x.ndim - 1) + [(0, words_for(k) * WORD_BITS - k)]
    set_bits = jnp.pad(set_bits, tail).reshape(*set_bits.shape[:-1], words_for(k), WORD_BITS)
    shifts = np.arange(WORD_BITS, dtype=np.uint32).reshape((1,) * x.ndim + (WORD_BITS,))
    # The bits of a word do not overlap, so their sum is their OR.
    words = jnp.sum(set_bits.astype(jnp.uint32) << shifts, axis=-1, dtype=jnp.uint32)
    return jnp.moveaxis(words, -1, axis)


@partial(jax.jit, static_argnames=('k', 'axis'))
def unpack(words, k: int, axis: int = -1) -> jax.Array:
    """The k signs held by `words` along `axis`: +1 for a bit 0, -1 for a set bit, as float32; the inverse of `pack`.

    words: (..., ceil(k / 32), ...) uint32. Returns (..., k, ...) float32.
    Raises TypeError for another dtype, ValueError if the number of words is not ceil(k / 32).
    """
    words = jnp.asarray(words)
    if words.dtype != jnp.uint32:
        raise TypeError(f'unpack: got dtype {words.dtype}, expected uint32 words as made by pack')
    axis = _axis('unpack', words, axis)
    if k < 1 or words.shape[axis] != words_for(k):
        raise ValueError(f'unpack: got {words.shape[axis]} words for k = {k}, expected {words_for(max(k, 0))}')
    words = jnp.moveaxis(words, axis, -1)
    # Written out axis by axis: strict rank promotion broadcasts nothing by itself.
    shifts = np.arange(WORD_BITS, dtype=np.uint32).reshape((1,) * words.ndim + (WORD_BITS,))
    bits = (words[..., None] >> shifts) & np.uint32(1)
    signs = 1 - 2 * bits.reshape(*words.shape[:-1], -1)[..., :k].astype(jnp.float32)
    return jnp.moveaxis(signs, -1, axis)


def _axis(name: str, x: jax.Array, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f'{name}: got axis {axis} for shape {x.shape}, expected -{x.ndim} <= axis < {x.ndim}')
    return axis % x.ndim
