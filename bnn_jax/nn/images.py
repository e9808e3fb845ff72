"""Checks the images that a network gets, and sets the logits of an image that is not finite to NaN."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.ops.deterministic import wide


def nan_unless_finite(
    logits: Float[Array, 'n num_classes'], images: Float[Array, 'n height width channels']
) -> Float[Array, 'n num_classes']:
    """The logits, with NaN for every image that is not finite."""
    # Neither bits nor XLA's max pooling on CPU propagate a NaN.
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))[:, None]
    return jnp.where(jnp.broadcast_to(finite, logits.shape), logits, jnp.nan)


def check_images(images: Any, channels: int) -> Float[Array, 'n height width channels']:
    """Checks images, and returns them as an array of float32 or wider.

    Args:
        images: floating, (N, H, W, channels); NumPy arrays of either byte order.
        channels: the number of channels that the network expects.

    Returns:
        The images.

    Raises:
        TypeError: the images are not floating, or are a masked array.
        ValueError: the images have another rank or number of channels, or an axis of length 0.
    """
    if isinstance(images, np.ma.MaskedArray):
        raise TypeError(
            'images: got a masked array, expected a number at every pixel, because a network has no masks; '
            'for example images.filled(0)'
        )
    if isinstance(images, np.ndarray):
        # JAX takes only arrays in the byte order of the machine.
        images = images.astype(images.dtype.newbyteorder('='), copy=False)
    else:
        images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f'images: got dtype {images.dtype}, expected floating numbers normalized as in training; '
            'for bytes, for example, images.astype(float32) / 255'
        )
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(f'images: got shape {images.shape}, expected (N, H, W, {channels})')
    # Statistics and means of an empty batch would be NaN.
    if 0 in images.shape:
        raise ValueError(
            f'images: got an empty batch of shape {images.shape}, expected at least one image, of at least one pixel'
        )
    return images.astype(wide(images.dtype))
