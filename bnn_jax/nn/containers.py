"""Containers of layers, and the whole network of them, in training arithmetic."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.ops.deterministic import rounded, wide


class Sequential(nnx.Module):
    """Layers one after the other."""

    def __init__(self, layers: Sequence):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


class Residual(nnx.Module):
    """body(x) + shortcut(x); an empty shortcut is the identity."""

    def __init__(self, body: Sequential, shortcut: Sequential):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        return rounded(self.body(x)) + rounded(self.shortcut(x))


class Branches(nnx.Module):
    """What several chains of layers make of one input, side by side: their channels concatenated, (N, H, W, sum of C)."""

    def __init__(self, branches: Sequence[Sequential]):
        self.branches = nnx.List(branches)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([branch(x) for branch in self.branches], axis=-1)


class Auxiliary(nnx.Module):
    """The identity, with a head beside it that only training sees: `Network.with_auxiliary` gives its logits.

    weight: of the head's loss, added to that of the network's own logits. Neither `convert` nor `summarize` counts it.
    """

    def __init__(self, head: Sequential, weight: float):
        self.head, self.weight = head, weight

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Network(nnx.Module):
    """A whole network: images (N, H, W, channels), floating, to logits (N, num_classes), float32 (float64 for float64).

    An image that is not finite gives logits NaN.
    Raises TypeError for images of a dtype that is not floating, ValueError for another rank or number of channels.
    """

    def __init__(self, layers: Sequence, *, channels: int, num_classes: int):
        self.body = Sequential(layers)
        self.channels, self.num_classes = channels, num_classes

    def __call__(self, images) -> jax.Array:
        images = check_images(images, self.channels)
        return nan_unless_finite(self.body(images), images)

    def with_auxiliary(self, images) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
        """The logits, and of every `Auxiliary` on the main path the weight of its loss and its own logits; raises as a call.

        The loss of training is that of the logits plus the sum of weight times that of the auxiliary logits.
        """
        images = x = check_images(images, self.channels)
        heads = []
        for layer in self.body.layers:
            if isinstance(layer, Auxiliary):
                heads.append((layer.weight, nan_unless_finite(layer.head(x), images)))
            x = layer(x)
        return nan_unless_finite(x, images), tuple(heads)


def nan_unless_finite(logits: jax.Array, images: jax.Array) -> jax.Array:
    """logits, but NaN for every image that is not finite: neither bits nor XLA's max pooling on CPU hand a NaN on."""
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))[:, None]
    return jnp.where(jnp.broadcast_to(finite, logits.shape), logits, jnp.nan)


def check_images(images, channels: int) -> jax.Array:
    """Images as an array of float32 or wider. Raises as `Network`."""
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f'images: got dtype {images.dtype}, expected floating numbers normalised as in training; '
            'for bytes, for example, images.astype(float32) / 255'
        )
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(f'images: got shape {images.shape}, expected (N, H, W, {channels})')
    if 0 in images.shape:
        raise ValueError(f'images: got an empty batch of shape {images.shape}, expected at least one image')
    return images.astype(wide(images.dtype))
