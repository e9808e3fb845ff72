"""Dropout: what is dropped together (elements, whole channels), and rules that say which products' inputs are.

A drop is (x, rate, key) -> x, of a product's input after it was binarized, in training only. A rule is a `Scheme`'s
`drops`: the input of a product -> its drop, or None.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Drop = Callable[[jax.Array, float, jax.Array], jax.Array]


def elements(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """x, every element 0 with probability rate, the others divided by 1 - rate. Gradient: the same mask and factor."""
    return _masked(x, rate, jax.random.bernoulli(key, 1 - rate, x.shape))


@dataclasses.dataclass(frozen=True)
class Channels:
    """x, whole channels of an image 0 with probability rate, the others divided by 1 - rate. Gradient: as forward.

    count: channels of the image. x: (N, H, W, count), or the same image flattened (N, H W count).
    Source: SpatialDropout of Torch, which multiplies by 1 - rate in evaluation instead: the same function where a batch
    normalization follows the product, up to its epsilon.
    """

    count: int

    def __call__(self, x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, self.count))
        return _masked(x.reshape(x.shape[0], -1, self.count), rate, kept).reshape(x.shape)


def _masked(x: jax.Array, rate: float, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


@dataclasses.dataclass(frozen=True)
class ProductInput:
    """The input of a product. shape: of one input, (H, W, C) or (C,), before it is flattened; dense: whether the product
    is a dense layer; pooled: whether a pooling made its input."""

    shape: tuple[int, ...]
    dense: bool
    pooled: bool


def of_vectors(given: ProductInput) -> Drop | None:
    """Elements, where the input was a vector already: AlexNet's second and third dense layer (XNOR-Net in PyTorch)."""
    return elements if len(given.shape) == 1 else None


def of_dense_channels(given: ProductInput) -> Drop | None:
    """Whole channels of a dense layer's input; of a vector each element is one (XNOR-Net's code in Lua)."""
    return Channels(given.shape[-1]) if given.dense else None


def of_pooled(given: ProductInput) -> Drop | None:
    """Elements, where a pooling made the input (network in network in PyTorch)."""
    return elements if given.pooled else None


def everywhere(given: ProductInput) -> Drop | None:
    """Elements, of every product's input (BinaryNet's code for MNIST)."""
    return elements
