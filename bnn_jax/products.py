"""The two products a layer can be, convolution and dense, each in floats and on packed words, as values."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax import quantizers
from bnn_jax.bits import pack, unpack, words_for
from bnn_jax.exact import wide
from bnn_jax.general_convolution import general_convolution
from bnn_jax.kernels import packed_conv2d, packed_conv2d_signs, packed_matmul, signed_conv2d, signed_matmul
from bnn_jax.kernels.borders import tap_sums
from bnn_jax.signs import Signs
from bnn_jax.windows import Window, pad_channels


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (N, in) times kernel (in, out), of one floating dtype; float32, or float64 for float64 operands.

    Gradients, g the incoming one rounded to the operands' dtype, which theirs have too: dx = g kernel^T and
    dkernel = x^T g, accumulated in float32 or wider. Only reverse mode is defined.
    """
    return _dot(x, kernel, 1, 0)


def _dense_bwd(operands, g):
    x, kernel = operands
    g = g.astype(x.dtype)
    return _dot(g, kernel, 1, 1).astype(x.dtype), _dot(x, g, 0, 0).astype(kernel.dtype)


dense.defvjp(lambda x, kernel: (dense(x, kernel), (x, kernel)), _dense_bwd)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=wide(a.dtype))


@dataclasses.dataclass(frozen=True)
class Dense:
    """x (N, in) times kernel (in, out)."""

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Float product, float32 or wider: exact for +-1 operands up to 2^24 terms."""
        return dense(x, kernel.astype(x.dtype))

    def kernel_shape(self, into: int, out: int) -> tuple[int, ...]:
        return into, out

    def check(self, x: jax.Array | Signs, into: int) -> None:
        """Raises ValueError unless x fits a layer with `into` inputs."""
        if x.ndim != 2 or x.shape[1] != into:
            raise ValueError(
                f'dense layer: got input of shape {x.shape}, expected (N, {into}); '
                'give the model the image size it was built for (input_shape)'
            )

    def input_scale(self, x: jax.Array) -> jax.Array:
        """K of a dense layer: mean |x| over its inputs, (N, 1)."""
        return quantizers.input_scale(x[:, None, None, :], 1)[:, 0, 0]

    def words_shape(self, into: int, out: int) -> tuple[int, ...]:
        return out, words_for(into)

    def pack_kernel(self, signs: jax.Array) -> jax.Array:
        """(in, out) -> (out, n_words)."""
        return pack(signs.T)

    def unpack_kernel(self, words: jax.Array, into: int) -> jax.Array:
        return unpack(words, into).T

    def words_axis(self) -> int:
        """Along which axis of its words the input channels are packed."""
        return 1

    def border(self, words: jax.Array, into: int) -> jax.Array | None:
        """A dense layer has no border."""
        return None

    def packed(self, x_words: jax.Array, words: jax.Array, into: int, border: jax.Array | None) -> jax.Array:
        """Product of signs on packed words, int32."""
        return packed_matmul(x_words, words, into)

    def packed_signs(self, x_words, words, into: int, border, thresholds: jax.Array, flip: jax.Array) -> jax.Array:
        """Words of (packed < thresholds) ^ flip."""
        integers = self.packed(x_words, words, into, border)
        signs = pack(integers - jnp.broadcast_to(thresholds, integers.shape))
        return signs ^ jnp.broadcast_to(flip, signs.shape)

    def signed(self, x: jax.Array, words: jax.Array) -> jax.Array:
        """Product of real numbers with signs in packed words, unpacked a tile at a time."""
        return signed_matmul(x, words)

    def macs(self, into: int, out: int, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one image."""
        return into * out


@dataclasses.dataclass(frozen=True)
class Convolution:
    """x (N, H, W, in) convolved with kernel (kh, kw, in, out); pad_value 0, +1 or -1 lies outside the image."""

    window: Window
    pad_value: int = 0

    def __post_init__(self):
        if self.pad_value not in (0, 1, -1):
            raise ValueError(f'pad_value: got {self.pad_value!r}, expected 0, +1 or -1')

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Float product, float32 or wider: exact for +-1 operands up to 2^24 terms."""
        pads = self.window.pads(x.shape[1], x.shape[2])
        if self.pad_value != 0:
            x = pad_channels(x, pads, jnp.full(x.shape[-1:], self.pad_value, x.dtype))
            pads = ((0, 0), (0, 0))
        return general_convolution(x, kernel.astype(x.dtype), self.window.strides, pads, self.window.dilation)

    def kernel_shape(self, into: int, out: int) -> tuple[int, ...]:
        return *self.window.size, into, out

    def check(self, x: jax.Array | Signs, into: int) -> None:
        """Raises ValueError unless x fits a layer with `into` input channels."""
        if x.ndim != 4 or x.shape[3] != into:
            raise ValueError(f'convolution: got input of shape {x.shape}, expected (N, H, W, {into})')

    def input_scale(self, x: jax.Array) -> jax.Array:
        """K with this window; zeros outside the image whatever the pad value."""
        window = self.window
        return quantizers.input_scale(x, window.size, window.strides, window.padding, window.dilation)

    def words_shape(self, into: int, out: int) -> tuple[int, ...]:
        return *self.window.size, words_for(into), out

    def pack_kernel(self, signs: jax.Array) -> jax.Array:
        """(kh, kw, in, out) -> (kh, kw, n_words, out)."""
        return pack(signs, axis=2)

    def unpack_kernel(self, words: jax.Array, into: int) -> jax.Array:
        return unpack(words, into, axis=2)

    def words_axis(self) -> int:
        """Along which axis of its words the input channels are packed."""
        return 2

    def border(self, words: jax.Array, into: int) -> jax.Array | None:
        """What zero padding needs to know of the weights, computed once: their sum at each tap, (kh, kw, out)."""
        return tap_sums(words, into) if self.pad_value == 0 else None

    def packed(self, x_words: jax.Array, words: jax.Array, into: int, border: jax.Array | None) -> jax.Array:
        """Product of signs on packed words, int32, equal to the float product at every border pixel."""
        return packed_conv2d(x_words, words, into, w_sums=border, **self._options())

    def packed_signs(self, x_words, words, into: int, border, thresholds: jax.Array, flip: jax.Array) -> jax.Array:
        """Words of (packed < thresholds) ^ flip."""
        return packed_conv2d_signs(x_words, words, thresholds, flip, into, w_sums=border, **self._options())

    def signed(self, x: jax.Array, words: jax.Array) -> jax.Array:
        """Product of real numbers with signs in packed words, unpacked a tile at a time."""
        return signed_conv2d(x, words, **self._options())

    def _options(self) -> dict:
        window = self.window
        return {
            'strides': window.strides,
            'padding': window.padding,
            'dilation': window.dilation,
            'pad_value': self.pad_value,
        }

    def macs(self, into: int, out: int, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one image, taps in the padding counted (the custom of the field)."""
        height, width = output_shape[1:3]
        return height * width * self.window.size[0] * self.window.size[1] * into * out
