"""Packed signs from real numbers, and products of real numbers with packed signs."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bnn_jax.kernels.backend import Backend
from bnn_jax.kernels.backends import named
from bnn_jax.kernels.checks import expect, expect_groups, expect_words, floats_of, window_of, words_of
from bnn_jax.kernels.groups import along_channels
from bnn_jax.ops.windows import Padding


def packed_signs(
    x: Float[Array, '*batch channels'],
    coefficients: Float[Array, '2 channels'] | None = None,
    *,
    backend: str | Backend = 'auto',
) -> UInt32[Array, '*batch words']:
    """Signs of x packed along the last axis; with coefficients, those of the normalized x.

    Args:
        x: real numbers.
        coefficients: x is normalized by `deterministic.normalize(x, coefficients)` before its signs are taken. If the
            backend is able to, it writes only the words and never stores the normalized numbers.
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        Words as made by `bits.pack`.

    Raises:
        TypeError: coefficients of another dtype than x, or x of a dtype that `bits.pack` refuses.
        ValueError: x has no channels, coefficients have another shape, or the backend is unknown.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.kernels.packed_signs(jnp.array([[0.5, -0.5, -2.0]]))
        Array([[6]], dtype=uint32)
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f'x: got shape {x.shape}, expected at least one channel along the last axis')
    if coefficients is not None:
        coefficients = jnp.asarray(coefficients)
        expect('coefficients', coefficients, (2, x.shape[-1]), x.dtype)
    return named(backend).pack(x, coefficients)


def signed_matmul(
    x: Float[Array, 'm k'], w_words: UInt32[Array, 'n words'], *, backend: str | Backend = 'auto'
) -> Float[Array, 'm n']:
    """Product of real numbers with packed signs: out[i, j] = sum over k of x[i, k] * w[j, k].

    If there are many signs, they are unpacked one tile at a time; for up to 4 rows of float32, 'native' does not unpack
    them. Backends may sum in different orders, and then their results differ in the last bits. 'native' has one order for
    up to 4 rows, which depends on the instruction set, and another one for more rows, which does not.

    'native' has no gradient for float32 x. 'auto' is 'native' on a CPU where the C++ library runs.

    Args:
        x: real numbers.
        w_words: as in `packed_matmul`.
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        float32, or float64 for float64 x.

    Raises:
        TypeError: x is not floating, or w_words are not uint32.
        ValueError: shapes that do not fit, or an unknown backend.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.kernels.signed_matmul(jnp.array([[0.5, 2.0]]), bnn.bits.pack(jnp.array([[1.0, 1.0], [1.0, -1.0]])))
        Array([[ 2.5, -1.5]], dtype=float32)
    """
    x, w_words = floats_of(x, 2), words_of('w_words', w_words, 2)
    expect_words('w_words', w_words.shape[1], x.shape[1])
    return named(backend).signed_matmul(x, w_words)


def signed_conv2d(
    x: Float[Array, 'batch height width channels'],
    w_words: UInt32[Array, 'kh kw ...'],
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    backend: str | Backend = 'auto',
) -> Float[Array, 'batch rows columns out']:
    """Convolution of real numbers with packed signs.

    As in `signed_matmul`, backends may sum in different orders. 'native' has no gradient for float32 x in one group.

    Args:
        x: images of real numbers.
        w_words: as in `packed_conv2d`, like all other arguments.

    Returns:
        float32, or float64 for float64 x.

    Raises:
        TypeError: as `signed_matmul`.
        ValueError: shapes that do not fit, or an unknown pad value, padding or backend.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> x, w = jnp.full((1, 2, 2, 3), 0.5), -jnp.ones((2, 2, 3, 1))
        >>> bnn.kernels.signed_conv2d(x, bnn.bits.pack(w, axis=2)).ravel()
        Array([-6.], dtype=float32)
    """
    x, w_words = floats_of(x, 4), words_of('w_words', w_words, 4)
    expect_groups(w_words, x.shape[3], groups, filters)
    if filters is not None:
        # No backend multiplies real numbers by words along the filters.
        w_words = along_channels(w_words, filters)
    window = window_of(x, w_words, strides, padding, dilation, pad_value)
    return named(backend).signed_conv2d(x, w_words, window, int(pad_value), groups)
