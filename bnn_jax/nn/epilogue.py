"""What follows a product of signs: alpha, K, bias. Training and packed arithmetic call the same functions."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from bnn_jax import quantizers
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.deterministic import rounded


@jax.jit
def scaled(product: jax.Array, scale: jax.Array | None) -> jax.Array:
    """A product times one scale a filter (last axis); None is 1. Training and packed arithmetic both scale here."""
    if scale is None:
        return product
    return rounded(product * jnp.broadcast_to(scale.astype(product.dtype), product.shape))


@jax.jit
def epilogue(y: jax.Array, k: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """What follows a scaled product, in this order: times K, plus bias. Both arithmetics call this."""
    if k is not None:
        y = rounded(y * jnp.broadcast_to(k.astype(y.dtype), y.shape))
    if bias is not None:
        y = rounded(rounded(y) + jnp.broadcast_to(bias.astype(y.dtype), y.shape))
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def binary_product(
    operation: Convolution | Dense,
    x: jax.Array,
    weight: jax.Array,
    scale: jax.Array | None,
    sign: Callable = quantizers.sign,
) -> jax.Array:
    """operation(x, weight) for a weight that is scale * signs, computed exactly: signs first, scale afterwards.

    Forward: scaled(operation(x, sign(weight)), scale); for x = +-1 the inner product is an exact integer.
    Gradient: that of operation(x, weight) to x and weight; none to scale, whose part is in weight's own gradient. That to
    x is that of operation(x, sign(weight)) for scale * g, so that scale * signs is never made.
    """
    return scaled(operation(x, sign(weight)), scale)


def _binary_product_fwd(operation, x, weight, scale, sign):
    y, vjp = jax.vjp(operation, x, sign(weight))
    return scaled(y, scale), (vjp, scale)


def _binary_product_bwd(operation, sign, residuals, g):
    vjp, scale = residuals
    if scale is None:
        return *vjp(g), None
    to_x, _ = vjp(scaled(g, scale))
    # The gradient to alpha * signs as a whole: here g is not scaled.
    return to_x, vjp(g)[1], jnp.zeros_like(scale)


binary_product.defvjp(_binary_product_fwd, _binary_product_bwd)
