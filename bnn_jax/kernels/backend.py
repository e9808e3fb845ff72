"""What a backend is: the methods that packed products call, and their defaults."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.groups import along_channels, by_groups
from bnn_jax.kernels.zero_padding import outside_sum, padding_words
from bnn_jax.kernels.zero_padding import tap_sums as sums_of
from bnn_jax.ops import bits
from bnn_jax.ops.deterministic import normalize, wide
from bnn_jax.ops.general_convolution import general_convolution
from bnn_jax.ops.windows import Window, pad_channels

TILE = 2**20
"""The largest number of signs in a tile: 4 MiB of floats. Only a tile of at most 32 filters may have more."""


Method = TypeVar('Method', bound=Callable)


def compiled(*static_argnums: int) -> Callable[[Method], Method]:
    """`jax.jit` of a method. It keeps the method's type, so a type checker can compare an override with what it overrides.

    Args:
        static_argnums: positions of the arguments that are not arrays; `self` is 0.
    """
    return lambda method: cast(Method, jax.jit(method, static_argnums=static_argnums))


class Backend:
    """The base class of backends. Subclass it, and override `matmul` and each method that your kernel does better.

    `kernels` checks shapes and dtypes before it calls a method, and passes everything but arrays as static values.
    Products of signs are exact integers, equal to those of `kernels.reference`. Begin the names of your own helpers
    with an underscore: a public method that is not declared here is an error when the class is defined.

    Shapes: x_words (N, H, W, n_words), w_words (kh, kw, words_for(channels / groups), out), tap_sums (kh, kw, out) int32 or
    None, thresholds (out,) int32, flip (words_for(out),) uint32. Tail bits of all words are 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax import lax
        >>> from bnn_jax.kernels import Backend, packed_matmul
        >>> class Broadcast(Backend):
        ...     def matmul(self, x_words, w_words, k):
        ...         differing = lax.population_count(x_words[:, None] ^ w_words[None])
        ...         return k - 2 * jnp.sum(differing, axis=-1, dtype=jnp.int32)
        >>> words = jnp.zeros((2, 1), jnp.uint32)
        >>> packed_matmul(words, words, 32, backend=Broadcast()).tolist()
        [[32, 32], [32, 32]]
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        declared = [name for name in vars(Backend) if not name.startswith('_')]
        for name, value in vars(cls).items():
            # A misspelled override would silently leave the default in place.
            if callable(value) and not name.startswith('_') and name not in declared:
                nearest = difflib.get_close_matches(name, declared, 1, 0)[0]
                raise TypeError(
                    f'{cls.__name__}.{name}: a backend has no such method, expected one of {", ".join(declared)}; '
                    f'did you mean {nearest}? Begin the name of a helper with an underscore'
                )

    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """k - 2 popcount(x xor w): (m, n_words), (n, n_words) -> (m, n) int32. It has no default."""
        raise NotImplementedError(f'{type(self).__name__} has no method matmul(x_words, w_words, k), expected one')

    def conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """Convolution of signs, (N, H', W', out) int32. Default: `matmul` on the words of every window, group by group."""
        if groups > 1:
            one = partial(self.conv2d, channels=channels // groups, window=window, pad_value=pad_value, groups=1)
            return by_groups(one, channels, groups, x_words, w_words, tap_sums)
        n, height, width, _ = x_words.shape
        # For pad value 0 the padding is +1, and what it adds is subtracted below.
        taps = window.taps(x_words, padding_words(channels, pad_value))
        rows = taps.shape[2:4]
        # Words first: one word of all windows is contiguous.
        words_first = jnp.moveaxis(taps, -1, 1).reshape(-1, n * rows[0] * rows[1])
        k = window.size[0] * window.size[1] * channels
        product = self._product(words_first, w_words.reshape(words_first.shape[0], -1), k).reshape(n, *rows, -1)
        if pad_value == 0:
            tap_sums = sums_of(w_words, channels) if tap_sums is None else tap_sums
            product = product - outside_sum(tap_sums, window, height, width)[None]
        return product

    def conv2d_signs(
        self, x_words, w_words, tap_sums, thresholds, flip, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """Words of (conv2d < thresholds) ^ flip, (N, H', W', words_for(out)) uint32. Default: compares `conv2d`."""
        return below(self.conv2d(x_words, w_words, tap_sums, channels, window, pad_value, groups), thresholds, flip)

    def narrow_conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int, filters: int
    ) -> jax.Array:
        """`conv2d` for narrow groups (fewer than 32 channels each), with weight words along the filters.

        w_words: (kh, kw, channels / groups, words_for(filters)). Default: `conv2d` on repacked weights.
        """
        w_words = along_channels(w_words, filters)
        return self.conv2d(x_words, w_words, tap_sums, channels, window, pad_value, groups)

    def narrow_conv2d_signs(
        self,
        x_words,
        w_words,
        tap_sums,
        thresholds,
        flip,
        channels: int,
        window: Window,
        pad_value: int,
        groups: int,
        filters: int,
    ) -> jax.Array:
        """Words of (narrow_conv2d < thresholds) ^ flip. Default: compares `narrow_conv2d`."""
        static = (channels, window, pad_value, groups, filters)
        return below(self.narrow_conv2d(x_words, w_words, tap_sums, *static), thresholds, flip)

    def pack(self, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
        """`bits.pack` of x, or of `deterministic.normalize(x, coefficients)`, along the last axis."""
        return bits.pack(x if coefficients is None else normalize(x, coefficients))

    def signed_matmul(self, x: jax.Array, w_words: jax.Array) -> jax.Array:
        """x (m, k), floating, times signs (n, n_words): (m, n) float32 or wider. Default: unpacks in tiles."""

        def product(w_words):
            signs = bits.unpack(w_words, x.shape[1]).astype(x.dtype)
            return lax.dot_general(x, signs, (((1,), (1,)), ((), ())), preferred_element_type=wide(x.dtype))

        return _by_filters(product, w_words, 0, x.shape[1])

    def signed_conv2d(self, x: jax.Array, w_words: jax.Array, window: Window, pad_value: int, groups: int) -> jax.Array:
        """Convolution of x (N, H, W, channels), floating, with signs. Default: unpacks in tiles; for groups, all at once."""
        pads, channels = window.pads(x.shape[1], x.shape[2]), x.shape[3]
        if pad_value != 0:
            x, pads = pad_channels(x, pads, jnp.full((channels,), pad_value, x.dtype)), ((0, 0), (0, 0))

        def product(w_words):
            signs = bits.unpack(w_words, channels // groups, axis=2).astype(x.dtype)
            return general_convolution(x, signs, window.strides, pads, window.dilation, groups)

        if groups > 1:
            return product(w_words)
        return _by_filters(product, w_words, 3, window.size[0] * window.size[1] * channels)

    def _product(self, x: jax.Array, w: jax.Array, k: int) -> jax.Array:
        """The product of operands with words first: (n_words, m), (n_words, n) -> (m, n) int32. Any word may have tail bits."""
        all_bits = bits.WORD_BITS * x.shape[0]
        return self.matmul(x.T, w.T, all_bits) - (all_bits - k)  # A tail bit is +1 in both, so it adds 1.


def below(integers: jax.Array, thresholds: jax.Array, flip: jax.Array) -> jax.Array:
    """Words of (integers < thresholds) ^ flip, along the last axis."""
    words = bits.pack(jnp.where(integers < jnp.broadcast_to(thresholds, integers.shape), jnp.int32(-1), jnp.int32(1)))
    return words ^ jnp.broadcast_to(flip, words.shape)


def _by_filters(product: Callable[[jax.Array], Any], w_words: jax.Array, axis: int, k: int) -> jax.Array:
    """Compute product(w_words) one tile of filters at a time, so that the floats of all filters never exist at once."""
    filters = w_words.shape[axis]
    tiles = -(-filters // max(bits.WORD_BITS, TILE // k))
    if tiles <= 1:
        return product(w_words)
    # All tiles have one size (zeros fill up the last), so that one compiled body serves them all.
    each = -(-filters // tiles)
    pads = [(0, 0)] * w_words.ndim
    pads[axis] = (0, tiles * each - filters)
    shape = (*w_words.shape[:axis], tiles, each, *w_words.shape[axis + 1 :])
    y = jnp.moveaxis(lax.map(product, jnp.moveaxis(jnp.pad(w_words, pads).reshape(shape), axis, 0)), 0, -2)
    return y.reshape(*y.shape[:-2], tiles * each)[..., :filters]
