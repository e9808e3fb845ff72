"""Batch normalization with the statistics of the batch, and its gradient in two sums."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """y = c gamma / sqrt(var + eps) + beta with c = x - mean, and the mean and biased variance of every channel.

    x: (..., C); gamma, beta: (C,). Returns y, of the widest dtype, and mean and var, (C,), over all axes but the last.
    Gradient of y, n values a channel, r = 1 / sqrt(var + eps): dbeta = sum g, dgamma = r sum g c and
    dx = gamma r (g - (sum g + c r^2 sum g c) / n): what JAX derives step by step reads x and g twice as often. mean and var
    are for running statistics and have no gradient. Only reverse mode is defined. Source: arXiv:1502.03167.
    """
    # x may be narrower than gamma and beta; the widest of them is the dtype of y, and of all that is computed.
    with jax.numpy_dtype_promotion('standard'):
        x, axes = _widest(x, gamma), tuple(range(x.ndim - 1))
        mean = x.mean(axes, keepdims=True)
        var = jnp.square(x - mean).mean(axes, keepdims=True)
        y = (x - mean) * (jax.lax.rsqrt(var + eps) * _row(gamma, x)) + _row(beta, x)
    return y, mean.reshape(-1), var.reshape(-1)


def _batch_norm_fwd(x, gamma, beta, eps):
    y, mean, var = batch_norm(x, gamma, beta, eps)  # pyright: ignore[reportGeneralTypeIssues]
    return (y, mean, var), (x, gamma, beta, mean, var)


def _batch_norm_bwd(eps, residuals, gradients):
    x, gamma, beta, mean, var = residuals
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
    """x in the dtype of both: sums of narrow numbers would be rounded to a narrow one."""
    return x.astype(jnp.result_type(x, gamma))


def _row(values, x):
    """(C,) with as many axes as x."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
