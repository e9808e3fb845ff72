"""A convolution as a value, in floats and on packed words."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, Shaped, UInt32

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
    """x (N, H, W, in) convolved with kernel (kh, kw, in / groups, out).

    With several groups, the channels and the filters are divided into `groups` equal parts, and the filters of part g read the
    channels of part g.

    Args:
        window: size, strides, padding and dilation.
        pad_value: the value outside the image: 0, +1 or -1.
        groups: the number of groups.
        filters: the number of filters if packed words run along the filters; None if they run along the input channels.
            `convert` chooses words along the filters if there are several groups of fewer than 32 channels each.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.nn.Convolution(bnn.nn.Window.of(3), groups=2).kernel_shape(16, 32)
        (3, 3, 8, 32)
    """

    acts_on_rows = False

    window: Window
    pad_value: Annotated[int, OneOf((0, 1, -1))] = 0
    groups: Size = 1
    # Files written before words could run along the filters do not have this field.
    filters: Annotated[int | None, OneOf((None,), Integer(1, 2**24))] = None

    def __post_init__(self):
        if self.pad_value not in (0, 1, -1):
            raise ValueError(f'pad_value: got {self.pad_value!r}, expected 0, +1 or -1')
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f'groups: got {self.groups!r}, expected a positive integer')

    def __call__(
        self, x: Float[Array, 'n h w in_features'], kernel: Float[Array, 'kh kw channels out']
    ) -> Float[Array, 'n rows columns out']:
        """The product in float32 or wider; exact for +-1 operands up to 2^24 terms."""
        pads = self.window.pads(x.shape[1], x.shape[2])
        # XLA pads with zeros only, so any other value is padded here.
        if self.pad_value != 0:
            x = pad_channels(x, pads, jnp.full(x.shape[-1:], self.pad_value, x.dtype))
            pads = ((0, 0), (0, 0))
        kernel, window = kernel.astype(x.dtype), self.window
        return general_convolution(x, kernel, window.strides, pads, window.dilation, self.groups)

    def kernel_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(kh, kw, in / groups, out). Raises ValueError unless `groups` and `filters` fit both numbers."""
        if in_features % self.groups or out_features % self.groups:
            raise ValueError(
                f'convolution in {self.groups} groups: got {in_features} channels to {out_features} filters, expected '
                f'multiples of {self.groups}'
            )
        if self.filters is not None and (self.filters != out_features or not is_narrow(in_features, self.groups)):
            raise ValueError(
                f'filters: got {self.filters} for {in_features} channels to {out_features} filters in {self.groups} groups, '
                f'expected None, or {out_features} if there are several groups of fewer than 32 channels'
            )
        return *self.window.size, in_features // self.groups, out_features

    def check(self, x: Shaped[Array, '*input'] | Signs, in_features: int) -> None:
        """Raises ValueError unless x fits a layer with `in_features` input channels."""
        if x.ndim != 4 or x.shape[3] != in_features:
            raise ValueError(f'convolution: got input of shape {x.shape}, expected (N, H, W, {in_features})')

    def maps(self, shape: Shape, in_features: int, out_features: int) -> Iterator[Shape]:
        """The shapes of the padded image and of the output, as `Layer.maps` yields them."""
        *padded, output = self.window.maps(as_map('convolution', shape, in_features))
        rows, columns, _ = as_map('convolution', output)
        yield from padded
        yield rows, columns, out_features

    def input_scale(self, x: Float[Array, 'n h w channels']) -> Float[Array, 'n rows columns 1']:
        """K with this window. Outside the image x counts as 0, whatever the pad value. Raises ValueError for several groups."""
        self.expect_one_group()
        window = self.window
        return quantizers.input_scale(x, window.size, window.strides, window.padding, window.dilation)

    def expect_one_group(self) -> None:
        """Raises ValueError for several groups. Products with K, levels or an offset need sums over all channels."""
        if self.groups > 1:
            raise ValueError(
                f'convolution: got {self.groups} groups, expected one group for K, levels or an offset, because these need '
                'sums over all channels, but a filter reads only the channels of its group; use a scheme without them'
            )

    def stored(self, in_features: int, out_features: int) -> 'Convolution':
        """The operation for packed weights. Their words run along the filters if the groups are narrow."""
        return dataclasses.replace(self, filters=out_features if is_narrow(in_features, self.groups) else None)

    def words_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(kh, kw, words_for(in / groups), out), or (kh, kw, in / groups, words_for(out)) for words along the filters."""
        *size, channels, out_features = self.kernel_shape(in_features, out_features)
        return (
            (*size, words_for(channels), out_features)
            if self.filters is None
            else (*size, channels, words_for(out_features))
        )

    def words_axis(self) -> int:
        """The axis of the words along which signs are packed."""
        return 2 if self.filters is None else 3

    def signs_in_words(self, in_features: int, out_features: int) -> int:
        """The number of signs along `words_axis`."""
        return self.kernel_shape(in_features, out_features)[self.words_axis()]

    def pack_kernel(self, signs: Float[Array, 'kh kw channels out']) -> UInt32[Array, '*words_shape']:
        """The words of a kernel of signs."""
        return pack(signs, axis=self.words_axis())

    def unpack_kernel(
        self, words: UInt32[Array, '*words_shape'], in_features: int
    ) -> Float32[Array, 'kh kw channels out']:
        """The inverse of `pack_kernel`."""
        if self.filters is None:
            return unpack(words, in_features // self.groups, axis=2)
        return unpack(words, self.filters, axis=3)

    def filters_axis(self) -> int:
        """The axis of the words along which filters lie."""
        return 3

    def tap_sums(self, words: UInt32[Array, '*words_shape'], in_features: int) -> Int32[Array, 'kh kw out'] | None:
        """The sum of the weights at each tap, which corrects zero padding; None for another pad value."""
        # With pad value +1 or -1, every tap reads a sign. With 0, taps outside the image must not count.
        if self.pad_value != 0:
            return None
        if self.filters is None:
            sums = uncompiled(tap_sums, words, channels=in_features // self.groups)
        else:
            sums = uncompiled(narrow_tap_sums, words, filters=self.filters)
        # `uncompiled` may return NumPy arrays.
        return jax.device_put(sums(words))

    def packed(
        self,
        x_words: UInt32[Array, 'n h w n_words'],
        words: UInt32[Array, '*words_shape'],
        in_features: int,
        tap_sums: Int32[Array, 'kh kw out'] | None,
    ) -> Int32[Array, 'n rows columns out']:
        """The product of signs on packed words. It equals the float product, also at the border."""
        return packed_conv2d(x_words, words, in_features, tap_sums=tap_sums, **self._options())

    def packed_signs(
        self,
        x_words: UInt32[Array, 'n h w n_words'],
        words: UInt32[Array, '*words_shape'],
        in_features: int,
        tap_sums: Int32[Array, 'kh kw out'] | None,
        thresholds: Int32[Array, ' out'],
        flip: UInt32[Array, ' out_words'],
    ) -> UInt32[Array, 'n rows columns out_words']:
        """The words of the signs whose bits are (packed < thresholds) ^ flip."""
        return packed_conv2d_signs(x_words, words, thresholds, flip, in_features, tap_sums=tap_sums, **self._options())

    def signed(
        self, x: Float[Array, 'n h w in_features'], words: UInt32[Array, '*words_shape']
    ) -> Float[Array, 'n rows columns out']:
        """The product of real numbers with packed signs: `kernels.signed_conv2d`."""
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
        """Multiply-adds for one image. Taps in the padding count, as usual."""
        height, width = output_shape[1:3]
        return height * width * self.window.size[0] * self.window.size[1] * (in_features // self.groups) * out_features
