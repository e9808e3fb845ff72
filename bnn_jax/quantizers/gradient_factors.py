"""Gradient factors: they multiply the gradient of a quantizer of weights, and leave its values as they are.

The published implementations of XNOR-Net multiply the gradients of binarized weights by factors: n, 10^9, 1 - 1/C or
alpha. Here each factor is a function from quantizer to quantizer. For example, the PyTorch code for MNIST has
`times_n(less_one_channel(published.scaled_sign_zero_ste))`. Equal arguments give equal quantizers, so schemes made of them can
be compared.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bnn_jax.quantizers.scaled import alpha
from bnn_jax.quantizers.straight_through import over_filters

Quantizer = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class WithFactor:
    """A quantizer whose gradient is multiplied by factor(W).

    Forward: quantizer(W). Gradient: factor(W) times the quantizer's.
    """

    # W -> quantized W
    quantizer: Quantizer
    # W -> a number, or anything that broadcasts to W's shape with as many axes
    factor: Callable[[jax.Array], Any]

    def __call__(self, w: jax.Array) -> jax.Array:
        return self.quantizer(_multiplied(self.factor, jnp.asarray(w)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiplied(factor, w):
    return w


def _multiplied_bwd(factor, w, g):
    return (g * jnp.broadcast_to(jnp.asarray(factor(w), w.dtype), w.shape),)


_multiplied.defvjp(lambda factor, w: (w, w), _multiplied_bwd)


def times_n(quantizer: Quantizer) -> Quantizer:
    """The quantizer with its gradient times n, the number of weights of a filter.

    Args:
        quantizer: a quantizer of weights, (..., out).

    Returns:
        A quantizer of the same values.

    Source: XNOR-Net's code in Lua (SGD) and in PyTorch.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> quantizer = bnn.quantizers.gradient_factors.times_n(bnn.quantizers.published.scaled_sign_identity)
        >>> jax.grad(lambda w: quantizer(w).sum())(jnp.array([[0.5], [-3.5]])).ravel()
        Array([2., 2.], dtype=float32)
    """
    return WithFactor(quantizer, weights_of_a_filter)


def times_1e9(quantizer: Quantizer) -> Quantizer:
    """The quantizer with its gradient times 10^9.

    Adam's direction is unchanged; its epsilon and an L2 penalty become negligible.

    Args:
        quantizer: a quantizer of weights, (..., out).

    Returns:
        A quantizer of the same values.

    Source: XNOR-Net's code in PyTorch for ImageNet. The Lua code has the factor on all parameters.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> quantizer = bnn.quantizers.gradient_factors.times_1e9(bnn.quantizers.published.scaled_sign_identity)
        >>> jax.grad(lambda w: quantizer(w).sum())(jnp.array([[0.5], [-3.5]])).ravel()
        Array([1.e+09, 1.e+09], dtype=float32)
    """
    return WithFactor(quantizer, a_billion)


def less_one_channel(quantizer: Quantizer) -> Quantizer:
    """The quantizer with its gradient times 1 - 1/C, where C is the number of input channels (axis -2).

    The factor is the diagonal of the derivative of centering. If C is 1, the factor is 1. The sources have 0 there, which would
    stop training.

    Args:
        quantizer: a quantizer of weights, (..., out).

    Returns:
        A quantizer of the same values.

    Source: XNOR-Net's code in Lua and in PyTorch.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> quantizer = bnn.quantizers.gradient_factors.less_one_channel(bnn.quantizers.published.scaled_sign_identity)
        >>> jax.grad(lambda w: quantizer(w).sum())(jnp.array([[0.5], [-3.5]])).ravel()
        Array([0.5, 0.5], dtype=float32)
    """
    return WithFactor(quantizer, all_channels_but_one)


def times_alpha(quantizer: Quantizer) -> Quantizer:
    """The quantizer with its gradient times alpha of the filter.

    Args:
        quantizer: a quantizer of weights, (..., out).

    Returns:
        A quantizer of the same values.

    Source: XNOR-Net's code in Theano, as `times_alpha(published.scaled_sign_identity)`: alpha g, no mask.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> quantizer = bnn.quantizers.gradient_factors.times_alpha(bnn.quantizers.published.scaled_sign_identity)
        >>> jax.grad(lambda w: quantizer(w).sum())(jnp.array([[0.5], [-3.5]])).ravel()
        Array([2., 2.], dtype=float32)
    """
    return WithFactor(quantizer, alpha_of_a_filter)


def weights_of_a_filter(w: Float[Array, '*window out']) -> int:
    """n: how many weights a filter has."""
    return w.size // w.shape[-1]


def a_billion(w: Float[Array, '*window out']) -> float:
    """10^9."""
    return 1e9


def all_channels_but_one(w: Float[Array, '*window channels out']) -> float:
    """1 - 1/C, or 1 where C is 1."""
    return 1 if w.shape[-2] == 1 else 1 - 1 / w.shape[-2]


def alpha_of_a_filter(w: Float[Array, '*window out']) -> Float[Array, '*ones out']:
    """alpha, with as many axes as W."""
    return over_filters(alpha(w), w)
