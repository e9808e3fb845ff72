"""Signs of numbers, each with its own gradient. Any shape."""

from functools import partial

import jax
import jax.numpy as jnp

from bnn_jax.ops.deterministic import negative, wide
from bnn_jax.quantizers.straight_through import floating, inside, with_gradient


def sign(x) -> jax.Array:
    """+1 where x >= 0 (so also at 0 and -0.0), -1 where x < 0, NaN where x is NaN; subnormal numbers count as 0.

    Gradient: 0. For training use `sign_ste` or another quantizer below.
    Raises TypeError for a non-floating dtype. Source: XNOR-Net (arXiv:1603.05279) section 3.1, B = +1 if W >= 0.
    """
    return _sign(floating(x, 'sign'))


@jax.jit
def _sign(x):
    signs = jnp.where(negative(x), -1, 1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), jax.lax.stop_gradient(x), signs)


@with_gradient(inside)
def sign_ste(x) -> jax.Array:
    """Sign with the straight-through estimator.

    Forward: sign(x). Gradient: g * 1(|x| <= 1), inclusive. Any shape. Raises TypeError for a non-floating dtype.
    Source: BinaryNet (arXiv:1602.02830) eq. 4; XNOR-Net section 3.1 (whose printed r * 1(|r| <= 1) is a slip).
    """
    return sign(x)


@with_gradient(lambda x, g: inside(x, g * (2 - 2 * jnp.abs(x))))
def sign_approx(x) -> jax.Array:
    """Sign with the derivative of a piecewise quadratic (ApproxSign).

    Forward: sign(x). Gradient: g * (2 - 2|x|) where |x| <= 1, else 0 (so 2 g at 0 and 0 at the edges).
    Any shape. Raises TypeError for a non-floating dtype. Source: Bi-Real Net (arXiv:1808.00278) section 3.2.
    """
    return sign(x)


def sign_swish(x, beta: float = 5.0) -> jax.Array:
    """Sign with the derivative of the SignSwish function.

    Forward: sign(x). Gradient: g * beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)); it is beta at 0, and
    negative for large |x|. beta: a Python number. Any shape. Raises TypeError for a non-floating dtype.
    Source: BNN+ (arXiv:1812.11800) section 3.1.
    """
    return _sign_swish(jnp.asarray(x), beta)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sign_swish(x, beta):
    return sign(x)


def _sign_swish_bwd(beta, x, g):
    # With u = beta x / 2 the derivative is beta (1 - u tanh u) / cosh(u)^2; in float32 it is 0 beyond |u| = 40.
    u = jnp.clip(x.astype(wide(x.dtype)) * (beta / 2), -40, 40)
    slope = beta * (1 - u * jnp.tanh(u)) / jnp.cosh(u) ** 2
    return ((slope * g.astype(slope.dtype)).astype(x.dtype),)


_sign_swish.defvjp(lambda x, beta: (sign(x), x), _sign_swish_bwd)


@with_gradient(lambda x, key, g: inside(x, g))
def stochastic_sign_ste(x, key) -> jax.Array:
    """Sign drawn at random, with the straight-through estimator.

    Forward: +1 with probability p = clip((x + 1) / 2, 0, 1), else -1. Gradient: g * 1(|x| <= 1), inclusive; none for
    key. key: a jax.random key. Any shape. Raises TypeError for a non-floating dtype.
    Source: BinaryConnect (arXiv:1511.00363) eq. 2-3.
    """
    x = floating(x, 'stochastic_sign_ste')
    p = jnp.clip((x.astype(wide(x.dtype)) + 1) / 2, 0, 1)
    drawn = jnp.where(jax.random.uniform(key, x.shape, p.dtype) < p, 1, -1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), x, drawn)
