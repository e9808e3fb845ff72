"""Packed products: signs in words in, exact integers out. One definition (reference.py), interchangeable backends."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bnn_jax.kernels import native, pallas_gpu, pallas_tpu
from bnn_jax.kernels.backend import Backend
from bnn_jax.kernels.checks import (
    convolution_operands,
    expect,
    expect_groups,
    expect_words,
    floats_of,
    window_of,
    words_of,
)
from bnn_jax.kernels.dense import EXACT, Dense
from bnn_jax.kernels.dispatch import ByPlatform
from bnn_jax.kernels.from_matmul import FromMatmul
from bnn_jax.kernels.groups import along_channels
from bnn_jax.kernels.reference import Reference
from bnn_jax.kernels.xla import Xla
from bnn_jax.ops.bits import words_for
from bnn_jax.ops.windows import Padding

BACKENDS: dict[str, Backend] = {
    'reference': Reference(),
    'native': native.Native(),
    'xla': Xla(),
    'dense': Dense(),
    'pallas_tpu': FromMatmul(partial(pallas_tpu.matrix, operand=jnp.int8)),
    'pallas_tpu_bfloat16': FromMatmul(partial(pallas_tpu.matrix, operand=jnp.bfloat16)),
    'pallas_tpu_popcount': FromMatmul(pallas_tpu.popcount),
    'pallas_gpu': FromMatmul(pallas_gpu.matrix),
    'pallas_gpu_popcount': FromMatmul(pallas_gpu.popcount),
}
"""All give the integers of reference.py, on every platform, but `native`: that one is for CPUs, and only where its C++ is
compiled. A Pallas backend runs interpreted, slowly, where its device is not; `pallas_tpu` needs a TPU with 8-bit integer
products (v5 or later)."""

AUTO: Backend = ByPlatform(
    cpu=lambda: BACKENDS['native' if native.missing() is None else 'xla'],
    default=BACKENDS['dense'],
    largest=EXACT,
    beyond=BACKENDS['xla'],
)
"""What 'auto' means on the platform that a function is compiled for; docs/performance.md has the measurements. CPU: `native`,
the faster one in every convolution that was measured but windows of 20 x 20 x 256, where they are equal; `xla` where its C++
cannot run (`native.missing` says why). Elsewhere nothing has been measured: XLA's own product, whose lowering is the least in
doubt."""


def packed_matmul(x_words, w_words, k: int, *, backend: str | Backend = 'auto') -> jax.Array:
    """Product of two packed sign matrices: out[i, j] = k - 2 popcount(x[i] xor w[j]).

    x_words: (m, n_words), w_words: (n, n_words), uint32 as made by `bits.pack` over the last axis of (m, k) and (n, k).
    k: the true number of products. Returns (m, n) int32, exact. backend: a key of BACKENDS, 'auto', or a `Backend`.
    Raises TypeError for a dtype other than uint32, ValueError for shapes that do not fit, an unknown backend, or k beyond
    2^24 where 'dense' multiplies.
    """
    x_words, w_words = words_of('x_words', x_words, 2), words_of('w_words', w_words, 2)
    for name, words in (('x_words', x_words), ('w_words', w_words)):
        expect_words(name, words.shape[1], k)
    return _backend(backend).matmul(x_words, w_words, k)


def packed_conv2d(
    x_words,
    w_words,
    channels: int,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    tap_sums: jax.Array | None = None,
    backend: str | Backend = 'auto',
) -> jax.Array:
    """Convolution of packed signs: out[n, i, j, f] = sum over taps and channels of x * w.

    Args:
        x_words: (N, H, W, n_words) uint32, packed over the channels.
        w_words: (kh, kw, words_for(channels / groups), out) uint32, packed over the input channels of a group; or, where
            `filters` is given, (kh, kw, channels / groups, words_for(filters)), packed over the filters.
        channels: the true number of input channels, of all groups.
        strides: one integer, or (height, width).
        padding: 'VALID', 'SAME' or ((top, bottom), (left, right)).
        dilation: how many pixels lie from one tap to the next, one integer or (height, width).
        pad_value: what lies outside the image: 0 (contributes nothing), +1 or -1.
        groups: filters g out / groups to (g + 1) out / groups see only the channels from g channels / groups on, as with
            XLA's feature_group_count.
        filters: the true number of filters, where words lie along them: for groups of fewer than 32 channels each.
        tap_sums: `zero_padding.tap_sums` of the weights, (kh, kw, out) int32, where they are known: some backends need them
            for pad value 0.
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        (N, H', W', out) int32, exact.

    Raises:
        TypeError: for a dtype other than uint32.
        ValueError: for shapes that do not fit, another pad value, an unknown padding or backend.
    """
    operands, static = convolution_operands(
        x_words, w_words, tap_sums, channels, strides, padding, dilation, pad_value, groups, filters
    )
    chosen = _backend(backend)
    method: Any = chosen.conv2d if filters is None else chosen.narrow_conv2d
    return method(*operands, *static)


def packed_conv2d_signs(
    x_words,
    w_words,
    thresholds: jax.Array,
    flip: jax.Array,
    channels: int,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    tap_sums: jax.Array | None = None,
    backend: str | Backend = 'auto',
) -> jax.Array:
    """Words of the signs of a convolution against thresholds: a set bit (-1) where (packed_conv2d < thresholds) ^ flip.

    thresholds: (out,) int32. flip: (ceil(out / 32),) uint32, tail bits 0. All else as `packed_conv2d`. Returns
    (N, H', W', ceil(out / 32)) uint32. Raises TypeError and ValueError for thresholds or flip of another dtype or shape, too.
    """
    operands, static = convolution_operands(
        x_words, w_words, tap_sums, channels, strides, padding, dilation, pad_value, groups, filters
    )
    thresholds, flip = jnp.asarray(thresholds), jnp.asarray(flip)
    out = operands[1].shape[3] if filters is None else filters
    expect('thresholds', thresholds, (out,), jnp.int32)
    expect('flip', flip, (words_for(out),), jnp.uint32)
    chosen = _backend(backend)
    method: Any = chosen.conv2d_signs if filters is None else chosen.narrow_conv2d_signs
    return method(*operands, thresholds, flip, *static)


def packed_signs(x: jax.Array, coefficients: jax.Array | None = None, *, backend: str | Backend = 'auto') -> jax.Array:
    """`bits.pack` of float32 x (..., channels) along the last axis; with coefficients (2, channels) of the normalized x.

    What is normalized is `deterministic.normalize(x, coefficients)`, without that map being written where the backend can.
    Returns (..., ceil(channels / 32)) uint32. Raises ValueError or TypeError for coefficients of another shape or dtype
    than (2, channels) and x's, and as `bits.pack`.
    """
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f'x: got shape {x.shape}, expected at least one channel along the last axis')
    if coefficients is not None:
        coefficients = jnp.asarray(coefficients)
        expect('coefficients', coefficients, (2, x.shape[-1]), x.dtype)
    return _backend(backend).pack(x, coefficients)


def signed_matmul(x: jax.Array, w_words, *, backend: str | Backend = 'auto') -> jax.Array:
    """Product of real numbers with packed signs: out[i, j] = sum over k of x[i, k] * w[j, k].

    x: (m, k) floating; w_words: (n, n_words) as in `packed_matmul`. The signs are unpacked a tile at a time, never all of
    them. Returns (m, n) float32 (float64 for float64). The order of the sum, and so the last bit, is the backend's own; that of
    'native' is another for few rows than for many, and there another for each instruction set. Where 'auto' is 'native', no
    gradient is defined.
    Raises TypeError for dtypes, ValueError for shapes that do not fit and an unknown backend.
    """
    x, w_words = floats_of(x, 2), words_of('w_words', w_words, 2)
    expect_words('w_words', w_words.shape[1], x.shape[1])
    return _backend(backend).signed_matmul(x, w_words)


def signed_conv2d(
    x: jax.Array,
    w_words,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = 'VALID',
    dilation: int | tuple[int, int] = 1,
    pad_value: int = 0,
    groups: int = 1,
    filters: int | None = None,
    backend: str | Backend = 'auto',
) -> jax.Array:
    """Convolution of real numbers with packed signs: x (N, H, W, channels) floating, w_words as in `packed_conv2d`.

    All else as `packed_conv2d` and `signed_matmul`. Returns (N, H', W', out) float32 (float64 for float64).
    """
    x, w_words = floats_of(x, 4), words_of('w_words', w_words, 4)
    expect_groups(w_words, x.shape[3], groups, filters)
    if filters is not None:
        # No backend multiplies real numbers by words along the filters.
        w_words = along_channels(w_words, filters)
    window = window_of(x, w_words, strides, padding, dilation, pad_value)
    return _backend(backend).signed_conv2d(x, w_words, window, int(pad_value), groups)


def _backend(backend: str | Backend) -> Backend:
    if isinstance(backend, Backend):
        return backend
    if backend == 'auto':
        return AUTO
    if backend not in BACKENDS:
        expected = ', '.join(map(repr, ['auto', *BACKENDS]))
        raise ValueError(f'backend: got {backend!r}, expected one of {expected}, or a Backend')
    return BACKENDS[backend]
