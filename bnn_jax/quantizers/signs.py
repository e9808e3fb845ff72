"""Functions that give the signs of arrays of any shape. Each function has its own gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from bnn_jax.ops.deterministic import negative, wide
from bnn_jax.quantizers.straight_through import floating, inside, with_gradient


def sign(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """Sign with sign(0) = +1 and no gradient; for training use `sign_ste` or another quantizer below.

    Forward: +1 where x >= 0 (so also at 0 and -0.0), -1 where x < 0. NaN stays NaN. Numbers that are subnormal
    in float32 (in float64, for float64 inputs) count as 0.
    Gradient: 0.

    Args:
        x: any shape.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: XNOR-Net (arXiv:1603.05279) section 3.1, B = +1 if W >= 0.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.quantizers.sign(jnp.array([-2.0, -0.0, 0.0, 3.0]))
        Array([-1.,  1.,  1.,  1.], dtype=float32)
    """
    return _sign(floating(x, 'sign'))


@jax.jit
def _sign(x):
    signs = jnp.where(negative(x), -1, 1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), jax.lax.stop_gradient(x), signs)


@with_gradient(inside)
def sign_ste(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """Sign with the straight-through estimator (STE).

    Forward: sign(x).
    Gradient: g 1(|x| <= 1), the edges included.

    Args:
        x: any shape.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: BinaryNet (arXiv:1602.02830) eq. 4; XNOR-Net section 3.1 (which prints r 1(|r| <= 1), a slip).

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.vmap(jax.grad(bnn.quantizers.sign_ste))(jnp.array([-2.0, 0.5, 1.0]))
        Array([0., 1., 1.], dtype=float32)
    """
    return sign(x)


@with_gradient(lambda x, g: inside(x, g * (2 - 2 * jnp.abs(x))))
def sign_approx(x: Float[ArrayLike, '*shape']) -> Float[Array, '*shape']:
    """Sign with the derivative of a piecewise quadratic (ApproxSign).

    Forward: sign(x).
    Gradient: g (2 - 2|x|) where |x| <= 1, else 0.

    Args:
        x: any shape.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: Bi-Real Net (arXiv:1808.00278) section 3.2.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> jax.vmap(jax.grad(bnn.quantizers.sign_approx))(jnp.array([-2.0, 0.0, 0.5]))
        Array([0., 2., 1.], dtype=float32)
    """
    return sign(x)


def sign_swish(x: Float[ArrayLike, '*shape'], beta: float = 5.0) -> Float[Array, '*shape']:
    """Sign with the derivative of the SignSwish function.

    Forward: sign(x).
    Gradient: g beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x)). It is beta g at 0. Where |x| is large, it has
    the opposite sign of g.

    Args:
        x: any shape.
        beta: how steep SignSwish is at 0.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: BNN+ (arXiv:1812.11800) section 3.1.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> jax.grad(bnn.quantizers.sign_swish)(0.0)
        Array(5., dtype=float32)
    """
    return _sign_swish(jnp.asarray(x), beta)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sign_swish(x, beta):
    return sign(x)


def _sign_swish_bwd(beta, x, g):
    # With u = beta x / 2 the derivative is beta (1 - u tanh u) / cosh(u)^2. Its magnitude is
    # below beta 1e-32 beyond |u| = 40, where u is clipped, before cosh(u)^2 overflows.
    u = jnp.clip(x.astype(wide(x.dtype)) * (beta / 2), -40, 40)
    slope = beta * (1 - u * jnp.tanh(u)) / jnp.cosh(u) ** 2
    return ((slope * g.astype(slope.dtype)).astype(x.dtype),)


_sign_swish.defvjp(lambda x, beta: (sign(x), x), _sign_swish_bwd)


@with_gradient(lambda x, key, g: inside(x, g))
def stochastic_sign_ste(x: Float[ArrayLike, '*shape'], key: Key[Array, '']) -> Float[Array, '*shape']:
    """Sign drawn at random, with the straight-through estimator.

    Forward: +1 with probability p = clip((x + 1) / 2, 0, 1), else -1.
    Gradient: g 1(|x| <= 1), the edges included; none for the key.

    Args:
        x: any shape.
        key: a `jax.random.key`.

    Returns:
        +1 and -1, of the shape and dtype of x.

    Raises:
        TypeError: x is not floating.

    Source: BinaryConnect (arXiv:1511.00363) eq. 2-3.

    Example:
        >>> import jax, jax.numpy as jnp, bnn_jax as bnn
        >>> drawn = bnn.quantizers.stochastic_sign_ste(jnp.full(1000, 0.5), jax.random.key(0))
        >>> bool(abs(drawn.mean() - 0.5) < 0.1)
        True
    """
    x = floating(x, 'stochastic_sign_ste')
    p = jnp.clip((x.astype(wide(x.dtype)) + 1) / 2, 0, 1)
    drawn = jnp.where(jax.random.uniform(key, x.shape, p.dtype) < p, 1, -1).astype(x.dtype)
    return jnp.where(jnp.isnan(x), x, drawn)
