"""Products of numbers with two levels each, (a s + b)(d t + c), from exact sums of the signs s and t."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.nn.epilogue import scaled
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.deterministic import rounded

# The numbers of a product (a s + b)(d t + c), as (a, b, (d, c)). a: (out,) or None for 1. b: (out,) or None for 0.
# (d, c): two scalars, an array (2,), or None for (1, 0).
Numbers = tuple[jax.Array | None, jax.Array | None, tuple[jax.Array, jax.Array] | jax.Array | None]


def affine_sums(
    multiply: Callable[[Any, Any], jax.Array], x: Any, ones: Any, weights: Any, one_filter: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The sums of signs that `affine_sum` takes.

    Args:
        multiply: (input, weights) -> the exact sum of their products, in floats or in bits.
        x: the signs of the input.
        ones: one image like x, with all signs +1.
        weights: the signs of the weights.
        one_filter: one filter like the weights, with all signs +1.

    Returns:
        The products, the sums of the weights, the sums of the input, and the counts.
    """
    return multiply(x, weights), multiply(ones, weights), multiply(x, one_filter), multiply(ones, one_filter)


@jax.jit
def affine_sum(
    products: Float[Array, '*batch out'],
    weight_sums: Float[Array, '*weight_batch out'],
    input_sums: Float[Array, '*batch 1'],
    counts: Float[Array, '*counts 1'],
    numbers: Numbers,
) -> Float[Array, '*batch out']:
    """The sum of (a s + b)(d t + c), where s are signs of weights and t signs of inputs, for training and packed arithmetic.

    Forward: a (d products + c weight_sums) + b (d input_sums + c counts).
    Gradient: that of the formula.

    Args:
        products: the sum of s t.
        weight_sums: the sum of s over the taps inside the image, broadcastable to products.
        input_sums: the sum of t over the window.
        counts: the number of taps inside the image, times the channels, broadcastable to input_sums.
        numbers: (a, b, (d, c)), the numbers of weights and input. a is (out,), or None for 1. b is (out,), or None for 0.
            (d, c) are two scalars or an array (2,), or None for (1, 0).

    Returns:
        The sums, of the shape of products.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> a, b, d, c = (jnp.array([2.0]), jnp.array([1.0]), jnp.float32(3), jnp.float32(4))
        >>> zero, two = jnp.array([[0.0]]), jnp.array([[2.0]])
        >>> bnn.nn.affine_sum(zero, zero, two, two, (a, b, (d, c)))  # s = (1, -1), t = (1, 1).
        Array([[14.]], dtype=float32)
    """
    a, b, levels = numbers
    shape = products.shape

    def level(signs, constant):
        signs = jnp.broadcast_to(signs, shape)
        if levels is None:
            return signs
        # Each step is rounded, so that no compiler contracts two steps, and training and packed arithmetic give the same bits.
        d, c = (jnp.broadcast_to(number.astype(products.dtype), shape) for number in levels)
        return rounded(rounded(d * signs) + rounded(c * jnp.broadcast_to(constant, shape)))

    y = scaled(level(products, weight_sums), a)
    if b is None:
        return y
    return rounded(rounded(y) + scaled(level(input_sums, counts), b))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine_product(
    operation: Convolution | Dense,
    x: Float[Array, '*input'],
    weight: Float[Array, '*kernel out'],
    x_signs: Float[Array, '*input'],
    weight_signs: Float[Array, '*kernel out'],
    numbers: Numbers,
) -> Float[Array, '*batch out']:
    """operation(x, weight) for x = d x_signs + c and weight = a weight_signs + b, from exact sums of signs.

    Forward: `affine_sum`. If b and (d, c) are None, the result is the product of signs, times a.
    Gradient: with respect to x and weight, that of operation(x, weight). The other arguments get 0, because their parts are
    in the gradients of x and weight.

    Args:
        operation: `Dense` or `Convolution`. If b or (d, c) is given, a convolution must have pad_value 0 and one group.
        x: the quantized input.
        weight: the quantized weights.
        x_signs: the signs of the input.
        weight_signs: the signs of the weights.
        numbers: (a, b, (d, c)), as in `affine_sum`.

    Returns:
        The product, float32 or wider.

    Source: the expansion of AdaBin's product (arXiv:2208.08084).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> signs, weight_signs = jnp.array([[1.0, 1.0]]), jnp.array([[1.0], [-1.0]])
        >>> numbers = jnp.array([2.0]), None, None
        >>> bnn.nn.affine_product(bnn.nn.Dense(), signs, 2 * weight_signs, signs, weight_signs, numbers)
        Array([[0.]], dtype=float32)
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
