"""Products that are affine in their bits, (a s + b)(c t + d), from exact sums of the signs s and t."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bnn_jax.nn.epilogue import scaled
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.deterministic import rounded

# (a, b, (c, d)) of a product (a s + b)(c t + d): a (out,) or None for 1, b (out,) or None for 0, (c, d) two scalars or an array
# (2,), or None for (1, 0).
Numbers = tuple[jax.Array | None, jax.Array | None, tuple[jax.Array, jax.Array] | jax.Array | None]


def affine_sums(
    multiply: Callable[[Any, Any], jax.Array], x: Any, ones: Any, weights: Any, one_filter: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The sums of signs that `affine_sum` takes.

    Args:
        multiply: (input, weights) -> the sum of their products, exactly; in floats or in bits.
        x: the input.
        ones: one image of the input's shape whose signs are all +1.
        weights: the weights.
        one_filter: one filter of the weights' shape whose signs are all +1.
    """
    return multiply(x, weights), multiply(ones, weights), multiply(x, one_filter), multiply(ones, one_filter)


@jax.jit
def affine_sum(
    products: jax.Array,
    weight_sums: jax.Array,
    input_sums: jax.Array,
    counts: jax.Array,
    numbers: Numbers,
) -> jax.Array:
    """sum (a s + b)(c t + d) from sums of the signs s and t alone, in one order for both arithmetics.

    Forward: a (c products + d weight_sums) + b (c input_sums + d counts).

    Args:
        products: sum of s t, (..., out).
        weight_sums: sum of s over the taps inside the image, broadcastable to products.
        input_sums: sum of t over the window, (..., 1).
        counts: how many taps and channels lie inside the image, broadcastable to input_sums.
        numbers: a, b and (c, d), see `Numbers`.
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
    operation: Convolution | Dense,
    x: jax.Array,
    weight: jax.Array,
    x_signs: jax.Array,
    weight_signs: jax.Array,
    numbers: Numbers,
) -> jax.Array:
    """operation(x, weight) for x = c x_signs + d and weight = a weight_signs + b, from exact sums of signs.

    Forward: `affine_sum`; without b, c and d it is a times the product of signs.
    Gradient: that of operation(x, weight) to x and weight; none to the others, whose parts are in the gradients of x and
    weight. numbers: as in `affine_sum`.
    Source: the expansion of AdaBin's product (arXiv:2208.08084).
    """
    scale, offset, levels = numbers
    if offset is None and levels is None:
        return scaled(operation(x_signs, weight_signs), scale)
    ones, one_filter = jnp.ones_like(x_signs[:1]), jnp.ones_like(weight_signs[..., :1])
    return affine_sum(*affine_sums(operation, x_signs, ones, weight_signs, one_filter), numbers)


def _affine_product_fwd(operation, x, weight, x_signs, weight_signs, numbers):
    _, vjp = jax.vjp(operation, x, weight)
    return affine_product(operation, x, weight, x_signs, weight_signs, numbers), (vjp, x_signs, weight_signs, numbers)


def _affine_product_bwd(operation, residuals, g):
    vjp, *others = residuals
    return *vjp(g), *jax.tree.map(jnp.zeros_like, others)


affine_product.defvjp(_affine_product_fwd, _affine_product_bwd)
