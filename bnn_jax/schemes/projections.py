"""What is done to latent weights outside the gradient: clipped, centered, after the optimizer's update or before a step.

A projection is a pure function latent -> latent. `project` makes it the last link of an optax chain; `project_before`
wraps a chain, and `in_place` is its other half, in the forward pass.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bnn_jax.ops.deterministic import ordered_mean, wide


def clip(w: jax.Array) -> jax.Array:
    """W <- min(max(W, -1), 1). Source: BinaryConnect section 2.4."""
    return jnp.clip(w, -1, 1)


def center(w: jax.Array) -> jax.Array:
    """W <- W - its mean over the input-channel axis (-2 in HWIO and in (in, out)); kernel positions stay apart.

    With one input channel this would set every weight to 0, so W is then returned as it is. The mean is summed in a
    fixed order: where signs are taken of centered weights they are the same in every compilation.
    Source: XNOR-Net's published code (not its paper).
    """
    if w.shape[-2] == 1:
        return w
    mean = ordered_mean(jnp.moveaxis(w.astype(wide(w.dtype)), -2, 0)).astype(w.dtype)
    return w - jnp.expand_dims(mean, -2)


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A projection: max(W, lowest)."""

    lowest: float

    def __call__(self, w: jax.Array) -> jax.Array:
        return jnp.maximum(w, jnp.asarray(self.lowest, w.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_place(projection, w: jax.Array) -> jax.Array:
    """projection(W), outside the differentiated graph, as if W had been overwritten before the forward pass.

    Forward: projection(W). Gradient: g, that of the projected weights, whatever the projection did.
    Source: the training loops of XNOR-Net's published codes (center, clamp, forward, backward, update).
    """
    return projection(w)


in_place.defvjp(lambda projection, w: (projection(w), None), lambda projection, _, g: (g,))


def center_and_clip(w: jax.Array) -> jax.Array:
    """`center`, then `clip`: the order of XNOR-Net's published code."""
    return clip(center(w))


def of(params: nnx.State, name: str = 'projection'):
    """The projection that each parameter carries, in its place; None where there is none. `project(of(params))` is a link.

    params: as `nnx.state(model, nnx.Param)` gives them. name: 'projection', or 'before' for what precedes a step.
    """

    def carried(variable):
        return variable.get_metadata(name, None) if isinstance(variable, nnx.Variable) else None

    return jax.tree.map(carried, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def project(projections) -> optax.GradientTransformation:
    """An optax link that moves every parameter it has a projection for to its projected place.

    projections: a tree of functions, a prefix of the tree of parameters; None where nothing is projected.
    update: u <- projection(p + u) - p for these, u untouched for all others; so it belongs last in a chain. What gets no
    update stays as it is (frozen, masked, between two steps of an optimizer that gathers gradients): a parameter whose whole
    update is 0 or None, and in any other each weight in [-1, 1] whose update is 0.
    Raises ValueError if there is no projection in it at all, or if update is called without params.
    """
    if not jax.tree.leaves(projections):
        raise ValueError('project: got no latent weight to project, expected at least one; leave this link out')

    def update(updates, state, params=None):
        if params is None:
            raise ValueError('project: got no params, expected tx.update(updates, state, params)')

        def all_moved(projection, u, p):
            return u if projection is None else jax.tree.map(partial(moved, projection), u, p, is_leaf=_is_none)

        return jax.tree.map(all_moved, projections, updates, params, is_leaf=_is_none), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def moved(projection, u: jax.Array | None, p: jax.Array) -> jax.Array | None:
    """The update that leaves p + u at its projected place, or p where it is if nothing asks for a move: see `project`."""
    if u is None:
        return None
    # Outside [-1, 1] the straight-through estimator gives no gradient: there a weight must come back, or it never trains.
    stays = (u == 0) & ((jnp.abs(p) <= 1) | (u == 0).all())
    return jnp.where(stays, u, projection(p + u) - p)


def project_before(tx: optax.GradientTransformation, projections) -> optax.GradientTransformationExtraArgs:
    """An optax chain that starts from projected parameters: q = projection(p), then tx on q, and q + u is stored.

    projections: as `project`'s. update: u, state = tx.update(g, state, q); returns u + (q - p), so that weight decay and
    every other link sees q, and the stored parameters become q + u, which is not projected again. g must be the
    gradient at q: the forward pass reads its parameters through `in_place`. A parameter whose whole update is 0 (frozen,
    or between two steps of an optimizer that gathers gradients) stays as it is.
    Raises ValueError if there is no projection in it at all, or if update is called without params.
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
    def projected(projection, p):
        return p if projection is None else jax.tree.map(projection, p)

    return jax.tree.map(projected, projections, params, is_leaf=_is_none)


def _is_none(leaf) -> bool:
    return leaf is None
