"""Products of packed signs, as exact integers or as words of signs."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

from bnn_jax.kernels.backend import Backend
from bnn_jax.kernels.backends import named
from bnn_jax.kernels.checks import convolution_operands, expect, expect_words, words_of
from bnn_jax.ops.bits import words_for
from bnn_jax.ops.windows import Padding


def packed_matmul(
    x_words: UInt32[Array, 'm words'], w_words: UInt32[Array, 'n words'], k: int, *, backend: str | Backend = 'auto'
) -> Int32[Array, 'm n']:
    """Product of two packed sign matrices: out[i, j] = k - 2 popcount(x[i] xor w[j]).

    Args:
        x_words: signs packed by `bits.pack` over the last axis of (m, k).
        w_words: signs packed over the last axis of (n, k).
        k: how many signs a row has.
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        The exact integers.

    Raises:
        TypeError: words of another dtype than uint32, or k is not an integer.
        ValueError: shapes that do not fit, an unknown backend, or k beyond 2^24 for 'dense'.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> x, w = jnp.array([[1.0, -1.0, 1.0]]), jnp.array([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]])
        >>> bnn.kernels.packed_matmul(bnn.bits.pack(x), bnn.bits.pack(w), 3)
        Array([[ 1, -3]], dtype=int32)
    """
    x_words, w_words = words_of('x_words', x_words, 2), words_of('w_words', w_words, 2)
    for name, words in (('x_words', x_words), ('w_words', w_words)):
        expect_words(name, words.shape[1], k)
    return named(backend).matmul(x_words, w_words, k)


def packed_conv2d(
    x_words: UInt32[Array, 'batch height width words'],
    w_words: UInt32[Array, 'kh kw ...'],
    channels: int,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    tap_sums: Int32[Array, 'kh kw out'] | None = None,
    backend: str | Backend = 'auto',
) -> Int32[Array, 'batch rows columns out']:
    """Convolution of packed signs: out[n, i, j, f] = sum over taps and channels of x * w.

    Args:
        x_words: packed over the channels.
        w_words: (kh, kw, words_for(channels / groups), out), packed over the input channels of a group; or, if `filters`
            is given, (kh, kw, channels / groups, words_for(filters)), packed over the filters.
        channels: the number of input channels of all groups together.
        strides: one integer, or (height, width).
        padding: 'VALID', 'SAME' or ((top, bottom), (left, right)).
        dilation: the distance of neighboring taps in pixels, one integer or (height, width).
        pad_value: what lies outside the image: 0 (contributes nothing), +1 or -1.
        groups: the number of groups. Group g of the filters reads only group g of the channels, as with XLA's
            feature_group_count.
        filters: the number of filters if the words lie along the filters, which is allowed only for several groups of
            fewer than 32 channels each.
        tap_sums: `zero_padding.tap_sums` of the weights, or `narrow_tap_sums` with `filters`. None: a backend that
            needs them for pad value 0 computes them.
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        The exact integers.

    Raises:
        TypeError: words of another dtype than uint32, tap_sums of another dtype than int32, or channels or filters is
            not an integer.
        ValueError: shapes that do not fit; an unknown pad value, padding or backend; or sums of more than 2^24 products
            for 'dense'.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> x, w = jnp.ones((1, 3, 3, 2)), -jnp.ones((2, 2, 2, 1))
        >>> bnn.kernels.packed_conv2d(bnn.bits.pack(x), bnn.bits.pack(w, axis=2), channels=2)[0, :, :, 0]
        Array([[-8, -8],
               [-8, -8]], dtype=int32)
    """
    operands, static = convolution_operands(
        x_words, w_words, tap_sums, channels, strides, padding, dilation, pad_value, groups, filters
    )
    chosen = named(backend)
    method: Any = chosen.conv2d if filters is None else chosen.narrow_conv2d
    return method(*operands, *static)


def packed_conv2d_signs(
    x_words: UInt32[Array, 'batch height width words'],
    w_words: UInt32[Array, 'kh kw ...'],
    thresholds: Int32[Array, ' out'],
    flip: UInt32[Array, ' out_words'],
    channels: int,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    tap_sums: Int32[Array, 'kh kw out'] | None = None,
    backend: str | Backend = 'auto',
) -> UInt32[Array, 'batch rows columns out_words']:
    """Signs of a convolution against thresholds, as words: a set bit (-1) where (`packed_conv2d` < thresholds) ^ flip.

    Args:
        x_words: as in `packed_conv2d`, like all arguments except `thresholds` and `flip`.
        thresholds: one per filter.
        flip: one bit per filter, tail bits 0.

    Returns:
        Words over the filters.

    Raises:
        TypeError: as `packed_conv2d`, and for thresholds or flip of another dtype.
        ValueError: as `packed_conv2d`, and for thresholds or flip of another shape.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> x, w = jnp.ones((1, 1, 1, 2)), jnp.array([[[[1.0, -1.0], [1.0, -1.0]]]])
        >>> thresholds, flip = jnp.zeros(2, jnp.int32), jnp.zeros(1, jnp.uint32)
        >>> words = bnn.kernels.packed_conv2d_signs(bnn.bits.pack(x), bnn.bits.pack(w, axis=2), thresholds, flip, 2)
        >>> bnn.bits.unpack(words, 2).ravel()
        Array([ 1., -1.], dtype=float32)
    """
    operands, static = convolution_operands(
        x_words, w_words, tap_sums, channels, strides, padding, dilation, pad_value, groups, filters
    )
    thresholds, flip = jnp.asarray(thresholds), jnp.asarray(flip)
    out = operands[1].shape[3] if filters is None else filters
    expect('thresholds', thresholds, (out,), jnp.int32)
    expect('flip', flip, (words_for(out),), jnp.uint32)
    chosen = named(backend)
    method: Any = chosen.conv2d_signs if filters is None else chosen.narrow_conv2d_signs
    return method(*operands, thresholds, flip, *static)
