"""C++ kernels for CPU. XLA calls them, and they run on XLA's own threads.

They use the widest instruction set of the processor, unless $BNN_INSTRUCTIONS or `instructions` names another. They are
compiled when the package is built (`bnn_jax/native/build.py`). `missing` returns the reason why they cannot run, or None if
they can. `vmap` calls them once for each example. On a mesh, wrap the call in `jax.shard_map`: XLA cannot partition it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.kernels.backend import Backend, compiled
from bnn_jax.kernels.groups import along_filters, by_groups, channels_of_filters, is_narrow
from bnn_jax.kernels.zero_padding import padding_words
from bnn_jax.native.library import DISABLED_CHECKS as DISABLED_CHECKS
from bnn_jax.native.library import call
from bnn_jax.native.library import instruction_sets as instruction_sets
from bnn_jax.native.library import limit as limit
from bnn_jax.native.library import missing as missing
from bnn_jax.native.library import why_not as why_not
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.windows import Window, pad_channels


@dataclasses.dataclass(frozen=True)
class Native(Backend):
    """The C++ kernels. Methods raise RuntimeError where the kernels cannot run."""

    # One of `instruction_sets()`. Empty: the set that $BNN_INSTRUCTIONS names, or the first set if it names none.
    instructions: str = ''

    @compiled(0, 3)
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """k - 2 popcount(x xor w). Threads divide the filters; if there are few, also the rows, in multiples of 48."""
        shape = (x_words.shape[0], w_words.shape[0])
        # k is an attribute of the call, not an operand, and the handler reads it as int64.
        return self._call('bnn_jax_product', shape, jnp.int32, x_words, w_words, k=np.int64(k))

    @compiled(0, 4, 5, 6, 7)
    def conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """Reads the words of each window in place. It leaves out taps outside the image, so pad value 0 is exact."""
        if is_narrow(channels, groups):
            filters, w_words = w_words.shape[3], along_filters(w_words, channels // groups)
            return self.narrow_conv2d(x_words, w_words, None, channels, window, pad_value, groups, filters)
        if groups > 1:
            return super().conv2d(x_words, w_words, None, channels, window, pad_value, groups)
        x_words, shape, geometry = _placed(x_words, w_words, window, pad_value, padding_words(channels, pad_value))
        static = {'channels': np.int64(channels), 'geometry': geometry}
        return self._call('bnn_jax_convolution', shape, jnp.int32, x_words, w_words, **static)

    @compiled(0, 6, 7, 8, 9)
    def conv2d_signs(
        self, x_words, w_words, tap_sums, thresholds, flip, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """Words of (conv2d < thresholds) ^ flip.

        Stores the integers only if there are several groups whose filters do not fill whole words.
        """
        out = w_words.shape[3]
        if is_narrow(channels, groups):
            operands = (x_words, along_filters(w_words, channels // groups), None, thresholds, flip)
            return self.narrow_conv2d_signs(*operands, channels, window, pad_value, groups, out)
        if groups > 1 and out // groups % WORD_BITS:
            # The filters of a group do not fill whole words, so the words of the groups cannot be concatenated.
            return super().conv2d_signs(x_words, w_words, None, thresholds, flip, channels, window, pad_value, groups)
        if groups > 1:

            def one(x_words, w_words, thresholds, flip):
                static = (channels // groups, window, pad_value, 1)
                return self.conv2d_signs(x_words, w_words, None, thresholds, flip, *static)

            return by_groups(one, channels, groups, x_words, w_words, thresholds, flip)
        x_words, shape, geometry = _placed(x_words, w_words, window, pad_value, padding_words(channels, pad_value))
        static = {'channels': np.int64(channels), 'geometry': geometry}
        shape = (*shape[:3], words_for(out))
        operands = (x_words, w_words, thresholds, flip)
        return self._call('bnn_jax_convolution_signs', shape, jnp.uint32, *operands, **static)

    @compiled(0, 4, 5, 6, 7, 8)
    def narrow_conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int, filters: int
    ) -> jax.Array:
        """Counts in bit planes: one operation counts for 32 filters. It leaves out taps outside the image."""
        x, shape, geometry = _placed_narrow(x_words, w_words, channels, window, pad_value, groups, filters)
        return self._call('bnn_jax_narrow', shape, jnp.int32, x, w_words, geometry=geometry)

    @compiled(0, 6, 7, 8, 9, 10)
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
        """Words of (narrow_conv2d < thresholds) ^ flip, compared in bit planes, too."""
        x, shape, geometry = _placed_narrow(x_words, w_words, channels, window, pad_value, groups, filters)
        shape = (*shape[:3], words_for(filters))
        return self._call('bnn_jax_narrow_signs', shape, jnp.uint32, x, w_words, thresholds, flip, geometry=geometry)

    @compiled(0)
    def signed_matmul(self, x: jax.Array, w_words: jax.Array) -> jax.Array:
        """Adds or subtracts x[i] by bit i for up to four rows; unpacks signs, as `signed_conv2d` does, for more."""
        if x.dtype != jnp.float32:
            return super().signed_matmul(x, w_words)
        return self._call('bnn_jax_product_floats', (x.shape[0], w_words.shape[0]), jnp.float32, x, w_words)

    @compiled(0, 3, 4, 5)
    def signed_conv2d(self, x: jax.Array, w_words: jax.Array, window: Window, pad_value: int, groups: int) -> jax.Array:
        """Unpacks signs in tiles of 32 filters and 32 channels. All instruction sets add in the same order."""
        # The kernels are written for float32, and for one group.
        if x.dtype != jnp.float32 or groups > 1:
            return super().signed_conv2d(x, w_words, window, pad_value, groups)
        x, shape, geometry = _placed(x, w_words, window, pad_value, jnp.full(x.shape[3:], pad_value, x.dtype))
        return self._call('bnn_jax_convolution_floats', shape, jnp.float32, x, w_words, geometry=geometry)

    @compiled(0)
    def pack(self, x: jax.Array, coefficients: jax.Array | None) -> jax.Array:
        """Packs a float32 map without writing the normalized map to memory."""
        if x.dtype != jnp.float32:
            return super().pack(x, coefficients)
        if coefficients is None:
            # The handler takes this operand in any case; an empty one means that nothing is normalized.
            coefficients = jnp.zeros((0,), jnp.float32)
        return self._call('bnn_jax_pack', (*x.shape[:-1], words_for(x.shape[-1])), jnp.uint32, x, coefficients)

    def _call(self, name: str, shape: tuple[int, ...], dtype, *operands: jax.Array, **attributes) -> jax.Array:
        return call(name, shape, dtype, *operands, instructions=self.instructions, **attributes)


def _placed(x, w_words, window: Window, pad_value: int, outside: jax.Array):
    """The image, padded with `outside` unless the pad value is 0; the shape of the result; `geometry` for C++."""
    pads = window.pads(x.shape[1], x.shape[2])
    shape = (x.shape[0], *window.output_size(x.shape[1], x.shape[2]), w_words.shape[3])
    if pad_value != 0:
        x, pads = pad_channels(x, pads, outside), ((0, 0), (0, 0))
    return x, shape, np.asarray([*window.strides, pads[0][0], pads[1][0], *window.dilation], np.int64)


def _placed_narrow(x_words, w_words, channels: int, window: Window, pad_value: int, groups: int, filters: int):
    """As `_placed`, but the image has words along the filters: (channels of a group, N, H, W, words)."""
    x, shape, geometry = _placed(x_words, w_words, window, pad_value, padding_words(channels, pad_value))
    x = jnp.moveaxis(channels_of_filters(x, channels, groups, filters), -2, 0)
    return x, (*shape[:3], filters), geometry
