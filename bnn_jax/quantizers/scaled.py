"""Weights alpha * sign(W), each with its own gradient. w: (..., out), alpha of every filter the mean of |W|."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import apart_on_cpu, ordered_mean, wide
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, inside, over_filters, with_gradient


def alpha(w: Float[ArrayLike, '*window out']) -> Float[Array, ' out']:
    """The scale of every filter: alpha_f = mean of |W_f|, the least-squares solution of W ~ alpha sign(W).

    Gradient: sign(W) / n, n weights a filter, by JAX.

    Args:
        w: HWIO, (in, out), or any other shape with the filters last.

    Returns:
        The mean over all axes but the last. It is added up pairwise in a fixed order, in float32 for narrower dtypes, so that
        it is the same number in every compilation.

    Raises:
        TypeError: w is not floating.
        ValueError: w has fewer than two axes.

    Source: XNOR-Net eq. 6.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.alpha(jnp.array([[1.0, -4.0], [-3.0, 0.0]]))
        Array([2., 2.], dtype=float32)
    """
    w = floating(w, 'alpha')
    if w.ndim < 2:
        raise ValueError(f'alpha: got shape {w.shape}, expected rank >= 2 with the output filter as last axis')
    return ordered_mean(w.astype(wide(w.dtype)).reshape(-1, w.shape[-1]), term=jnp.abs).astype(w.dtype)


def scaled_sign_ste(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with its exact gradient: alpha is differentiated too.

    Forward: alpha(W)_f sign(W).
    Gradient, n weights a filter: alpha_f g 1(|W| <= 1) + sign(W)/n sum_j g_j sign(W_j), the sum over filter f.
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: derivative of XNOR-Net eq. 6 with the STE; as in the PyTorch implementation, without its extra factors.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.scaled_sign_ste(jnp.array([[1.0], [-3.0]]))[:, 0]
        Array([ 2., -2.], dtype=float32)
    """
    return _scaled_sign_ste(jnp.asarray(w))


@jax.custom_vjp
def _scaled_sign_ste(w):
    return _scaled_sign_ste_fwd(w)[0]


def _scaled_sign_ste_fwd(w):
    a = alpha(w)
    return over_filters(a, w) * sign(w), (w, a)


def _scaled_sign_ste_bwd(residuals, g):
    w, a = residuals
    rows = w.reshape(-1, w.shape[-1]), g.reshape(-1, w.shape[-1])
    # Apart from each other, the two make the signs anew; made for both they would be an array more to write and read.
    through = apart_on_cpu(partial(ordered_mean, term=_against_sign), *rows).astype(w.dtype)
    return (apart_on_cpu(_scaled_sign_gradient, w, g, a, through),)


def _against_sign(w, g):
    return (g * sign(w)).astype(wide(w.dtype))


def _scaled_sign_gradient(w, g, alpha, through_alpha):
    return inside(w, over_filters(alpha, w) * g) + sign(w) * over_filters(through_alpha, w)


_scaled_sign_ste.defvjp(_scaled_sign_ste_fwd, _scaled_sign_ste_bwd)


@with_gradient(inside)
def scaled_sign_plain_ste(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with the plain straight-through gradient, not multiplied by alpha.

    Forward: alpha(W)_f sign(W).
    Gradient: g 1(|W| <= 1). Behind a normalization g grows as 1 / alpha, so under SGD these latent weights move 1 / alpha
    times faster than those of `scaled_sign_ste_const_alpha`.
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: Bi-Real Net's published code (liuzechun/Bi-Real-net, birealnet.py).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda w: bnn.quantizers.scaled_sign_plain_ste(w).sum())(jnp.array([[0.5], [-3.0]]))[:, 0]
        Array([1., 0.], dtype=float32)
    """
    return over_filters(alpha(w), w) * sign(w)


@with_gradient(lambda w, g: inside(w, over_filters(alpha(w), w) * g))
def scaled_sign_ste_const_alpha(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W), alpha taken as a constant.

    Forward: alpha(W)_f sign(W).
    Gradient: alpha_f g 1(|W| <= 1).
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: autodiff of alpha sign(W) without the gradient through alpha; XNOR-Net's code in Theano, but for the mask.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda w: bnn.quantizers.scaled_sign_ste_const_alpha(w).sum())(jnp.array([[0.5], [-3.5]]))[:, 0]
        Array([2., 0.], dtype=float32)
    """
    return over_filters(alpha(w), w) * sign(w)


def _as_printed(w, g):
    n = w.size // w.shape[-1]
    return (g * (1 / n)).astype(w.dtype) + inside(w, over_filters(alpha(w), w) * g)


@with_gradient(_as_printed)
def scaled_sign_paper(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with the gradient as XNOR-Net prints it.

    Forward: alpha(W)_f sign(W).
    Gradient, n weights a filter: g (1/n + alpha_f 1(|W| <= 1)).
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: XNOR-Net section 3.1 (p. 6); its Algorithm 1 says plain g instead.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda w: bnn.quantizers.scaled_sign_paper(w).sum())(jnp.array([[0.5], [-3.5]]))[:, 0]
        Array([2.5, 0.5], dtype=float32)
    """
    return over_filters(alpha(w), w) * sign(w)
