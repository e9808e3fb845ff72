"""What every network does with images before its layers, and with the logits of an image that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.ops.deterministic import wide


def nan_unless_finite(logits: jax.Array, images: jax.Array) -> jax.Array:
    """logits, but NaN for every image that is not finite: neither bits nor XLA's max pooling on CPU hand a NaN on."""
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))[:, None]
    return jnp.where(jnp.broadcast_to(finite, logits.shape), logits, jnp.nan)


def check_images(images, channels: int) -> jax.Array:
    """Images as an array of float32 or wider, numbers of either byte order. Raises as `Network`."""
    if isinstance(images, np.ma.MaskedArray):
        raise TypeError(
            'images: got a masked array, expected a number at every pixel, for no mask goes through a network; '
            'for example images.filled(0)'
        )
    if isinstance(images, np.ndarray):
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
    if 0 in images.shape:
        raise ValueError(f'images: got an empty batch of shape {images.shape}, expected at least one image')
    return images.astype(wide(images.dtype))
