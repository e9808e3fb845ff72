"""The scale K of XNOR-Net's inputs."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import ordered_mean, wide
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.quantizers.straight_through import floating


def input_scale(
    x: Float[ArrayLike, 'batch height width channels'],
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = 'VALID',
    dilation: int | Sequence[int] = 1,
) -> Float[Array, 'batch rows columns 1']:
    """XNOR-Net's K, the scale of every input window: the mean of |x| over channels and window.

    K is the convolution of A with k. A is the mean of |x| over channels; each number of the window k is 1 / (w h).

    Gradient: that of the formula, as JAX derives it. The scheme XNOR_K stops it.

    Args:
        x: activations.
        kernel_size: the kernel size of the layer whose input is scaled; one number or (height, width).
        strides: the strides of that layer.
        padding: 'SAME', 'VALID' or ((top, bottom), (left, right)). Outside the image A is 0; the divisor stays w h.
        dilation: the dilation of that layer.

    Returns:
        One number for every pixel of the layer's output.

    Raises:
        TypeError: x is not floating.
        ValueError: x does not have four axes, or the window is invalid or does not fit the image.

    Source: XNOR-Net (arXiv:1603.05279) section 3.2, eq. 11.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.input_scale(jnp.array([1.0, -3.0, 5.0]).reshape(1, 1, 3, 1), (1, 2))[0, 0, :, 0]
        Array([2., 4.], dtype=float32)
    """
    x = floating(x, 'input_scale')
    if x.ndim != 4:
        raise ValueError(f'input_scale: got shape {x.shape}, expected rank 4: (N, H, W, C)')
    window = Window.of(kernel_size, strides, padding, dilation)
    magnitudes = jnp.abs(x.astype(wide(x.dtype)))
    magnitude = ordered_mean(jnp.moveaxis(magnitudes, -1, 0))[..., None]
    return window.mean(magnitude).astype(x.dtype)
