"""Quantizers of published implementations that differ from this library's conventions.

`_zero` in a name: the sign of 0 is 0, as in Torch and PyTorch. `_minus`: it is -1, as in Darknet. Bits need sign(0) = +1,
so `convert` refuses both. `_exclusive`: the straight-through gradient is 0 at |x| = 1. g is the incoming gradient, n the
number of weights of a filter, alpha the mean of |W| of a filter.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.quantizers.scaled import alpha
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import inside, over_filters, with_gradient


def sign_zero(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """Sign with sign(0) = 0.

    Forward: +1 where x > 0, -1 where x < 0, 0 at 0 and -0.0. NaN stays NaN.
    Gradient: 0.

    Args:
        x: any shape.

    Returns:
        The shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: sign of Torch and PyTorch.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.sign_zero(jnp.array([-2.0, 0.0, 3.0]))
        Array([-1.,  0.,  1.], dtype=float32)
    """
    return jnp.where(jnp.asarray(x) == 0, jnp.zeros_like(x), sign(x))


def _within(x, g):
    return jnp.where(jnp.abs(x) < 1, g, 0).astype(x.dtype)


@with_gradient(_within)
def sign_ste_exclusive(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """`quantizers.sign_ste` without gradient at the edges.

    Forward: sign(x).
    Gradient: g 1(|x| < 1).

    Args:
        x: any shape.

    Returns:
        The shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: the gradient of XNOR-Net's code in Lua and in PyTorch, where sign(0) is 0 (`sign_zero_ste_exclusive`).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.vmap(jax.grad(bnn.quantizers.published.sign_ste_exclusive))(jnp.array([-1.0, 0.0, 0.5]))
        Array([0., 1., 1.], dtype=float32)
    """
    return sign(x)


@with_gradient(_within)
def sign_zero_ste_exclusive(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """`sign_zero` with the straight-through estimator, without gradient at the edges.

    Forward: sign_zero(x).
    Gradient: g 1(|x| < 1).

    Args:
        x: any shape.

    Returns:
        The shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: the activations of XNOR-Net's code in Lua and PyTorch.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.vmap(jax.grad(bnn.quantizers.published.sign_zero_ste_exclusive))(jnp.array([-1.0, 0.0, 0.5]))
        Array([0., 1., 1.], dtype=float32)
    """
    return sign_zero(x)


def sign_minus(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """Sign with sign(0) = -1.

    Forward: +1 where x > 0, -1 where x < 0 and at 0 and -0.0. NaN stays NaN.
    Gradient: 0.

    Args:
        x: any shape.

    Returns:
        The shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: Darknet, on CPU (where NaN gives -1).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.sign_minus(jnp.array([-2.0, 0.0, 3.0]))
        Array([-1., -1.,  1.], dtype=float32)
    """
    return jnp.where(jnp.asarray(x) == 0, -jnp.ones_like(x), sign(x))


@with_gradient(_within)
def sign_minus_ste_exclusive(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """`sign_minus` with the straight-through estimator, without gradient at the edges.

    Forward: sign_minus(x).
    Gradient: g 1(|x| < 1).

    Args:
        x: any shape.

    Returns:
        The shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: the activations of XNOR layers in Darknet.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.vmap(jax.grad(bnn.quantizers.published.sign_minus_ste_exclusive))(jnp.array([-1.0, 0.0, 0.5]))
        Array([0., 1., 1.], dtype=float32)
    """
    return sign_minus(x)


def unquantized(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """w itself: a real weight.

    If the `training_weight` of a scheme draws signs, its `weight` and `sign` may be this function. Evaluation then uses
    the real weights, and `convert` refuses the network.
    Gradient: g.
    Source: BinaryConnect's code, which evaluates its stochastic runs this way.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.unquantized(jnp.array([[0.5]]))
        Array([[0.5]], dtype=float32)
    """
    return jnp.asarray(w)


def _scaled(sign: Callable, w: ArrayLike) -> jax.Array:
    return over_filters(alpha(w), w) * sign(w)


@with_gradient(lambda w, g: g)
def scaled_sign_identity(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with the identity as gradient.

    Forward: alpha(W)_f sign(W).
    Gradient: g, everywhere.
    Args, Returns, Raises: as `quantizers.alpha`, but the result has the shape of w.
    Source: XNOR-Net's Algorithm 1, line 9; its Caffe code.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.scaled_sign_identity(jnp.array([[0.0], [-3.0], [3.0]]))[:, 0]
        Array([ 2., -2.,  2.], dtype=float32)
    """
    return _scaled(sign, w)


@with_gradient(lambda w, g: g)
def scaled_sign_minus_identity(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W), sign(0) = -1, with the identity as gradient.

    Forward: alpha(W)_f sign_minus(W).
    Gradient: g, everywhere.
    Args, Returns, Raises: as `quantizers.alpha`, but the result has the shape of w.
    Source: XNOR layers in Darknet.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.scaled_sign_minus_identity(jnp.array([[0.0], [-3.0], [3.0]]))[:, 0]
        Array([-2., -2.,  2.], dtype=float32)
    """
    return _scaled(sign_minus, w)


def _exact_gradient(w, g):
    s, n = sign_zero(w), w.size // w.shape[-1]
    along = jnp.sum(g * s, axis=tuple(range(w.ndim - 1)), keepdims=True) * jnp.asarray(1 / n, g.dtype)
    return (inside(w, over_filters(alpha(w), w) * g) + s * along).astype(w.dtype)


@with_gradient(_exact_gradient)
def scaled_sign_zero_ste(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """`quantizers.scaled_sign_ste` with sign(0) = 0: alpha sign(W) with its exact gradient.

    Forward: alpha(W)_f s, s = sign_zero(W).
    Gradient: alpha_f g 1(|W| <= 1) + s/n sum_j g_j s_j, the sum over filter f.
    Args, Returns, Raises: as `quantizers.alpha`, but the result has the shape of w.
    Source: XNOR-Net's code in PyTorch, without its factors (`gradient_factors`). The code's mask has no effect,
    because its weights are clamped to [-1, 1]. For such weights the mask here is 1 too.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.scaled_sign_zero_ste(jnp.array([[0.0], [-3.0], [3.0]]))[:, 0]
        Array([ 0., -2.,  2.], dtype=float32)
    """
    return _scaled(sign_zero, w)


def _lua_gradient(w, g):
    masked = jnp.where(jnp.abs(w) < 1, over_filters(alpha(w), w), 0)
    return (g * (masked + jnp.asarray(w.shape[-1] / w.size, w.dtype))).astype(w.dtype)


@with_gradient(_lua_gradient)
def scaled_sign_zero_lua(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W), sign(0) = 0, with the element-wise gradient of XNOR-Net's Lua code.

    Forward: alpha(W)_f sign_zero(W).
    Gradient: g (alpha_f 1(|W| < 1) + 1/n).
    Args, Returns, Raises: as `quantizers.alpha`, but the result has the shape of w.
    Source: XNOR-Net's code in Lua, without its factors (`gradient_factors`). Here the mask applies to single weights. The code
    writes the mask into an expanded view of alpha, where one weight at the edge may zero the alpha of its whole filter.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.published.scaled_sign_zero_lua(jnp.array([[0.0], [-3.0], [3.0]]))[:, 0]
        Array([ 0., -2.,  2.], dtype=float32)
    """
    return _scaled(sign_zero, w)
