"""A map of signs as words of bits along the channels, and the operations that keep it in bits."""

import dataclasses
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Real, UInt32

from bnn_jax.ops.bits import WORD_BITS, pack, unpack
from bnn_jax.ops.windows import FEW_TAPS, Window


@partial(jax.tree_util.register_dataclass, data_fields=['words'], meta_fields=['channels'])
@dataclasses.dataclass(frozen=True)
class Signs:
    """A map of signs (..., channels), stored as words (..., ceil(channels / 32)). A pytree.

    Args:
        words: uint32, as `bits.pack` makes them along the last axis; tail bits are 0.
        channels: the number of signs along the last axis.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> signs = bnn.ops.Signs.of(jnp.array([[1.0, -1.0, -3.0]]))
        >>> signs.words, signs.shape
        (Array([[6]], dtype=uint32), (1, 3))
    """

    words: UInt32[Array, '*pixels n_words']
    channels: int

    @staticmethod
    def of(x: Real[Array, '*pixels channels']) -> 'Signs':
        """The signs of a map of real numbers, packed along the last axis."""
        return Signs(pack(x), x.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the map, not of the words."""
        return *self.words.shape[:-1], self.channels

    @property
    def ndim(self) -> int:
        """The rank of the map."""
        return self.words.ndim

    def flipped(self, mask: UInt32[Array, ' n_words']) -> 'Signs':
        """The signs, negated in every channel whose bit is set in mask. Tail bits of mask must be 0."""
        return Signs(self.words ^ jnp.broadcast_to(mask, self.words.shape), self.channels)

    def pooled(self, window: Window, highest: UInt32[Array, ' n_words']) -> 'Signs':
        """Pooling of signs: (N, H, W, channels) -> (N, H', W', channels).

        A channel whose bit is set in `highest` gets the highest sign of every window, every other channel the lowest. Pixels
        outside the image do not count.
        """
        # A set bit is -1, so the lowest sign is the OR of the bits. The highest is the AND: an OR between two flips.
        taps = window.taps(self.flipped(highest).words, 0)
        # XLA fuses the ORs of few taps into one pass. With many taps, each OR would be an operation of its own.
        any_set = reduce(jnp.bitwise_or, list(taps)) if len(taps) <= FEW_TAPS else jnp.bitwise_or.reduce(taps, axis=0)
        return Signs(any_set, self.channels).flipped(highest)

    def flattened(self) -> 'Signs':
        """(N, ..., channels) -> (N, features), row-major."""
        n, *pixels, channels = self.shape
        features = channels
        for extent in pixels:
            features *= extent
        if channels % WORD_BITS == 0 or features == channels:
            # No tail bits lie between the pixels, so the words stay as they are.
            return Signs(self.words.reshape(n, -1), features)
        return Signs.of(unpack(self.words, channels).reshape(n, features))
