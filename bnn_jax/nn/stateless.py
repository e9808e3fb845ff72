"""Layers without parameters: activations, added channels, poolings and flattening."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.files.bounds import Integer, Number
from bnn_jax.nn.layer import Layer
from bnn_jax.nn.names import register
from bnn_jax.ops.deterministic import ordered_mean, rounded, wide
from bnn_jax.ops.shapes import Shape, as_map, numbers
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.windows import Window


@register('Relu')
@dataclasses.dataclass(frozen=True)
class Relu(Layer):
    """The rectifier.

    Forward: max(x, 0).
    Gradient: g where x > 0, else 0.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.Relu()(jnp.array([-1.0, 2.0]))
        Array([0., 2.], dtype=float32)
    """

    def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
        return jax.nn.relu(x)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape of the input."""
        yield shape

    def direction(self, channels: int) -> np.ndarray:
        """+1 for every channel: the output never falls as the input rises."""
        return np.ones(channels)


@register('HardTanh')
@dataclasses.dataclass(frozen=True)
class HardTanh(Layer):
    """Clips values to [-1, 1]. The sign stays that of x.

    Forward: min(max(x, -1), 1).
    Gradient: g where |x| < 1, else 0.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.HardTanh()(jnp.array([-3.0, 0.5]))
        Array([-1. ,  0.5], dtype=float32)
    """

    def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
        # jnp.clip alone would have another gradient at -1 and 1.
        return jnp.where(jnp.abs(x) < 1, x, jax.lax.stop_gradient(jnp.clip(x, -1, 1)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape of the input."""
        yield shape

    def direction(self, channels: int) -> np.ndarray:
        """+1 for every channel: the output never falls as the input rises."""
        return np.ones(channels)


@register('LeakyRelu')
@dataclasses.dataclass(frozen=True)
class LeakyRelu(Layer):
    """The leaky rectifier.

    Forward: x where x > 0, else slope x.
    Gradient: g where x > 0, else slope g.

    Args:
        slope: the factor of negative numbers.

    Source: Darknet, with slope 0.1.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.LeakyRelu(0.5)(jnp.array([-4.0, 2.0]))
        Array([-2.,  2.], dtype=float32)
    """

    slope: Annotated[float, Number()]

    def __post_init__(self):
        # A file keeps a Python float, so any number becomes one. A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, 'slope', float(self.slope))

    def __call__(self, x: Float[Array, '*shape']) -> Float[Array, '*shape']:
        return jnp.where(x > 0, x, rounded(x * jnp.asarray(self.slope, x.dtype)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape of the input."""
        yield shape

    def direction(self, channels: int) -> np.ndarray | None:
        """+1 for every channel if the slope is finite and at least 0, else None."""
        # With a negative slope the output falls while x < 0 and rises while x > 0.
        return np.ones(channels) if 0 <= self.slope < np.inf else None


@register('PadChannels')
@dataclasses.dataclass(frozen=True)
class PadChannels(Layer):
    """Adds channels of zeros before and after those of the input.

    Args:
        before: how many channels before.
        after: how many channels after.

    Source: option A of residual networks' shortcuts (arXiv:1512.03385 section 3.3), as in IR-Net and ReCU.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> jax.eval_shape(bnn.nn.PadChannels(8, 8), jax.ShapeDtypeStruct((1, 4, 4, 16), 'float32')).shape
        (1, 4, 4, 32)
    """

    before: Annotated[int, Integer(0, 2**24)]
    after: Annotated[int, Integer(0, 2**24)]

    def __call__(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch padded_channels']:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(self.before, self.after)])

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape of the input with more channels."""
        if shape is None or shape[-1] is None:
            yield shape
        else:
            yield (*shape[:-1], self.before + shape[-1] + self.after)

    keeps_channels = False


@register('MaxPool')
@dataclasses.dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over a window. Pixels outside the image do not count.

    Args:
        window: the window, without dilation and with a padding smaller than its size.

    Raises:
        ValueError: the window is dilated, or its padding is so large that a window may contain no pixel.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> pool = bnn.nn.MaxPool(bnn.nn.Window.of(2, strides=2))
        >>> jax.eval_shape(pool, jax.ShapeDtypeStruct((1, 4, 4, 8), 'float32')).shape
        (1, 2, 2, 8)
    """

    window: Window

    def __post_init__(self):
        window = self.window
        pads = ((0, 0), (0, 0)) if isinstance(window.padding, str) else window.padding
        if window.dilation != (1, 1) or any(max(pad) >= size for pad, size in zip(pads, window.size, strict=True)):
            raise ValueError(
                f'max pooling: got padding {window.padding} and dilation {window.dilation} for a window of {window.size}, '
                'expected a padding smaller than the window, so that each window sees a pixel, and dilation (1, 1)'
            )

    def __call__(self, x: Float[Array, 'n height width channels']) -> Float[Array, 'n rows columns channels']:
        return self.window.max(x)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The padded shape, then the pooled shape."""
        yield from self.window.maps(shape)

    in_bits = 'AND or OR of the words of signs'

    def moves_signs(self) -> bool:
        """True: the maximum picks one of the numbers."""
        return True

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """AND or OR of the words in every window."""
        return signs.pooled(self.window, highest)


@register('AvgPool')
@dataclasses.dataclass(frozen=True)
class AvgPool(Layer):
    """Mean over a window. Pixels outside the image count as 0, so the divisor is always kh kw (PyTorch's default).

    Args:
        window: the window.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> pool = bnn.nn.AvgPool(bnn.nn.Window.of(2, strides=2))
        >>> jax.eval_shape(pool, jax.ShapeDtypeStruct((1, 4, 4, 8), 'float32')).shape
        (1, 2, 2, 8)
    """

    window: Window

    def __call__(self, x: Float[Array, 'n height width channels']) -> Float[Array, 'n rows columns channels']:
        # A narrow dtype would round the sum.
        return self.window.mean(x.astype(wide(x.dtype)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The padded shape, the shape of the pixels that all taps read, then the pooled shape."""
        *padded, end = self.window.maps(as_map('average pooling', shape))
        rows, columns, channels = as_map('average pooling', end)
        yield from padded
        yield math.prod(self.window.size), rows, columns, channels
        yield rows, columns, channels


@register('GlobalAveragePool')
@dataclasses.dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """Mean over height and width.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> jax.eval_shape(bnn.nn.GlobalAveragePool(), jax.ShapeDtypeStruct((1, 4, 4, 8), 'float32')).shape
        (1, 8)
    """

    def __call__(self, x: Float[Array, 'n height width channels']) -> Float[Array, 'n channels']:
        x = x.astype(wide(x.dtype))
        # Summed in a fixed order, because the sign of a mean may be taken.
        return ordered_mean(jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 0))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape (channels,)."""
        yield as_map('global average pooling', shape)[2:]


@register('Flatten')
@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """Flattens all axes but the first into one, row-major.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> jax.eval_shape(bnn.nn.Flatten(), jax.ShapeDtypeStruct((1, 4, 4, 8), 'float32')).shape
        (1, 128)
    """

    def __call__(self, x: Float[Array, ' n *shape']) -> Float[Array, 'n features']:
        return x.reshape(x.shape[0], -1)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape (features,)."""
        yield (numbers(shape),)

    keeps_channels = False
    in_bits = 'words of signs, flattened'

    def moves_signs(self) -> bool:
        """True: the numbers only move."""
        return True

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        """The signs as one row for each image."""
        return signs.flattened()
