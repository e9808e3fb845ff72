"""alpha sign(W) with gradients other than its exact one."""

from jaxtyping import Array, ArrayLike, Float

from bnn_jax.quantizers.scaled import alpha
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import inside, over_filters, with_gradient


@with_gradient(inside)
def scaled_sign_plain_ste(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with the plain straight-through gradient, not multiplied by alpha.

    Forward: alpha(W)_f sign(W).
    Gradient: g 1(|W| <= 1), which is 1 / alpha times that of `scaled_sign_ste_const_alpha`. Under SGD the latent
    weights therefore move 1 / alpha times as fast.
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: Bi-Real Net's code, liuzechun/Bi-Real-net, birealnet.py (arXiv:1808.00278).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda w: bnn.quantizers.scaled_sign_plain_ste(w).sum())(jnp.array([[0.5], [-3.0]]))[:, 0]
        Array([1., 0.], dtype=float32)
    """
    return over_filters(alpha(w), w) * sign(w)


@with_gradient(lambda w, g: inside(w, over_filters(alpha(w), w) * g))
def scaled_sign_ste_const_alpha(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """alpha sign(W) with the gradient for a constant alpha.

    Forward: alpha(W)_f sign(W).
    Gradient: alpha_f g 1(|W| <= 1).
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: autodiff of alpha sign(W) without the gradient through alpha: Bi-Real Net's paper (arXiv:1808.00278), Larq's
    `magnitude_aware_sign`; XNOR-Net's code in Theano, except for the mask.

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
    """alpha sign(W) with the gradient that XNOR-Net's paper prints in section 3.1.

    Forward: alpha(W)_f sign(W).
    Gradient, n weights in a filter: g (1/n + alpha_f 1(|W| <= 1)).
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: XNOR-Net (arXiv:1603.05279) section 3.1 (p. 6); its Algorithm 1 says plain g instead.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.grad(lambda w: bnn.quantizers.scaled_sign_paper(w).sum())(jnp.array([[0.5], [-3.5]]))[:, 0]
        Array([2.5, 0.5], dtype=float32)
    """
    return over_filters(alpha(w), w) * sign(w)
