"""Dropout: what is dropped together (elements or whole channels), and rules that say which inputs are dropped.

A drop is a function (x, rate, key) -> x. In training a product applies it to its input. A product that binarizes its
input does that first. A rule is a function `ProductInput` -> drop or None; `Scheme.drops` holds one.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Drop = Callable[[jax.Array, float, jax.Array], jax.Array]


def elements(x: Float[Array, '*shape'], rate: float, key: Key[Array, '']) -> Float[Array, '*shape']:
    """Dropout of single elements.

    Forward: each element is 0 with probability rate; the others are divided by 1 - rate.
    Gradient: g with the same mask and factor.

    Args:
        x: any shape.
        rate: from 0 to below 1.
        key: a `jax.random.key`.

    Returns:
        The shape and dtype of x.

    Example:
        >>> import bnn_jax as bnn
        >>> from bnn_jax.schemes.dropout import ProductInput, elements, of_vectors
        >>> of_vectors(ProductInput((256,), dense=True, pooled=False)) is elements
        True
    """
    return _masked(x, rate, jax.random.bernoulli(key, 1 - rate, x.shape))


@dataclasses.dataclass(frozen=True)
class Channels:
    """Dropout of whole channels of an image.

    Forward: each channel is 0 with probability rate; the others are divided by 1 - rate.
    Gradient: g with the same mask and factor.

    Args:
        count: the number of channels. The input is (N, H, W, count), or the same image flattened, (N, H W count).

    Source: Torch's SpatialDropout, which multiplies by 1 - rate in evaluation instead. If a batch normalization follows the
    product, both are the same function up to its epsilon.

    Example:
        >>> import bnn_jax as bnn
        >>> from bnn_jax.schemes.dropout import ProductInput, of_dense_channels
        >>> of_dense_channels(ProductInput((6, 6, 256), dense=True, pooled=True))
        Channels(count=256)
    """

    count: int

    def __call__(self, x: Float[Array, ' n *image'], rate: float, key: Key[Array, '']) -> Float[Array, ' n *image']:
        kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, self.count))
        return _masked(x.reshape(x.shape[0], -1, self.count), rate, kept).reshape(x.shape)


def _masked(x: jax.Array, rate: float, kept: jax.Array) -> jax.Array:
    # The factor has the dtype of x, so that a narrow input stays narrow.
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


@dataclasses.dataclass(frozen=True)
class ProductInput:
    """The input of a product, as a rule sees it.

    Args:
        shape: the shape of one input, (H, W, C) or (C,), before it is flattened.
        dense: whether the product is a dense layer.
        pooled: whether the input comes from a pooling.
    """

    shape: tuple[int, ...]
    dense: bool
    pooled: bool


def of_vectors(given: ProductInput) -> Drop | None:
    """The rule that drops elements of vectors, such as inputs of AlexNet's last two dense layers (XNOR-Net in PyTorch)."""
    return elements if len(given.shape) == 1 else None


def of_dense_channels(given: ProductInput) -> Drop | None:
    """The rule that drops whole channels of a dense layer's input; in a vector, each element is a channel (XNOR-Net in Lua)."""
    return Channels(given.shape[-1]) if given.dense else None


def of_pooled(given: ProductInput) -> Drop | None:
    """The rule that drops elements of an input that comes from a pooling (NIN of XNOR-Net in PyTorch)."""
    return elements if given.pooled else None


def everywhere(given: ProductInput) -> Drop | None:
    """The rule that drops elements of every product's input (BinaryNet's code for MNIST)."""
    return elements
