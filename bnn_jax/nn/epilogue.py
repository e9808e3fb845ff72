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
    product: Convolution | Dense,
    x: jax.Array,
    weight: jax.Array,
    scale: jax.Array | None,
    sign: Callable = quantizers.sign,
) -> jax.Array:
    """product(x, weight) for a weight that is scale * signs, computed exactly: signs first, scale afterwards.

    Forward: scaled(product(x, sign(weight)), scale); for x = +-1 the inner product is an exact integer.
    Gradient: that of product(x, weight) to x and weight; none to scale, whose part is in weight's own gradient. That to
    x is that of product(x, sign(weight)) for scale * g, so that scale * signs is never made.
    """
    return scaled(product(x, sign(weight)), scale)


def _binary_product_fwd(product, x, weight, scale, sign):
    y, vjp = jax.vjp(product, x, sign(weight))
    return scaled(y, scale), (vjp, scale)


def _binary_product_bwd(product, sign, residuals, g):
    vjp, scale = residuals
    if scale is None:
        return *vjp(g), None
    to_x, _ = vjp(scaled(g, scale))
    return to_x, vjp(g)[1], jnp.zeros_like(scale)


binary_product.defvjp(_binary_product_fwd, _binary_product_bwd)


@jax.jit
def affine_sum(
    products: jax.Array,
    weight_sums: jax.Array,
    input_sums: jax.Array,
    counts: jax.Array,
    numbers: tuple[jax.Array | None, jax.Array | None, tuple[jax.Array, jax.Array] | None],
) -> jax.Array:
    """sum (a s + b)(c t + d) from sums of the signs s and t alone, in one order for both arithmetics.

    Forward: a (c products + d weight_sums) + b (c input_sums + d counts).

    Args:
        products: sum of s t, (..., out).
        weight_sums: sum of s over the taps inside the image, broadcastable to products.
        input_sums: sum of t over the window, (..., 1).
        counts: how many taps and channels lie inside the image, broadcastable to input_sums.
        numbers: a (out,) or None for 1, b (out,) or None for 0, (c, d) scalars or None for (1, 0).
    """
    a, b, levels = numbers
    shape = products.shape

    def level(signs, constant):
        signs = jnp.broadcast_to(signs, shape)
        if levels is None:
            return signs
        c, d = (jnp.broadcast_to(number.astype(products.dtype), shape) for number in levels)
        return rounded(rounded(c * signs) + rounded(d * jnp.broadcast_to(constant, shape)))

    y = scaled(level(products, weight_sums), a)
    if b is None:
        return y
    return rounded(rounded(y) + scaled(level(input_sums, counts), b))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine_product(
    product: Convolution | Dense,
    x: jax.Array,
    weight: jax.Array,
    x_signs: jax.Array,
    weight_signs: jax.Array,
    numbers: tuple[jax.Array | None, jax.Array | None, tuple[jax.Array, jax.Array] | None],
) -> jax.Array:
    """product(x, weight) for x = c x_signs + d and weight = a weight_signs + b, from exact sums of signs.

    Forward: `affine_sum`. Gradient: that of product(x, weight) to x and weight; none to the others, whose parts are in the
    gradients of x and weight. numbers: as in `affine_sum`. Source: the expansion of AdaBin's product (arXiv:2208.08084).
    """
    ones_in, ones = jnp.ones((1, *x_signs.shape[1:]), x_signs.dtype), jnp.ones_like(weight_signs[..., :1])
    return affine_sum(
        product(x_signs, weight_signs),
        product(ones_in, weight_signs),
        product(x_signs, ones),
        product(ones_in, ones),
        numbers,
    )


def _affine_product_fwd(product, x, weight, x_signs, weight_signs, numbers):
    _, vjp = jax.vjp(product, x, weight)
    return affine_product(product, x, weight, x_signs, weight_signs, numbers), (vjp, x_signs, weight_signs, numbers)


def _affine_product_bwd(product, residuals, g):
    vjp, *others = residuals
    return *vjp(g), *jax.tree.map(jnp.zeros_like, others)


affine_product.defvjp(_affine_product_fwd, _affine_product_bwd)
