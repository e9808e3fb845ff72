"""The checks that every product makes of its operands, whichever backend computes it."""

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.kernels.groups import is_narrow
from bnn_jax.ops.bits import words_for
from bnn_jax.ops.windows import Padding, Window


def convolution_operands(
    x_words, w_words, tap_sums, channels: int, strides, padding, dilation, pad_value, groups, filters
):
    """Checks the arguments of a convolution. Returns the arrays, and the static arguments of a backend's method."""
    x_words, w_words = words_of('x_words', x_words, 4), words_of('w_words', w_words, 4)
    expect_words('x_words', x_words.shape[3], channels)
    expect_groups(w_words, channels, groups, filters)
    if tap_sums is not None:
        tap_sums = jnp.asarray(tap_sums)
        out = w_words.shape[3] if filters is None else filters
        expect('tap_sums', tap_sums, (*w_words.shape[:2], out), jnp.int32)
    window = window_of(x_words, w_words, strides, padding, dilation, pad_value)
    static = (channels, window, int(pad_value), groups)
    return (x_words, w_words, tap_sums), static if filters is None else (*static, filters)


def expect_groups(w_words: jax.Array, channels: int, groups: int, filters: int | None) -> None:
    """Raises TypeError or ValueError unless groups divide channels and filters, and words hold a group's weights."""
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 1:
        raise ValueError(f'groups: got {groups!r}, expected a positive integer')
    out = w_words.shape[3] if filters is None else filters
    if channels % groups or out % groups:
        raise ValueError(
            f'groups: got {groups} of {channels} channels and {out} filters, expected a divisor of both numbers'
        )
    if filters is None:
        expect_words('w_words', w_words.shape[2], channels // groups)
        return
    if not is_narrow(channels, groups):
        raise ValueError(
            f'filters: got words along the filters for {channels // groups} channels in each of {groups} groups, expected '
            'several groups of fewer than 32 channels; pack the weights along their input channels, and give no `filters`'
        )
    expect_words('w_words', w_words.shape[3], filters)
    if w_words.shape[2] != channels // groups:
        raise ValueError(
            f'w_words: got shape {w_words.shape}, expected (kh, kw, {channels // groups}, {w_words.shape[3]}) for words '
            'along the filters'
        )


def window_of(x: jax.Array, w_words: jax.Array, strides, padding: Padding, dilation, pad_value: int) -> Window:
    """The window of a convolution. Raises ValueError if `pad_value` is not 0, +1 or -1, or if the window does not fit."""
    if pad_value not in (0, 1, -1):
        raise ValueError(f'pad_value: got {pad_value!r}, expected 0, +1 or -1')
    window = Window.of(w_words.shape[:2], strides, padding, dilation)
    # Called for its errors.
    window.pads(x.shape[1], x.shape[2])
    return window


def floats_of(x, rank: int) -> jax.Array:
    """x as an array of this rank. Raises TypeError for a dtype that is not floating, ValueError for another rank."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f'x: got dtype {x.dtype}, expected real numbers in a floating dtype, such as float32')
    if x.ndim != rank:
        raise ValueError(f'x: got shape {x.shape}, expected rank {rank}')
    return x


def expect(name: str, array: jax.Array, shape: tuple[int, ...], dtype) -> None:
    """Raises TypeError or ValueError unless an array has this dtype and shape."""
    if array.dtype != dtype:
        raise TypeError(f'{name}: got dtype {array.dtype}, expected {np.dtype(dtype)}')
    if array.shape != shape:
        raise ValueError(f'{name}: got shape {array.shape}, expected {shape}')


def words_of(name: str, words, rank: int) -> jax.Array:
    """words as an array. Raises TypeError for a dtype other than uint32, ValueError for another rank."""
    words = jnp.asarray(words)
    if words.dtype != jnp.uint32:
        raise TypeError(f'{name}: got dtype {words.dtype}, expected uint32 words as made by bits.pack')
    if words.ndim != rank:
        raise ValueError(f'{name}: got shape {words.shape}, expected rank {rank}')
    return words


def expect_words(name: str, n_words: int, k: int) -> None:
    """Raises TypeError or ValueError unless this number of words holds k signs."""
    # To Python, True is an integer.
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(
            f'{name}: got {k!r} for the number of signs, expected an integer known when the function is traced'
        )
    if k < 1:
        raise ValueError(f'{name}: got {k} for the number of signs, expected at least 1')
    if n_words != words_for(k):
        raise ValueError(f'{name}: got {n_words} words for {k} signs, expected {words_for(k)}')
