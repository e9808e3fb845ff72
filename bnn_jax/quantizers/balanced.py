"""Weights that are balanced and standardized before their sign is taken: IR-Net's, and what ReCU shares with them.

w has the shape (..., out). Each filter is treated by itself; n is the number of its weights. Forward sums have a fixed
order, so that a sign is the same in every compilation, in training and in packed arithmetic.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bnn_jax.ops.deterministic import ordered_mean, rounded, wide
from bnn_jax.quantizers.signs import sign
from bnn_jax.quantizers.straight_through import floating, over_filters, with_gradient


def balanced(w: Float[ArrayLike, '*window out']) -> Float[Array, '*window out']:
    """W minus its mean over the filter, so that about half of a filter's signs are +1.

    Gradient: g minus its mean over the filter, as JAX derives it from the formula.

    Args:
        w: kernel with the filters last.

    Returns:
        Filters of mean 0, of the shape and dtype of w.

    Raises:
        TypeError: w is not floating.
        ValueError: w has fewer than two axes.

    Source: IR-Net (arXiv:1909.10788).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.balanced(jnp.array([[1.0], [2.0], [6.0]]))[:, 0]
        Array([-2., -1.,  3.], dtype=float32)
    """
    w = floating(w, 'balanced')
    if w.ndim < 2:
        raise ValueError(f'balanced: got shape {w.shape}, expected rank >= 2 with the output filter as last axis')
    mean = ordered_mean(w.astype(wide(w.dtype)).reshape(-1, w.shape[-1]))
    return w - over_filters(mean.astype(w.dtype), w)


def _square(x: jax.Array) -> jax.Array:
    return rounded(x * x)


def mean_magnitude_and_deviation(centered: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """For balanced weights c, the mean of |c| and sqrt(sum of c^2 / (n - 1) + eps) of every filter, each of shape (out,)."""
    rows = centered.astype(wide(centered.dtype)).reshape(-1, centered.shape[-1])
    n = rows.shape[0]
    # The factor n / (n - 1) turns the mean of squares into PyTorch's variance. If a filter has a single weight, its balanced
    # weight is 0, so the variance is 0 with any factor; `max` avoids a division by 0.
    variance = rounded(ordered_mean(rows, term=_square) * np.asarray(n / max(n - 1, 1), rows.dtype))
    deviation = rounded(jnp.sqrt(variance + np.asarray(eps, rows.dtype)))
    return ordered_mean(rows, term=jnp.abs), deviation


def through_standardization(centered: jax.Array, deviation: jax.Array, eps: float, g: jax.Array) -> jax.Array:
    """Compute the gradient with respect to W from g, the gradient with respect to u.

    It is h - mean(h), where h = (g - u sum(g u) / (n - 1)) / s. Here s is the standard deviation of
    `mean_magnitude_and_deviation` and u = (W - mean) / s; the sum and the means are over the filter.
    """
    dtype, n = wide(centered.dtype), centered.size // centered.shape[-1]
    g, inverse = g.astype(dtype), over_filters(_inverse(deviation), centered)
    u, axes = centered.astype(dtype) * inverse, tuple(range(centered.ndim - 1))
    along = jnp.sum(g * u, axis=axes, keepdims=True) * np.asarray(1 / max(n - 1, 1), dtype)
    h = (g - u * along) * inverse
    return (h - h.mean(axes, keepdims=True)).astype(centered.dtype)


def _inverse(deviation: jax.Array) -> jax.Array:
    """1 / deviation; 0 where the deviation is computed as 0. The quantized weights are then 0 and get no gradient."""
    nothing = deviation == 0
    return jnp.where(nothing, 0, rounded(1 / jnp.where(nothing, 1, deviation)))


def power_of_two_scale(w: Float[ArrayLike, '*window out']) -> Float[Array, ' out']:
    """IR-Net's scale of every filter: 2^round(log2(mean |u|)), u = (W - mean) / s, s the standard deviation.

    Gradient: 0; the source stops it.

    Args:
        w: kernel with the filters last.

    Returns:
        Exact powers of two, which hardware can apply as a shift; 0 for a filter whose deviation is computed as 0. The
        standard deviation divides the sum of squares by n - 1.

    Raises:
        TypeError: w is not floating.
        ValueError: w has fewer than two axes.

    Source: IR-Net's code, htqin/IR-Net (arXiv:1909.10788).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.power_of_two_scale(jnp.array([[-3.0, 0], [3, 0], [-3, 0], [3, 0], [-3, 0], [3, 9]]))
        Array([1. , 0.5], dtype=float32)
    """
    w = jax.lax.stop_gradient(floating(w, 'power_of_two_scale'))
    magnitude, deviation = mean_magnitude_and_deviation(balanced(w), 0.0)
    mean = rounded(magnitude * _inverse(deviation))
    # mean = fraction 2^exponent, fraction from 1/2 to below 1: the nearest power is found without a logarithm, whose last
    # bit is not the same in every compilation.
    fraction, exponent = jnp.frexp(mean)
    exponent = exponent - (fraction < math.sqrt(0.5)).astype(exponent.dtype)
    return jnp.where(mean == 0, 0, jnp.ldexp(jnp.ones_like(mean), exponent)).astype(w.dtype)


def _sharp(x: jax.Array, t: jax.Array) -> jax.Array:
    """k t (1 - tanh(t x)^2), k = max(1 / t, 1), in float32 or wider."""
    dtype = wide(x.dtype)
    t = jnp.broadcast_to(jnp.asarray(t).astype(dtype), x.shape)
    # 1 - tanh(u)^2 = 4 e^(-2|u|) / (1 + e^(-2|u|))^2, without the difference of nearly equal numbers.
    decay = jnp.exp(-2 * t * jnp.abs(x.astype(dtype)))
    return jnp.maximum(t, 1) * 4 * decay / (1 + decay) ** 2


@with_gradient(lambda x, t, g: (_sharp(x, t) * g.astype(wide(x.dtype))).astype(x.dtype))
def sign_ede(x: Float[ArrayLike, '*shape'], t: Float[ArrayLike, '']) -> Float[Array, '*shape']:
    """Sign with IR-Net's error decay estimator, whose gradient sharpens as t grows.

    Forward: sign(x).
    Gradient: g k t (1 - tanh(t x)^2), k = max(1 / t, 1): near the identity for small t, near the sign's own derivative for
    large t. t gets no gradient.

    Args:
        x: any shape.
        t: a positive number. In IR-Net's paper it goes from 0.1 to 10, as in `schemes.Geometric(0.1, 10.0)`.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: IR-Net's code, htqin/IR-Net (arXiv:1909.10788).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> [round(float(jax.grad(bnn.quantizers.sign_ede)(0.5, t)), 3) for t in (0.1, 1.0, 10.0)]
        [0.998, 0.786, 0.002]
    """
    return sign(x)


@partial(jax.jit, inline=True)  # Traced once for layers of the same shape.
def _through_balanced_sign(w, t, g):
    centered = balanced(w)
    _, deviation = mean_magnitude_and_deviation(centered, 0.0)
    inverse = over_filters(_inverse(deviation), w)
    u = centered.astype(inverse.dtype) * inverse
    scale = over_filters(power_of_two_scale(w), w).astype(inverse.dtype)
    return through_standardization(centered, deviation, 0.0, _sharp(u, t) * scale * g.astype(inverse.dtype))


@with_gradient(_through_balanced_sign)
def balanced_sign_ede(w: Float[ArrayLike, '*window out'], t: Float[ArrayLike, '']) -> Float[Array, '*window out']:
    """IR-Net's weights: the signs of balanced weights times a power of two.

    Forward: `power_of_two_scale`(W)_f sign(W - mean).
    Gradient: g a k t (1 - tanh(t u)^2), multiplied by the Jacobian of u with respect to W. t gets no gradient. Here
    u = (W - mean) / (the filter's standard deviation), a = `power_of_two_scale`(W)_f and k = max(1 / t, 1).
    Args, Raises: as `balanced` and `sign_ede`. Returns the shape and dtype of w.
    Source: IR-Net's code, htqin/IR-Net (arXiv:1909.10788).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.balanced_sign_ede(jnp.array([[1.0], [2.0], [6.0]]), 1.0)[:, 0]
        Array([-1., -1.,  1.], dtype=float32)
    """
    return over_filters(power_of_two_scale(w), w) * sign(balanced(w))
