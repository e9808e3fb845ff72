"""The scale K of XNOR-Net's inputs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bnn_jax.ops.deterministic import ordered_mean, wide
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.quantizers.straight_through import floating


def input_scale(
    x,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: Padding = 'VALID',
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """XNOR-Net's K, the scale of every input window: K = A * k with A = mean over channels of |x|, k = 1/(w h).

    x: (N, H, W, C). Returns (N, H', W', 1), H' and W' as the layer's convolution gives them with this kernel size,
    strides, padding ('SAME', 'VALID' or explicit pairs) and dilation. Outside the image A is 0 and the divisor stays w h.
    Gradient: that of the formula (XNOR_K stops it). Raises TypeError for a non-floating dtype, ValueError for another
    rank or a bad window. Source: XNOR-Net section 3.2, eq. 11.
    """
    x = floating(x, 'input_scale')
    if x.ndim != 4:
        raise ValueError(f'input_scale: got shape {x.shape}, expected rank 4: (N, H, W, C)')
    window = Window.of(kernel_size, strides, padding, dilation)
    magnitudes = jnp.abs(x.astype(wide(x.dtype)))
    magnitude = ordered_mean(jnp.moveaxis(magnitudes, -1, 0))[..., None]
    return window.mean(magnitude).astype(x.dtype)
