"""Gradient factors: a quantizer of weights whose gradient is multiplied, its values untouched.

The published codes of XNOR-Net multiply the gradients of binarised weights by n, by 10^9, by 1 - 1/C. Each is a function
from quantizer to quantizer: `times_n(less_one_channel(variants.scaled_sign_zero_ste))` is PyTorch's on MNIST. Equal
arguments give one and the same quantizer, so that schemes made of them stay comparable values.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from bnn_jax.quantizers.scaled import alpha

Quantizer = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class WithFactor:
    """A quantizer whose gradient is multiplied by factor(W); equal arguments make equal quantizers."""

    quantizer: Quantizer
    factor: Callable[[jax.Array], jax.Array | float]

    def __call__(self, w) -> jax.Array:
        return self.quantizer(_multiplied(self.factor, jnp.asarray(w)))


def with_factor(quantizer: Quantizer, factor: Callable[[jax.Array], jax.Array | float]) -> WithFactor:
    """quantizer, its gradient multiplied by factor(W).

    Forward: quantizer(W). Gradient: factor(W) times the quantizer's. factor: W -> a number, or anything that broadcasts
    to W's shape with as many axes.
    """
    return WithFactor(quantizer, factor)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiplied(factor, w):
    return w


def _multiplied_bwd(factor, w, g):
    return (g * jnp.broadcast_to(jnp.asarray(factor(w), w.dtype), w.shape),)


_multiplied.defvjp(lambda factor, w: (w, w), _multiplied_bwd)


def times_n(quantizer: Quantizer) -> Quantizer:
    """quantizer, its gradient times n, the weights a filter. Source: XNOR-Net's code in Lua (SGD) and in PyTorch."""
    return with_factor(quantizer, _n)


def times_1e9(quantizer: Quantizer) -> Quantizer:
    """quantizer, its gradient times 10^9: Adam's direction is unchanged; epsilon and L2 become negligible.

    Source: XNOR-Net's code in PyTorch for ImageNet; the Lua code has the factor on all parameters.
    """
    return with_factor(quantizer, _1e9)


def less_one_channel(quantizer: Quantizer) -> Quantizer:
    """quantizer, its gradient times 1 - 1/C, C the input channels (axis -2); times 1 where C is 1, for 0 would end training.

    It is the diagonal of the derivative of centring. Source: XNOR-Net's code in Lua and in PyTorch, which has the 0.
    """
    return with_factor(quantizer, _less_one_channel)


def times_alpha(quantizer: Quantizer) -> Quantizer:
    """quantizer, its gradient times alpha of the filter.

    Source: XNOR-Net's code in Theano, as `times_alpha(variants.scaled_sign_identity)`: alpha g, no mask.
    """
    return with_factor(quantizer, _alpha)


def _n(w):
    return w.size // w.shape[-1]


def _1e9(w):
    return 1e9


def _less_one_channel(w):
    return 1 if w.shape[-2] == 1 else 1 - 1 / w.shape[-2]


def _alpha(w):
    return alpha(w).reshape((1,) * (w.ndim - 1) + w.shape[-1:])
