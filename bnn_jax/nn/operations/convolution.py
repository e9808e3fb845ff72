"""A convolution as a value: in floats, and on packed words."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp

from bnn_jax import quantizers
from bnn_jax.files.bounds import Integer, OneOf, Size
from bnn_jax.kernels import packed_conv2d, packed_conv2d_signs, signed_conv2d
from bnn_jax.kernels.groups import is_narrow
from bnn_jax.kernels.zero_padding import narrow_tap_sums, tap_sums
from bnn_jax.nn.names import register
from bnn_jax.ops.bits import pack, unpack, words_for
from bnn_jax.ops.general_convolution import general_convolution
from bnn_jax.ops.shapes import Shape, as_map
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.ops.windows import Window, pad_channels

# A window is described in files as part of its operation or pooling.
register('Window', make=Window.stored)(Window)


@register('Convolution')
@dataclasses.dataclass(frozen=True)
class Convolution:
    """x (N, H, W, in) convolved with kernel (kh, kw, in / groups, out); pad_value 0, +1 or -1 lies outside the image.

    Filters g out / groups to (g + 1) out / groups see the channels g in / groups to (g + 1) in / groups, for each group g.
    """

    acts_on_rows = False

    window: Window
    pad_value: Annotated[int, OneOf((0, 1, -1))] = 0
    groups: Size = 1
    # The number of filters where words run along the filters, not along a group's input channels. Conversion sets it where
    # these channels do not fill a word (`stored`); files of version 0.1.0 never have it.
    filters: Annotated[int | None, OneOf((None,), Integer(1, 2**24))] = None

    def __post_init__(self):
        if self.pad_value not in (0, 1, -1):
            raise ValueError(f'pad_value: got {self.pad_value!r}, expected 0, +1 or -1')
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f'groups: got {self.groups!r}, expected a positive integer')

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Float product, float32 or wider: exact for +-1 operands up to 2^24 terms."""
        pads = self.window.pads(x.shape[1], x.shape[2])
        if self.pad_value != 0:
            x = pad_channels(x, pads, jnp.full(x.shape[-1:], self.pad_value, x.dtype))
            pads = ((0, 0), (0, 0))
        kernel, window = kernel.astype(x.dtype), self.window
        return general_convolution(x, kernel, window.strides, pads, window.dilation, self.groups)

    def kernel_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(kh, kw, in / groups, out). Raises ValueError unless the groups share both evenly."""
        if in_features % self.groups or out_features % self.groups:
            raise ValueError(
                f'convolution in {self.groups} groups: got {in_features} channels to {out_features} filters, expected '
                'multiples of the groups'
            )
        if self.filters is not None and (self.filters != out_features or not is_narrow(in_features, self.groups)):
            raise ValueError(
                f'filters: got {self.filters} for {in_features} channels to {out_features} filters in {self.groups} groups, '
                f'expected None, or {out_features} in several groups of fewer than 32 channels: only there words run along '
                'the filters'
            )
        return *self.window.size, in_features // self.groups, out_features

    def check(self, x: jax.Array | Signs, in_features: int) -> None:
        """Raises ValueError unless x fits a layer with `in_features` input channels."""
        if x.ndim != 4 or x.shape[3] != in_features:
            raise ValueError(f'convolution: got input of shape {x.shape}, expected (N, H, W, {in_features})')

    def maps(self, shape: Shape, in_features: int, out_features: int) -> Iterator[Shape]:
        """As `Layer.maps`, of a layer with so many input channels and filters."""
        *padded, output = self.window.maps(as_map('convolution', shape, in_features))
        rows, columns, _ = as_map('convolution', output)
        yield from padded
        yield rows, columns, out_features

    def input_scale(self, x: jax.Array) -> jax.Array:
        """K with this window; zeros outside the image whatever the pad value. Raises ValueError for groups."""
        self.expect_one_group()
        window = self.window
        return quantizers.input_scale(x, window.size, window.strides, window.padding, window.dilation)

    def expect_one_group(self) -> None:
        """Raises ValueError for several: K, and the sums of a product that is affine in its bits, are over all channels."""
        if self.groups > 1:
            raise ValueError(
                f'K: got a convolution in {self.groups} groups, expected one: K is the mean over all channels, of which a '
                'filter sees some (and so are the sums that levels or an offset need); use a scheme without input_scale'
            )

    def stored(self, in_features: int, out_features: int) -> 'Convolution':
        """The operation as conversion stores its weights: words along the filters where groups are narrow."""
        return dataclasses.replace(self, filters=out_features if is_narrow(in_features, self.groups) else None)

    def words_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(kh, kw, words_for(in / groups), out), or (kh, kw, in / groups, words_for(out)) along the filters."""
        *size, channels, out_features = self.kernel_shape(in_features, out_features)
        return (
            (*size, words_for(channels), out_features)
            if self.filters is None
            else (*size, channels, words_for(out_features))
        )

    def words_axis(self) -> int:
        """Along which axis of its words signs are packed."""
        return 2 if self.filters is None else 3

    def signs_in_words(self, in_features: int, out_features: int) -> int:
        """How many signs lie along that axis."""
        return self.kernel_shape(in_features, out_features)[self.words_axis()]

    def pack_kernel(self, signs: jax.Array) -> jax.Array:
        """(kh, kw, in / groups, out) -> words, in `words_shape`."""
        return pack(signs, axis=self.words_axis())

    def unpack_kernel(self, words: jax.Array, in_features: int) -> jax.Array:
        """The inverse of `pack_kernel`, float32."""
        if self.filters is None:
            return unpack(words, in_features // self.groups, axis=2)
        return unpack(words, self.filters, axis=3)

    def filters_axis(self) -> int:
        """Which axis of its words is that of the filters."""
        return 3

    def tap_sums(self, words: jax.Array, in_features: int) -> jax.Array | None:
        """What zero padding needs to know of the weights, computed once: their sum at each tap, (kh, kw, out)."""
        if self.pad_value != 0:
            return None
        if self.filters is None:
            sums = uncompiled(tap_sums, words, channels=in_features // self.groups)
        else:
            sums = uncompiled(narrow_tap_sums, words, filters=self.filters)
        return jax.device_put(sums(words))

    def packed(self, x_words: jax.Array, words: jax.Array, in_features: int, tap_sums: jax.Array | None) -> jax.Array:
        """Product of signs on packed words, int32, equal to the float product at every border pixel."""
        return packed_conv2d(x_words, words, in_features, tap_sums=tap_sums, **self._options())

    def packed_signs(
        self, x_words, words, in_features: int, tap_sums, thresholds: jax.Array, flip: jax.Array
    ) -> jax.Array:
        """Words of (packed < thresholds) ^ flip."""
        return packed_conv2d_signs(x_words, words, thresholds, flip, in_features, tap_sums=tap_sums, **self._options())

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
            'groups': self.groups,
            'filters': self.filters,
        }

    def macs(self, in_features: int, out_features: int, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one image, taps in the padding counted (the custom of the field)."""
        height, width = output_shape[1:3]
        return height * width * self.window.size[0] * self.window.size[1] * (in_features // self.groups) * out_features
