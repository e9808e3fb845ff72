"""alpha, the scale of every filter, and alpha sign(W) with its exact gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import apart_on_cpu, ordered_mean, wide
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, inside, over_filters


def alpha(w: Float[ArrayLike, '*window out']) -> Float[Array, ' out']:
    """The scale of every filter: alpha_f = mean of |W_f|, the least-squares solution of W ~ alpha sign(W).

    Gradient, n weights in a filter: sign(W) / n, as JAX derives it from the formula.

    Args:
        w: HWIO, (in, out), or any other shape with the filters last.

    Returns:
        The mean over all axes but the last, in the dtype of w. It is the same number in every compilation, because its
        sum is pairwise, in a fixed order, and in float32 for narrower dtypes.

    Raises:
        TypeError: w is not floating.
        ValueError: w has fewer than two axes.

    Source: XNOR-Net (arXiv:1603.05279) eq. 6.

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
    Gradient, n weights in a filter: alpha_f g 1(|W| <= 1) + sign(W)/n sum_j g_j sign(W_j), the sum over filter f.
    Args, Returns, Raises: as `alpha`, but the result has the shape of w.
    Source: derivative of XNOR-Net (arXiv:1603.05279) eq. 6 with the STE; as in the PyTorch code, without its extra factors.

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
    # Each part computes the signs itself. Sharing them would mean one more array to write and read.
    through = apart_on_cpu(partial(ordered_mean, term=_against_sign), *rows).astype(w.dtype)
    return (apart_on_cpu(_scaled_sign_gradient, w, g, a, through),)


def _against_sign(w, g):
    return (g * sign(w)).astype(wide(w.dtype))


def _scaled_sign_gradient(w, g, alpha, through_alpha):
    return inside(w, over_filters(alpha, w) * g) + sign(w) * over_filters(through_alpha, w)


_scaled_sign_ste.defvjp(_scaled_sign_ste_fwd, _scaled_sign_ste_bwd)
