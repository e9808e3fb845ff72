"""Batch normalization with the statistics of the batch, with a gradient that needs two sums."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Float[Array, '*batch channels'], gamma: Float[Array, ' channels'], beta: Float[Array, ' channels'], eps: float
) -> tuple[Float[Array, '*batch channels'], Float[Array, ' channels'], Float[Array, ' channels']]:
    """Batch normalization over all axes but the last.

    Forward: y = c gamma / sqrt(var + eps) + beta, where c = x - mean.
    Gradient of y, with n values in a channel and r = 1 / sqrt(var + eps): dbeta = sum g, dgamma = r sum g c,
    dx = gamma r (g - (sum g + c r^2 sum g c) / n). mean and var have no gradient. Only reverse mode is defined.

    Args:
        x: channels last.
        gamma: the factor of each channel.
        beta: what is added to each channel.
        eps: what is added to the variance.

    Returns:
        y, in the widest dtype of x, gamma and beta; the mean and the biased variance of each channel, for running
        statistics.

    Source: arXiv:1502.03167.
    """
    # x may be narrower than gamma and beta. Intermediate results have the wider dtype of x and gamma.
    with jax.numpy_dtype_promotion('standard'):
        x, axes = _widest(x, gamma), tuple(range(x.ndim - 1))
        mean = x.mean(axes, keepdims=True)
        var = jnp.square(x - mean).mean(axes, keepdims=True)
        y = (x - mean) * (jax.lax.rsqrt(var + eps) * _row(gamma, x)) + _row(beta, x)
    return y, mean.reshape(-1), var.reshape(-1)


def _batch_norm_fwd(x, gamma, beta, eps):
    y, mean, var = batch_norm(x, gamma, beta, eps)  # pyright: ignore[reportGeneralTypeIssues]
    return (y, mean, var), (x, gamma, beta, mean, var)


@partial(jax.jit, static_argnums=0, inline=True)  # Traced once for layers of the same shape.
def _batch_norm_bwd(eps, residuals, gradients):
    x, gamma, beta, mean, var = residuals
    # Two sums over g. The gradient that JAX derives step by step reads x and g twice as often.
    g, axes, n, dtype = gradients[0], tuple(range(x.ndim - 1)), x.size // x.shape[-1], x.dtype
    with jax.numpy_dtype_promotion('standard'):
        x, g = _widest(x, gamma), _widest(g, gamma)
        r, centered = jax.lax.rsqrt(var + eps), x - _row(mean, x)
        sum_g, sum_gc = g.sum(axes), (g * centered).sum(axes)
        factor, slope, shift = gamma * r, r * r * sum_gc / n, sum_g / n
        dx = _row(factor, x) * (g - _row(shift, x) - centered * _row(slope, x))
        dgamma = r * sum_gc
    return dx.astype(dtype), dgamma.astype(gamma.dtype), sum_g.astype(beta.dtype)


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


def _widest(x, gamma):
    """x in the wider of its dtype and gamma's, because a sum in a narrow dtype would be rounded."""
    return x.astype(jnp.result_type(x, gamma))


def _row(values, x):
    """values (C,), reshaped to as many axes as x."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
