"""Quantizers as the published codes have them where they differ from this library's conventions.

`_zero` in a name: its sign is 0 at 0 (Torch's and PyTorch's); `_minus`: it is -1 there (Darknet's). Both are parity modes:
a bit means sign(0) = +1, and `convert` refuses them. `_exclusive`: the straight-through gradient is 0 at |x| = 1. g is the
incoming gradient dC/dq, n the weights a filter, alpha the mean of |W| of a filter; layouts and dtypes as in `quantizers`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnn_jax.quantizers.scaled import alpha
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import inside, over_filters, with_gradient


def sign_zero(x) -> jax.Array:
    """+1 where x > 0, -1 where x < 0, 0 at 0 and -0.0, NaN where x is NaN.

    Gradient: 0. Raises TypeError for a non-floating dtype. Source: sign of Torch and PyTorch.
    """
    return jnp.where(jnp.asarray(x) == 0, jnp.zeros_like(x), sign(x))


def _within(x, g):
    return jnp.where(jnp.abs(x) < 1, g, 0).astype(x.dtype)


@with_gradient(_within)
def sign_ste_exclusive(x) -> jax.Array:
    """`quantizers.sign_ste`, but the gradient g * 1(|x| < 1) is 0 at the edges.

    Any shape. Raises TypeError for a non-floating dtype. Source: XNOR-Net's code in Lua and in PyTorch.
    """
    return sign(x)


@with_gradient(_within)
def sign_zero_ste_exclusive(x) -> jax.Array:
    """`sign_zero` with the gradient g * 1(|x| < 1), 0 at the edges.

    Any shape. Raises TypeError for a non-floating dtype. Source: the activations of XNOR-Net's code in Lua and PyTorch.
    """
    return sign_zero(x)


def sign_minus(x) -> jax.Array:
    """+1 where x > 0, -1 where x < 0 and at 0 and -0.0, NaN where x is NaN.

    Gradient: 0. Raises TypeError for a non-floating dtype. Source: Darknet, on CPU (a NaN is -1 there).
    """
    return jnp.where(jnp.asarray(x) == 0, -jnp.ones_like(x), sign(x))


@with_gradient(_within)
def sign_minus_ste_exclusive(x) -> jax.Array:
    """`sign_minus` with the gradient g * 1(|x| < 1), 0 at the edges.

    Any shape. Raises TypeError for a non-floating dtype. Source: the activations of XNOR layers in Darknet.
    """
    return sign_minus(x)


def unquantized(w) -> jax.Array:
    """w itself, a real weight. Gradient: g.

    As `weight` and `sign` of a scheme whose `training_weight` draws: evaluated on the real weights, which `convert` refuses.
    Source: BinaryConnect's code, which evaluates its stochastic runs so.
    """
    return jnp.asarray(w)


def _scaled(sign: Callable, w: jax.Array) -> jax.Array:
    return over_filters(alpha(w), w) * sign(w)


@with_gradient(lambda w, g: g)
def scaled_sign_identity(w) -> jax.Array:
    """alpha * sign(W) with the identity as its gradient.

    Forward: alpha(W)_f sign(W). Gradient: g, everywhere. w: (..., out). Raises as `quantizers.alpha`.
    Source: XNOR-Net's Algorithm 1, line 9; its Caffe code.
    """
    return _scaled(sign, w)


@with_gradient(lambda w, g: g)
def scaled_sign_minus_identity(w) -> jax.Array:
    """alpha * sign(W), sign(0) = -1, with the identity as its gradient.

    Forward: alpha(W)_f sign_minus(W). Gradient: g, everywhere. w: (..., out). Raises as `quantizers.alpha`.
    Source: XNOR layers in Darknet.
    """
    return _scaled(sign_minus, w)


def _exact_gradient(w, g):
    s, n = sign_zero(w), w.size // w.shape[-1]
    along = jnp.sum(g * s, axis=tuple(range(w.ndim - 1)), keepdims=True) * jnp.asarray(1 / n, g.dtype)
    return (inside(w, over_filters(alpha(w), w) * g) + s * along).astype(w.dtype)


@with_gradient(_exact_gradient)
def scaled_sign_zero_ste(w) -> jax.Array:
    """`quantizers.scaled_sign_ste` with sign(0) = 0: alpha * sign(W) with its exact gradient.

    Forward: alpha(W)_f s, s = sign_zero(W). Gradient: alpha_f g 1(|W| <= 1) + s/n * sum_j g_j s_j, the sum over filter f.
    w: (..., out). Raises as `quantizers.alpha`. Source: XNOR-Net's code in PyTorch, without its factors (`factors`);
    its mask never fires, for it meets weights clamped to [-1, 1], where the one here is 1 as well.
    """
    return _scaled(sign_zero, w)


def _lua_gradient(w, g):
    masked = jnp.where(jnp.abs(w) < 1, over_filters(alpha(w), w), 0)
    return (g * (masked + jnp.asarray(w.shape[-1] / w.size, w.dtype))).astype(w.dtype)


@with_gradient(_lua_gradient)
def scaled_sign_zero_lua(w) -> jax.Array:
    """alpha * sign(W), sign(0) = 0, with the element-wise gradient of XNOR-Net's Lua code.

    Forward: alpha(W)_f sign_zero(W). Gradient: g (alpha_f 1(|W| < 1) + 1/n). w: (..., out). Raises as `quantizers.alpha`.
    Source: XNOR-Net's code in Lua, without its factors (`factors`), and the mask element by element: the code writes it
    into an expanded view of alpha, where one weight at the edge may zero the alpha of its whole filter.
    """
    return _scaled(sign_zero, w)
