"""Bop, the binary optimizer, which flips signs instead of updating latent weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

Schedule = float | optax.Schedule
"""A number, or an Optax schedule: a function of the number of updates so far."""


class BopState(NamedTuple):
    """The state of `bop`.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.bop().init({'kernel': jnp.ones(2)}).momentum
        {'kernel': Array([0., 0.], dtype=float32)}
    """

    # The number of updates so far. Optax's states use the same name. It hides the method `count` of tuples.
    count: Int32[Array, '']  # pyright: ignore[reportIncompatibleMethodOverride]
    # m, the moving average of the gradient; a tree like the parameters.
    momentum: Any


def bop(gamma: Schedule = 1e-4, threshold: Schedule = 1e-8) -> optax.GradientTransformation:
    """An Optax transformation that flips a weight if its averaged gradient m has the same sign and |m| > threshold.

    m <- (1 - gamma) m + gamma g, from m = 0.
    w <- -sign(w) where sign(w) m > threshold, else sign(w).

    After the first update every weight is +-1, whatever it was before. So apply Bop to latent weights alone (`by_kind`), and
    only under a scheme whose projection leaves +-1 unchanged: clipping or none, not centering.

    Args:
        gamma: the rate of the moving average, in (0, 1].
        threshold: at least 0.

    Returns:
        A transformation whose state is a `BopState`. Its `update` needs the parameters.

    Raises:
        ValueError: gamma is outside (0, 1], threshold is negative, or `update` is called without params.

    Source: arXiv:1906.02107, Algorithm 1; the defaults are Larq's.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> tx, weights = bnn.bop(gamma=0.5, threshold=0.1), jnp.array([1.0, -1.0])
        >>> flips, state = tx.update(jnp.array([1.0, 1.0]), tx.init(weights), weights)
        >>> weights + flips  # The first gradient and its weight are positive, so the weight flips.
        Array([-1., -1.], dtype=float32)
    """
    if not callable(gamma) and not 0 < gamma <= 1:
        raise ValueError(f'bop: got gamma {gamma!r}, expected a number above 0 and up to 1, or a schedule')
    if not callable(threshold) and not threshold >= 0:
        raise ValueError(f'bop: got threshold {threshold!r}, expected a number of at least 0, or a schedule')

    def init(params):
        return BopState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError('bop: got no params, expected tx.update(updates, state, params)')
        # Optax's schedules mix dtypes, which a user may have forbidden for the whole program.
        with jax.numpy_dtype_promotion('standard'):
            rate, limit = (value(state.count) if callable(value) else value for value in (gamma, threshold))

        def averaged(m, g):
            return m if g is None else m + jnp.asarray(rate, m.dtype) * (g.astype(m.dtype) - m)

        def flipped(m, w):
            signs = jnp.where(w < 0, -1, 1).astype(w.dtype)
            return jnp.where(signs * m > jnp.asarray(limit, m.dtype), -signs, signs) - w

        def update_of(m, g, w):
            return None if g is None else flipped(m, w)

        momentum = jax.tree.map(averaged, state.momentum, updates, is_leaf=_is_none)
        flips = jax.tree.map(update_of, momentum, updates, params, is_leaf=_is_none)
        return flips, BopState(state.count + 1, momentum)

    return optax.GradientTransformation(init, update)


def _is_none(leaf: Any) -> bool:
    return leaf is None
