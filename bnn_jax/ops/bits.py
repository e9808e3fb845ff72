"""The bit convention: 32 signs in a uint32 word, least significant bit first, a set bit for -1, tail bits 0."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float32, Real, UInt32

from bnn_jax.ops.deterministic import negative

WORD_BITS = 32


def words_for(k: int) -> int:
    """How many words hold k signs.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.bits.words_for(33)
        2
    """
    return -(-k // WORD_BITS)


@partial(jax.jit, static_argnames='axis')
def pack(x: Real[ArrayLike, '*shape'], axis: int = -1) -> UInt32[Array, '*packed']:
    """Signs of x along `axis` as uint32 words: bit j of word i is set where x[32 i + j] < 0; tail bits are 0.

    Zero, -0.0 and numbers that are subnormal in `ops.wide(x.dtype)` give bit 0, as in `quantizers.sign`. NaN, which no
    bit can hold, gives a set bit.

    Args:
        x: real numbers, k of them along `axis`.
        axis: the axis along which words are filled.

    Returns:
        The shape of x with ceil(k / 32) in place of k.

    Raises:
        TypeError: x is bool or complex.
        ValueError: there is no such axis, or it is empty.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.bits.pack(jnp.array([1.0, -1.0, 0.0, -3.0]))
        Array([10], dtype=uint32)
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
def unpack(words: UInt32[ArrayLike, '*packed'], k: int, axis: int = -1) -> Float32[Array, '*shape']:
    """The k signs that `words` hold along `axis`: +1 for a bit 0, -1 for a set bit. The inverse of `pack`.

    Args:
        words: as made by `pack`.
        k: how many signs there are along the axis.
        axis: the axis along which words lie.

    Returns:
        The shape of words with k in place of ceil(k / 32).

    Raises:
        TypeError: words are not uint32.
        ValueError: there is no such axis, k is below 1, or there are not ceil(k / 32) words.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.bits.unpack(jnp.array([10], jnp.uint32), 4)
        Array([ 1., -1.,  1., -1.], dtype=float32)
    """
    words = jnp.asarray(words)
    if words.dtype != jnp.uint32:
        raise TypeError(f'unpack: got dtype {words.dtype}, expected uint32 words as made by pack')
    axis = _axis('unpack', words, axis)
    if k < 1:
        raise ValueError(f'unpack: got {words.shape[axis]} words for k = {k}, expected k >= 1')
    if words.shape[axis] != words_for(k):
        raise ValueError(f'unpack: got {words.shape[axis]} words for k = {k}, expected {words_for(k)}')
    words = jnp.moveaxis(words, axis, -1)
    # `shifts` gets as many axes as `bits` has, because JAX may be set to refuse rank promotion.
    shifts = np.arange(WORD_BITS, dtype=np.uint32).reshape((1,) * words.ndim + (WORD_BITS,))
    bits = (words[..., None] >> shifts) & np.uint32(1)
    signs = 1 - 2 * bits.reshape(*words.shape[:-1], -1)[..., :k].astype(jnp.float32)
    return jnp.moveaxis(signs, -1, axis)


def _axis(name: str, x: jax.Array, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f'{name}: got axis {axis} for shape {x.shape}, expected -{x.ndim} <= axis < {x.ndim}')
    return axis % x.ndim
