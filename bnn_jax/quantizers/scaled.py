"""Weights alpha * sign(W), each with its own gradient. w: (..., out), alpha of every filter the mean of |W|."""

from functools import partial

import jax
import jax.numpy as jnp

from bnn_jax.ops.deterministic import apart_on_cpu, ordered_mean, wide
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, inside, over_filters, with_gradient


def alpha(w) -> jax.Array:
    """The scale of every filter: alpha_f = mean of |W_f|, the least-squares solution of W ~ alpha sign(W).

    w: (..., out), HWIO or (in, out). Returns (out,): the mean over all axes but the last, summed pairwise in a fixed
    order (in float32 for narrower dtypes), so that it is the same number in every compilation.
    Gradient: sign(W)/n, by JAX. Raises TypeError for a non-floating dtype, ValueError for rank < 2.
    Source: XNOR-Net eq. 6.
    """
    w = floating(w, 'alpha')
    if w.ndim < 2:
        raise ValueError(f'alpha: got shape {w.shape}, expected rank >= 2 with the output filter as last axis')
    return ordered_mean(w.astype(wide(w.dtype)).reshape(-1, w.shape[-1]), term=jnp.abs).astype(w.dtype)


def scaled_sign_ste(w) -> jax.Array:
    """alpha * sign(W) with its exact gradient: alpha is differentiated too.

    Forward: alpha(W)_f sign(W). Gradient, n weights a filter: alpha_f g 1(|W| <= 1) + sign(W)/n * sum_j g_j sign(W_j),
    the sum over filter f. w: (..., out). Raises as `alpha`.
    Source: derivative of XNOR-Net eq. 6 with the STE; as in the PyTorch implementation, without its extra factors.
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
def scaled_sign_plain_ste(w) -> jax.Array:
    """alpha * sign(W) with the plain straight-through gradient, not multiplied by alpha.

    Forward: alpha(W)_f sign(W). Gradient: g 1(|W| <= 1). w: (..., out). Raises as `alpha`.
    Source: Bi-Real Net's published code (liuzechun/Bi-Real-net, birealnet.py). Behind a normalization g grows as 1/alpha, so
    under SGD these latent weights move 1/alpha times faster than those of `scaled_sign_ste_const_alpha`.
    """
    return over_filters(alpha(w), w) * sign(w)


@with_gradient(lambda w, g: inside(w, over_filters(alpha(w), w) * g))
def scaled_sign_ste_const_alpha(w) -> jax.Array:
    """alpha * sign(W), alpha taken as a constant.

    Forward: alpha(W)_f sign(W). Gradient: alpha_f g 1(|W| <= 1). w: (..., out). Raises as `alpha`.
    Source: autodiff of alpha * sign(W) without the gradient through alpha; XNOR-Net's code in Theano, but for the mask.
    """
    return over_filters(alpha(w), w) * sign(w)


def _as_printed(w, g):
    n = w.size // w.shape[-1]
    return (g * (1 / n)).astype(w.dtype) + inside(w, over_filters(alpha(w), w) * g)


@with_gradient(_as_printed)
def scaled_sign_paper(w) -> jax.Array:
    """alpha * sign(W) with the gradient as XNOR-Net prints it.

    Forward: alpha(W)_f sign(W). Gradient, n weights a filter: g (1/n + alpha_f 1(|W| <= 1)). w: (..., out).
    Raises as `alpha`. Source: XNOR-Net section 3.1 (p. 6); its Algorithm 1 says plain g instead.
    """
    return over_filters(alpha(w), w) * sign(w)
