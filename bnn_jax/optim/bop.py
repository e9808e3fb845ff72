"""Bop: an optimizer of binary weights, which has no latent weights and only ever flips signs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = float | optax.Schedule


class BopState(NamedTuple):
    """count: how many updates were made. momentum: m, a tree like the parameters."""

    # A field like those of optax's states; it hides the method of tuples.
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    momentum: Any


def bop(gamma: Schedule = 1e-4, threshold: Schedule = 1e-8) -> optax.GradientTransformation:
    """An optax transformation that flips a weight's sign where its gradient has long asked for it.

    m <- (1 - gamma) m + gamma g, starting from 0; a weight of sign s becomes -s where s m > threshold (on exactly the
    threshold it stays), else s. So every weight is +-1 after the first update, whatever it was before; give it latent
    weights only (`training.by_kind`), of a scheme whose projection leaves +-1 alone: clip or none, not centering.
    gamma, threshold: numbers, or schedules of the number of updates made before (an optax schedule).
    Raises ValueError for a gamma outside (0, 1] or a negative threshold, and if update is called without params.
    Source: arXiv:1906.02107, Algorithm 1; the defaults are Larq's.
    """
    if not callable(gamma) and not 0 < gamma <= 1:
        raise ValueError(f'bop: got gamma {gamma!r}, expected a number above 0 and up to 1, or a schedule')
    if not callable(threshold) and not threshold >= 0:
        raise ValueError(f'bop: got threshold {threshold!r}, expected a number from 0, or a schedule')

    def init(params):
        return BopState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError('bop: got no params, expected tx.update(updates, state, params)')
        with jax.numpy_dtype_promotion('standard'):  # optax's schedules rely on it, where a user forbids it
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
