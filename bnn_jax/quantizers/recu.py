"""ReCU's quantizers (arXiv:2103.12369, z-hXu/ReCU).

Weights are clamped at quantiles. Activations are divided by the standard deviation of their image.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import ordered_mean, rounded, wide
from bnn_jax.quantizers.balanced import balanced, mean_magnitude_and_deviation, through_standardization
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, over_filters, with_gradient

EPS = 1e-5
# The standard deviation of u, the standardized weights. If u had a Laplace distribution, the mean of |u| would be 2.
SPREAD = 2 * np.sqrt(2)


def _standardized(w: jax.Array, tau: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """W - mean; its standard deviation s; u = 2 sqrt(2) (W - mean) / s; the largest |u| let through, one per layer."""
    centered = balanced(w)
    magnitude, deviation = mean_magnitude_and_deviation(centered, EPS)
    factor = rounded(np.asarray(SPREAD, deviation.dtype) * rounded(1 / deviation))
    u = rounded(centered.astype(factor.dtype) * over_filters(factor, w))
    mean = ordered_mean(rounded(magnitude * factor))
    largest = -mean * jnp.log(2 - 2 * jnp.asarray(tau).astype(mean.dtype))
    return centered, deviation, u, largest


def recu_scale(w: Float[ArrayLike, '*window out'], tau: Float[ArrayLike, '']) -> Float[Array, ' out']:
    """ReCU's scale of every filter: the mean of |clamp(u, -Q, Q)|, its least-squares scale.

    u = 2 sqrt(2) (W - mean) / sqrt(variance + 1e-5), with the mean and the variance (divided by n - 1) of the filter.
    Q = -m log(2 - 2 tau), where m is the mean of |u| over the layer. Q is the quantile tau of the Laplace distribution
    whose mean magnitude is m.
    Gradient: 0.

    Args:
        w: kernel with the filters last.
        tau: from 0.5 to below 1.

    Returns:
        One number for every filter.

    Raises:
        TypeError: w is not floating.
        ValueError: w has fewer than two axes.

    Source: ReCU (arXiv:2103.12369).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> [round(float(scale), 2) for scale in bnn.quantizers.recu_scale(jnp.array([[1.0], [2.0], [6.0]]), 0.9)]
        [2.14]
    """
    w = jax.lax.stop_gradient(floating(w, 'recu_scale'))
    _, _, u, largest = _standardized(w, tau)
    clamped = jnp.clip(u, -largest, largest)
    return ordered_mean(clamped.reshape(-1, w.shape[-1]), term=jnp.abs).astype(w.dtype)


@partial(jax.jit, inline=True)  # Traced once for layers of the same shape.
def _revived(w, tau, g):
    centered, deviation, u, largest = _standardized(w, tau)
    inside = jnp.where(jnp.abs(u) <= largest, g.astype(u.dtype) * np.asarray(SPREAD, u.dtype), 0)
    return through_standardization(centered, deviation, EPS, inside)


@with_gradient(_revived)
def recu_sign(w: Float[ArrayLike, '*window out'], tau: Float[ArrayLike, '']) -> Float[Array, '*window out']:
    """ReCU's weights without a scale: the signs of balanced weights.

    Forward: sign(W - mean). Clamping changes no sign.
    Gradient: g 1(|u| <= Q), multiplied by the Jacobian of u with respect to W. tau gets no gradient. u and Q are
    those of `recu_scale`; the gradient treats Q as a constant.
    Args, Raises: as `recu_scale`. Returns the shape and dtype of w.
    Source: ReCU's code, z-hXu/ReCU (arXiv:2103.12369), which multiplies by a trained scale (`schemes.ReCUWeight`).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.recu_sign(jnp.array([[1.0], [2.0], [6.0]]), 0.9)[:, 0]
        Array([-1., -1.,  1.], dtype=float32)
    """
    return sign(balanced(w))


@with_gradient(lambda w, tau, g: _revived(w, tau, over_filters(recu_scale(w, tau), w) * g))
def recu_scaled_sign(w: Float[ArrayLike, '*window out'], tau: Float[ArrayLike, '']) -> Float[Array, '*window out']:
    """ReCU's weights: the signs of balanced weights times `recu_scale`.

    Forward: `recu_scale`(W, tau)_f sign(W - mean).
    Gradient: that of `recu_sign` with scale * g in place of g, for a constant scale.
    Args, Raises: as `recu_scale`. Returns the shape and dtype of w.
    Source: ReCU (arXiv:2103.12369).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> weights = bnn.quantizers.recu_scaled_sign(jnp.array([[1.0], [2.0], [6.0]]), 0.9)
        >>> [round(float(weight), 2) for weight in weights[:, 0]]
        [-2.14, -2.14, 2.14]
    """
    return over_filters(recu_scale(w, tau), w) * sign(balanced(w))


def _by_image(x, g):
    dtype, axes = wide(x.dtype), tuple(range(1, x.ndim))
    n = x.size // max(1, x.shape[0]) if x.ndim else 1
    x, g = x.astype(dtype), g.astype(dtype)
    centered = x - x.mean(axes, keepdims=True)
    inverse = jax.lax.rsqrt((centered**2).sum(axes, keepdims=True) * np.asarray(1 / max(n - 1, 1), dtype) + EPS)
    a = x * inverse
    g = g * jnp.maximum(2 - 2 * jnp.abs(a), 0)
    along = (g * a).sum(axes, keepdims=True) * np.asarray(1 / max(n - 1, 1), dtype)
    return (g - centered * inverse * along) * inverse


@with_gradient(lambda x, g: _by_image(x, g).astype(x.dtype))
def sign_approx_by_image(x: Float[ArrayLike, ' batch *shape']) -> Float[Array, ' batch *shape']:
    """`sign_approx` after each image is divided by its standard deviation.

    Forward: sign(x).
    Gradient: g max(2 - 2 |a|, 0), multiplied by the Jacobian of a = x / sqrt(variance + 1e-5) with respect to x. The
    variance (divided by n - 1) is that of all numbers of an image.

    Args:
        x: images along the first axis.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: ReCU's code, z-hXu/ReCU (arXiv:2103.12369), which divides in training only. The division
    sets the width of the gradient's window. It changes no sign.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.sign_approx_by_image(jnp.array([[-1.0, 0.0, 3.0]]))
        Array([[-1.,  1.,  1.]], dtype=float32)
    """
    return sign(x)
