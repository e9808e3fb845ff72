"""Convolutions in groups: takes the words of each group's channels, and lays out the weights of narrow groups.

A group is narrow if its channels do not fill a word (depthwise: one channel). Words of weights along the input channels would
then hold few bits, so the words may run along the filters instead.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.ops.bits import WORD_BITS, pack, unpack, words_for


def is_narrow(channels: int, groups: int) -> bool:
    """Whether a group's channels do not fill a word, and there are several groups."""
    return groups > 1 and channels // groups < WORD_BITS


def by_groups(convolve: Callable, channels: int, groups: int, x_words, w_words, *of_filters) -> jax.Array:
    """Apply convolve(x_words, w_words, *of_filters) to every group. The results lie side by side along the last axis.

    Args:
        convolve: a convolution of one group.
        channels: the number of channels of all groups.
        groups: the number of groups.
        x_words: (N, H, W, n_words).
        w_words: (kh, kw, words of a group, out).
        of_filters: each is None, or an array whose last axis runs over the filters or over words of filters.
    """
    split = [
        None if array is None else array.reshape(*array.shape[:-1], groups, -1) for array in (w_words, *of_filters)
    ]
    axes = [None if array is None else array.ndim - 2 for array in split]
    # With `vmap`, `convolve` is traced once, however many groups there are.
    y = jax.vmap(convolve, in_axes=(3, *axes), out_axes=3)(channels_of_groups(x_words, channels, groups), *split)
    return y.reshape(*y.shape[:3], -1)


def channels_of_groups(x_words: jax.Array, channels: int, groups: int) -> jax.Array:
    """The words of each group's channels: (..., n_words) -> (..., groups, words of a group), tail bits 0."""
    each = channels // groups
    starts = np.arange(groups) * each
    words = starts[:, None] // WORD_BITS + np.arange(words_for(each))
    shifts = np.broadcast_to((starts % WORD_BITS).astype(np.uint32)[:, None], words.shape)
    # One word more, so that the last group too has a next word to take bits from.
    fill = [(0, 0)] * (x_words.ndim - 1) + [(0, 1)]
    padded = jnp.pad(x_words, fill)
    lower, upper = padded[..., words], padded[..., words + 1]
    if shifts.any():
        shifts = jnp.broadcast_to(shifts, lower.shape)
        # A shift by 32 is not defined, so `upper` is shifted in two steps.
        lower = (lower >> shifts) | ((upper << np.uint32(1)) << (np.uint32(WORD_BITS - 1) - shifts))
    # Bits of the next group's channels are cleared: tail bits are 0 by convention.
    used = np.full(words_for(each), 2**WORD_BITS - 1, np.uint32)
    used[-1] >>= np.uint32(-each % WORD_BITS)
    return lower & jnp.broadcast_to(used, lower.shape)


def along_filters(w_words: jax.Array, each: int) -> jax.Array:
    """Repack words along a group's `each` input channels as words along the filters.

    (kh, kw, words_for(each), out) -> (kh, kw, each, words_for(out)).
    """
    return pack(unpack(w_words, each, axis=2), axis=3)


def along_channels(w_words: jax.Array, filters: int) -> jax.Array:
    """The inverse of `along_filters`: (kh, kw, each, words_for(filters)) -> (kh, kw, words_for(each), filters)."""
    return pack(unpack(w_words, filters, axis=3), axis=2)


def channels_of_filters(x_words: jax.Array, channels: int, groups: int, filters: int) -> jax.Array:
    """For each c below the channels of a group: one sign for each filter, that of channel c of the filter's own group.

    The signs are packed in words along the filters.

    (..., n_words) -> (..., channels / groups, words_for(filters)).
    """
    each, of_group = channels // groups, filters // groups
    if each == of_group == 1:
        return x_words[..., None, :]
    if each == of_group and WORD_BITS % each == 0:
        # Bit e of each run of `each` bits, repeated over the run.
        runs = np.uint32(sum(1 << start for start in range(0, WORD_BITS, each)))
        bits = [((x_words >> np.uint32(e)) & runs) * np.uint32(2**each - 1) for e in range(each)]
        return jnp.stack(bits, axis=-2)
    seen = np.arange(filters) // of_group * each + np.arange(each)[:, None]
    words = x_words[..., seen // WORD_BITS]
    bits = (words >> jnp.broadcast_to((seen % WORD_BITS).astype(np.uint32), words.shape)) & np.uint32(1)
    # A set bit stands for -1, so the bit's negative has the sign to pack.
    return pack(-bits.astype(jnp.int32))
