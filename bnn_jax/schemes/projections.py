"""Projections of latent weights, such as clipping and centering, after the optimizer's update or before a step.

A projection is a pure function latent -> latent. To project after an update, `project` is the last link of an optax
chain. To project before a step, the forward pass reads its weights through `in_place`, and `project_before` wraps the
optax chain.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float

from bnn_jax.ops.deterministic import ordered_mean, wide
from bnn_jax.ops.uncompiled import uncompiled

Projection = Callable[[jax.Array], jax.Array]


def clip(w: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Clipping: W <- min(max(W, -1), 1).

    Source: BinaryConnect (arXiv:1511.00363) section 2.4.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> bnn.schemes.projections.clip(jnp.array([-3.0, 0.5]))
        Array([-1. ,  0.5], dtype=float32)
    """
    return jnp.clip(w, -1, 1)


def center(w: Float[Array, '*window channels filters']) -> Float[Array, '*window channels filters']:
    """Centering: W <- W - its mean over the input channels, at each position of the window and for each filter.

    With one input channel W stays as it is.

    Source: XNOR-Net's published code (not its paper).
    """
    # The mean over one channel is the weight itself: every weight would become 0.
    if w.shape[-2] == 1:
        return w
    # An ordered sum, so that the signs of centered weights are the same in every compilation.
    mean = ordered_mean(jnp.moveaxis(w.astype(wide(w.dtype)), -2, 0)).astype(w.dtype)
    return w - jnp.expand_dims(mean, -2)


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The projection W <- max(W, lowest).

    Args:
        lowest: the smallest number that stays.
    """

    lowest: float

    def __call__(self, w: Float[Array, '*shape']) -> Float[Array, '*shape']:
        return jnp.maximum(w, jnp.asarray(self.lowest, w.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_place(projection: Projection, w: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """The projected weights, as if the projection had overwritten W before the forward pass.

    Forward: projection(W).
    Gradient: g. The projection does not change it.

    Source: the training loops of XNOR-Net's published implementations (center, clamp, forward, backward, update).
    """
    return projection(w)


in_place.defvjp(lambda projection, w: (projection(w), None), lambda projection, _, g: (g,))


def initial(projection: Projection, w: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """projection(W) of initial weights, with their sharding."""
    projected = jax.jit(projection)
    if isinstance(w, Tracer) or getattr(w, 'committed', False):
        return projected(w)
    # NumPy gives the same bits, without a compilation for each shape. The result may go to JAX's default device, as w did.
    return jnp.asarray(uncompiled(projected, w)(w))


def center_and_clip(w: Float[Array, '*window channels filters']) -> Float[Array, '*window channels filters']:
    """`center`, then `clip`, in the order of XNOR-Net's published code."""
    return clip(center(w))


def of(params: nnx.State, name: str = 'projection'):
    """The tree of projections that the parameters carry: `project(of(params))` is a link of a chain.

    Args:
        params: as `nnx.state(model, nnx.Param)` returns them.
        name: 'projection' for those after an update, 'before' for those before a step.

    Returns:
        The tree of params, with a projection or None in place of each parameter.
    """

    def carried(variable):
        return variable.get_metadata(name, None) if isinstance(variable, nnx.Variable) else None

    return jax.tree.map(carried, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def project(projections: Any) -> optax.GradientTransformation:
    """An optax link that projects parameters after the update. It must be the last link of a chain.

    Update: u <- projection(p + u) - p if there is a projection, else u. A weight does not move if the
    whole update of its parameter is 0 or None (frozen, masked, or between two steps of an optimizer that accumulates
    gradients), or if the weight lies in [-1, 1] and its own update is 0.

    Args:
        projections: a tree of functions, a prefix of the tree of parameters, with None for parameters that are not projected.

    Returns:
        The link.

    Raises:
        ValueError: projections has no projection, or update is called without params.

    Example:
        >>> import optax
        >>> from bnn_jax.schemes import projections
        >>> tx = optax.chain(optax.adam(1e-3), projections.project({'kernel': projections.clip, 'bias': None}))
    """
    if not jax.tree.leaves(projections):
        raise ValueError('project: got no latent weight to project, expected at least one; omit this link')

    def update(updates, state, params=None):
        if params is None:
            raise ValueError('project: got no params, expected tx.update(updates, state, params)')

        def all_moved(projection, u, p):
            return u if projection is None else jax.tree.map(partial(moved, projection), u, p, is_leaf=_is_none)

        return jax.tree.map(all_moved, projections, updates, params, is_leaf=_is_none), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def moved(
    projection: Projection, u: Float[Array, '*shape'] | None, p: Float[Array, '*shape']
) -> Float[Array, '*shape'] | None:
    """The update that takes p to projection(p + u), or leaves p where it has no update: see `project`."""
    if u is None:
        return None
    # Outside [-1, 1] the straight-through estimator gives no gradient, so a weight there must move back, or it never trains.
    stays = (u == 0) & ((jnp.abs(p) <= 1) | (u == 0).all())
    return jnp.where(stays, u, projection(p + u) - p)


def project_before(tx: optax.GradientTransformation, projections: Any) -> optax.GradientTransformationExtraArgs:
    """An optax chain that starts from projected parameters q = projection(p).

    Update: u, state = tx.update(g, state, q), and the chain returns u + (q - p). So weight decay and every other link see
    q, and the parameters become q + u, which is not projected again. g must be the gradient at q: the forward pass reads
    its parameters through `in_place`. A parameter whose whole update is 0 or None (frozen, or between two steps of an
    optimizer that accumulates gradients) does not move.

    Args:
        tx: the chain that is wrapped.
        projections: as in `project`.

    Returns:
        The chain.

    Raises:
        ValueError: projections has no projection, or update is called without params.
    """
    if not jax.tree.leaves(projections):
        raise ValueError('project_before: got no parameter to project, expected at least one; use tx as it is')
    tx = optax.with_extra_args_support(tx)

    def before(params):
        return _projected(projections, params)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError('project_before: got no params, expected tx.update(updates, state, params)')
        projected = before(params)
        updates, state = tx.update(updates, state, projected, **extra_args)

        def from_stored(u, p, q):
            return None if u is None else jnp.where((u == 0).all(), u, u + (q - p))

        def moved(projection, u, p, q):
            return u if projection is None else jax.tree.map(from_stored, u, p, q, is_leaf=_is_none)

        return jax.tree.map(moved, projections, updates, params, projected, is_leaf=_is_none), state

    return optax.GradientTransformationExtraArgs(lambda params: tx.init(before(params)), update)


def _projected(projections, params):
    """The parameters, projected if they have a projection."""

    def projected(projection, p):
        return p if projection is None else jax.tree.map(projection, p)

    return jax.tree.map(projected, projections, params, is_leaf=_is_none)


def _is_none(leaf) -> bool:
    return leaf is None
