"""The steps after a product of signs: alpha, K, bias. Training and packed arithmetic call the same functions."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax import quantizers
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.deterministic import rounded


@jax.jit
def scaled(product: Float[Array, '*batch out'], scale: Float[Array, ' out'] | None) -> Float[Array, '*batch out']:
    """A product times one scale for each filter.

    Forward: product * scale, rounded.
    Gradient: that of product * scale.

    Args:
        product: filters last.
        scale: one number for each filter; None: 1.

    Returns:
        The shape and dtype of the product.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.scaled(jnp.array([[3.0, -1.0]]), jnp.array([0.5, 2.0]))
        Array([[ 1.5, -2. ]], dtype=float32)
    """
    if scale is None:
        return product
    # Rounded before K or the bias follows, so that no compiler contracts the two steps.
    return rounded(product * jnp.broadcast_to(scale.astype(product.dtype), product.shape))


@jax.jit
def epilogue(
    y: Float[Array, '*batch out'], k: Float[Array, '*batch 1'] | None, bias: Float[Array, ' out'] | None
) -> Float[Array, '*batch out']:
    """The steps after a scaled product.

    Forward: y * K + bias, each step rounded.
    Gradient: that of the formula.

    Args:
        y: the scaled product.
        k: XNOR-Net's K of the input; None: 1.
        bias: one number for each filter; None: 0.

    Returns:
        The shape and dtype of y.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.nn.epilogue(jnp.array([[3.0, -1.0]]), None, jnp.array([1.0, 2.0]))
        Array([[4., 1.]], dtype=float32)
    """
    if k is not None:
        y = rounded(y * jnp.broadcast_to(k.astype(y.dtype), y.shape))
    if bias is not None:
        y = rounded(rounded(y) + jnp.broadcast_to(bias.astype(y.dtype), y.shape))
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def binary_product(
    operation: Convolution | Dense,
    x: Float[Array, '*input'],
    weight: Float[Array, '*kernel out'],
    scale: Float[Array, ' out'] | None,
    sign: Callable = quantizers.sign,
) -> Float[Array, '*batch out']:
    """operation(x, weight) for weight = scale * signs: the product with the signs, multiplied by the scale afterward.

    Forward: scaled(operation(x, sign(weight)), scale). For x = +-1 the product with the signs is an exact integer.
    Gradient: with respect to x and weight, that of operation(x, weight). scale gets 0, because its part is in the
    gradient of weight.

    Args:
        operation: `Convolution` or `Dense`.
        x: the input.
        weight: scale times signs.
        scale: one number for each filter; None: 1.
        sign: the function that gives the signs of weight.

    Returns:
        The product, float32 or wider.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> x, weight = jnp.array([[1.0, -1.0, 1.0]]), jnp.array([[0.5], [0.5], [0.5]])
        >>> bnn.nn.binary_product(bnn.nn.Dense(), x, weight, jnp.array([0.5]))
        Array([[0.5]], dtype=float32)
    """
    return scaled(operation(x, sign(weight)), scale)


def _binary_product_fwd(operation, x, weight, scale, sign):
    y, vjp = jax.vjp(operation, x, sign(weight))
    return scaled(y, scale), (vjp, scale)


def _binary_product_bwd(operation, sign, residuals, g):
    vjp, scale = residuals
    if scale is None:
        return *vjp(g), None
    # With respect to x: g is scaled instead of the signs, so scale * signs is never computed.
    to_x, _ = vjp(scaled(g, scale))
    # With respect to scale * signs as a whole: here g is not scaled.
    return to_x, vjp(g)[1], jnp.zeros_like(scale)


binary_product.defvjp(_binary_product_fwd, _binary_product_bwd)
