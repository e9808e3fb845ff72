"""A map of signs that stays in bits: words along the channels, and what may happen to them before the next product."""

import dataclasses
from functools import partial, reduce

import jax
import jax.numpy as jnp

from bnn_jax.ops.bits import WORD_BITS, pack, unpack
from bnn_jax.ops.windows import FEW_TAPS, Window


@partial(jax.tree_util.register_dataclass, data_fields=['words'], meta_fields=['channels'])
@dataclasses.dataclass(frozen=True)
class Signs:
    """Signs (..., channels) as words (..., ceil(channels / 32)) in the convention of `bits.pack`."""

    words: jax.Array
    channels: int

    @staticmethod
    def of(x: jax.Array) -> 'Signs':
        """The signs of a map, packed along its last axis."""
        return Signs(pack(x), x.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the map, not of the words."""
        return *self.words.shape[:-1], self.channels

    @property
    def ndim(self) -> int:
        """Of the map."""
        return self.words.ndim

    def flipped(self, mask: jax.Array) -> 'Signs':
        """The other sign in every channel whose bit is set in mask (n_words,); tail bits of mask are 0."""
        return Signs(self.words ^ jnp.broadcast_to(mask, self.words.shape), self.channels)

    def pooled(self, window: Window, highest: jax.Array) -> 'Signs':
        """Per channel the highest sign of every window where its bit is set in highest (n_words,), else the lowest.

        A set bit is -1, so the lowest sign is OR and the highest is AND: OR between two flips. Nothing outside the
        image counts. (N, H, W, channels) -> (N, H', W', channels).
        """
        taps = window.taps(self.flipped(highest).words, 0)
        # Slices of few taps are joined into one pass; of many, each would be an operation.
        any_set = reduce(jnp.bitwise_or, list(taps)) if len(taps) <= FEW_TAPS else jnp.bitwise_or.reduce(taps, axis=0)
        return Signs(any_set, self.channels).flipped(highest)

    def flattened(self) -> 'Signs':
        """(N, ...) -> (N, all the rest), row-major: the words as they lie, unless unused bits would come between pixels."""
        n, *pixels, channels = self.shape
        features = channels
        for extent in pixels:
            features *= extent
        if channels % WORD_BITS == 0 or features == channels:
            return Signs(self.words.reshape(n, -1), features)
        # Otherwise unused bits would lie between the pixels; the signs are packed anew.
        return Signs.of(unpack(self.words, channels).reshape(n, features))
