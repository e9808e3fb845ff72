"""A rectifier with trained slopes. It has parameters, so it is a Flax module."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bnn_jax.nn.layer import Layer
from bnn_jax.nn.names import register
from bnn_jax.ops.deterministic import rounded
from bnn_jax.ops.shapes import Shape, expect_last


@register('PRelu', fields=('channels',))
class PRelu(Layer, nnx.Module):
    """The leaky rectifier with a trained slope for each channel, which starts at 0.25.

    Forward: x where x > 0, else slope x.
    Gradient: with respect to x, g where x > 0, else slope g; with respect to slope, the sum of g x where x <= 0.

    Args:
        channels: the number of channels, on the last axis of the input.

    Source: arXiv:1502.01852.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.PRelu(2)(jnp.array([[-4.0, 8.0]]))
        Array([[-1.,  8.]], dtype=float32)
    """

    def __init__(self, channels: int):
        self.channels = channels
        self.slope = nnx.Param(jnp.full((channels,), 0.25, jnp.float32))

    def __call__(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        slope = jnp.broadcast_to(self.slope[...].astype(x.dtype), x.shape)
        return jnp.where(x > 0, x, rounded(x * slope))

    def maps(self, shape: Shape) -> Iterator[Shape]:
        """The shape of the input. Raises ValueError for another number of channels."""
        expect_last('PRelu', shape, self.channels)
        yield shape

    def direction(self, channels: int) -> np.ndarray | None:
        """+1 for every channel; None if a slope is negative, infinite or NaN, or for another number of channels."""
        slope = np.asarray(self.slope[...])
        # With a negative slope the output falls while x < 0 and rises while x > 0.
        fits = slope.shape == (channels,) and np.all((slope >= 0) & (slope < np.inf))
        return np.ones(channels) if fits else None
