"""Kinds of variables beside nnx.Param and nnx.BatchStat."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer


class Latent(nnx.Param):
    """Latent (real) weights of a binary layer. Carries the scheme's `projection`, applied after every update, and its
    `before`, applied before every forward pass.

    `training.init` and `optim.projected` apply the projection. Where neither does, other weights that are put here and
    leave [-1, 1], as Flax's optimizer makes them in a loop of one's own, are projected; those that are here already stay,
    as after a call under `nnx.jit`. `nnx.replace_by_pure_dict` and `nnx.merge` restore weights beyond 1 as they are.
    """

    def set_raw_value(self, value: Any, **options: Any) -> None:
        """Put an array here. Called by `nnx.update` with plain arrays."""
        projection = self.get_metadata('projection', None)
        if projection is not None and isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
            # Beyond 1 the straight-through estimator gives no gradient: such a weight would never come back.
            leaves = (jnp.abs(value) > 1) & _differs(value, self.get_raw_value())
            value = jnp.where(leaves.any(), projection(value), value)
        super().set_raw_value(value, **options)


def _differs(value: jax.Array, before: Any) -> jax.Array:
    """Where a value is not what it was; everywhere, where that cannot be compared."""
    comparable = isinstance(before, jax.Array) and before.shape == value.shape
    if not comparable or (not isinstance(before, Tracer) and before.is_deleted()):  # donated to a step
        return jnp.ones(value.shape, bool)
    return value != before


class Fixed(nnx.Variable):
    """Numbers that are not trained: gamma and beta of a normalization without them."""


class Noise(nnx.Variable):
    """The random key of a layer that draws weights or drops inputs, as raw key data; each training step advances it."""


class Progress(nnx.Variable):
    """How far training has come, from 0 to 1, for quantizers that change with it (`schemes.Scheduled`)."""
