"""Layers beside products and normalization: activations, poolings, flattening."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnn_jax.files.bounds import Integer, Number
from bnn_jax.nn.layer import Layer
from bnn_jax.nn.names import register
from bnn_jax.ops.deterministic import ordered_mean, rounded, wide
from bnn_jax.ops.shapes import Shape, as_map, expect_last, numbers
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.windows import Window


@register('Relu')
@dataclasses.dataclass(frozen=True)
class Relu(Layer):
    """max(x, 0)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield shape

    def direction(self, channels: int) -> np.ndarray:
        return np.ones(channels)


@register('HardTanh')
@dataclasses.dataclass(frozen=True)
class HardTanh(Layer):
    """min(max(x, -1), 1). Gradient: 1 where |x| < 1, else 0. The sign of what it gives is that of x."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(x) < 1, x, jax.lax.stop_gradient(jnp.clip(x, -1, 1)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield shape

    def direction(self, channels: int) -> np.ndarray:
        return np.ones(channels)


@register('LeakyRelu')
@dataclasses.dataclass(frozen=True)
class LeakyRelu(Layer):
    """x where x > 0, else slope x (gradient 1 and slope). Source: Darknet, with slope 0.1."""

    slope: Annotated[float, Number()]

    def __post_init__(self):
        object.__setattr__(self, 'slope', float(self.slope))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, rounded(x * jnp.asarray(self.slope, x.dtype)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield shape

    def direction(self, channels: int) -> np.ndarray | None:
        return np.ones(channels) if 0 <= self.slope < np.inf else None


@register('PRelu', fields=('channels',))
class PRelu(Layer, nnx.Module):
    """x where x > 0, else slope x, with a trained slope for each channel.

    Gradient: to x 1 where x > 0, else the slope; to the slope x where x <= 0. x: (..., channels). Slopes start at 0.25.
    Source: arXiv:1502.01852.

    Args:
        channels: the number of channels, the last axis of the input.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.nn.PRelu(2)(jnp.array([[-4.0, 8.0]]))
        Array([[-1.,  8.]], dtype=float32)
    """

    def __init__(self, channels: int):
        self.channels = channels
        self.slope = nnx.Param(jnp.full((channels,), 0.25, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        slope = jnp.broadcast_to(self.slope[...].astype(x.dtype), x.shape)
        return jnp.where(x > 0, x, rounded(x * slope))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        expect_last('PRelu', shape, self.channels)
        yield shape

    def direction(self, channels: int) -> np.ndarray | None:
        slope = np.asarray(self.slope[...])
        fits = slope.shape == (channels,) and np.all((slope >= 0) & (slope < np.inf))
        return np.ones(channels) if fits else None


@register('PadChannels')
@dataclasses.dataclass(frozen=True)
class PadChannels(Layer):
    """Channels of zeros before and after those of the input: (..., C) -> (..., before + C + after).

    Source: option A of residual networks' shortcuts (arXiv:1512.03385 section 3.3), as IR-Net and ReCU have it.
    """

    before: Annotated[int, Integer(0, 2**24)]
    after: Annotated[int, Integer(0, 2**24)]

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(self.before, self.after)])

    def maps(self, shape: Shape) -> Iterator[Shape]:
        if shape is None or shape[-1] is None:
            yield shape
        else:
            yield (*shape[:-1], self.before + shape[-1] + self.after)

    keeps_channels = False


@register('MaxPool')
@dataclasses.dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over a window, nothing outside the image counted.

    Raises ValueError for a window that could lie wholly outside, where there is no largest number, and for a dilated one.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.window.max(x)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield from self.window.maps(shape)

    in_bits = 'AND or OR of the words of signs'

    def moves_signs(self) -> bool:
        return True

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        return signs.pooled(self.window, highest)


@register('AvgPool')
@dataclasses.dataclass(frozen=True)
class AvgPool(Layer):
    """Mean over a window; outside the image lie zeros, which count (PyTorch's default): the divisor is always kh kw."""

    window: Window

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.window.mean(x.astype(wide(x.dtype)))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        *padded, end = self.window.maps(as_map('average pooling', shape))
        rows, columns, channels = as_map('average pooling', end)
        yield from padded
        # The image as each tap sees it.
        yield math.prod(self.window.size), rows, columns, channels
        yield rows, columns, channels


@register('GlobalAveragePool')
@dataclasses.dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """Mean over height and width: (N, H, W, C) -> (N, C)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(wide(x.dtype))
        return ordered_mean(jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 0))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield as_map('global average pooling', shape)[2:]


@register('Flatten')
@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """(N, ...) -> (N, all the rest)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield (numbers(shape),)

    keeps_channels = False
    in_bits = 'words as they lie'

    def moves_signs(self) -> bool:
        return True

    def on_signs(self, signs: Signs, highest: Any) -> Signs:
        return signs.flattened()
