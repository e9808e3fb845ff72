"""Kinds of variables in addition to nnx.Param and nnx.BatchStat."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer


class Latent(nnx.Param):
    """Latent (real) weights of a binary layer: `Latent(weights, projection=..., before=...)`.

    The variable carries two functions of the scheme: `projection`, which is applied after every update, and `before`, which
    is applied before every forward pass. `training.init` and `optim.projected` apply the projection. In a loop of your own,
    with Flax's optimizer, the variable itself projects all its weights when one of them leaves [-1, 1]. Weights beyond 1 that
    have not changed, as after a call under `nnx.jit`, cause no projection. `nnx.replace_by_pure_dict` and `nnx.merge` restore
    weights beyond 1 without a projection.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> latent = bnn.nn.Latent(jnp.array([0.5]), projection=bnn.schemes.projections.clip)
        >>> latent.set_raw_value(jnp.array([2.0]))
        >>> latent[...]
        Array([1.], dtype=float32)
    """

    def set_raw_value(self, value: Any, **options: Any) -> None:
        """Sets the weights, projected if one of them leaves [-1, 1].

        `nnx.update` calls this method for plain arrays, not for a state that holds variables.
        """
        projection = self.get_metadata('projection', None)
        if projection is not None and isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
            # Beyond 1 the straight-through estimator gives no gradient, so such a weight would never move again.
            leaves = (jnp.abs(value) > 1) & _differs(value, self.get_raw_value())
            value = jnp.where(leaves.any(), projection(value), value)
        super().set_raw_value(value, **options)


def _differs(value: jax.Array, before: Any) -> jax.Array:
    """Where a value differs from the old value; everywhere if the two cannot be compared."""
    comparable = isinstance(before, jax.Array) and before.shape == value.shape
    # A training step may have donated the old array, which deletes it.
    if not comparable or (not isinstance(before, Tracer) and before.is_deleted()):
        return jnp.ones(value.shape, bool)
    return value != before


class Fixed(nnx.Variable):
    """Numbers that are not trained: gamma and beta of a normalization whose scheme has `affine=False`.

    Example:
        >>> import dataclasses, bnn_jax as bnn
        >>> from flax import nnx
        >>> norm = bnn.nn.Norm(8, scheme=dataclasses.replace(bnn.XNOR, affine=False), rngs=nnx.Rngs(0))
        >>> isinstance(norm.scale, bnn.nn.Fixed)
        True
    """


class Noise(nnx.Variable):
    """The random key of a layer that draws weights or drops inputs, as raw key data. Each training step advances the key.

    Example:
        >>> import jax, bnn_jax as bnn
        >>> bnn.nn.Noise(jax.random.key_data(jax.random.key(0)))[...].tolist()
        [0, 0]
    """


class Progress(nnx.Variable):
    """The progress of training, from 0 to 1, for quantizers that change with it (`schemes.Scheduled`).

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> float(bnn.nn.Progress(jnp.float32(0.5))[...])
        0.5
    """
