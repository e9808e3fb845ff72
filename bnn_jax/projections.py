"""What is done to latent weights outside the gradient: after the optimizer's update they are clipped, centred.

A projection is a pure function latent -> latent. `project` makes it the last link of an optax chain.
"""

import jax
import jax.numpy as jnp
import optax


def clip(w: jax.Array) -> jax.Array:
    """W <- min(max(W, -1), 1). Source: BinaryConnect section 2.4."""
    return jnp.clip(w, -1, 1)


def centre(w: jax.Array) -> jax.Array:
    """W <- W - its mean over the input-channel axis (-2 in HWIO and in (in, out)); kernel positions stay apart.

    With one input channel this would set every weight to 0, so W is then returned as it is.
    Source: XNOR-Net's published code (not its paper).
    """
    return w if w.shape[-2] == 1 else w - jnp.mean(w, axis=-2, keepdims=True)


def centre_and_clip(w: jax.Array) -> jax.Array:
    """`centre`, then `clip`: the order of XNOR-Net's published code."""
    return clip(centre(w))


def project(projections) -> optax.GradientTransformation:
    """An optax link that moves every parameter it has a projection for to its projected place.

    projections: a tree of functions, a prefix of the tree of parameters; None where nothing is projected.
    update: u <- projection(p + u) - p for these, u untouched for all others; so it belongs last in a chain.
    Raises ValueError if there is no projection in it at all, or if update is called without params.
    """
    if not jax.tree.leaves(projections):
        raise ValueError('project: got no latent weight to project, expected at least one; leave this link out')

    def update(updates, state, params=None):
        if params is None:
            raise ValueError('project: got no params, expected tx.update(updates, state, params)')

        def moved(projection, u, p):
            return u if projection is None else jax.tree.map(lambda u, p: projection(p + u) - p, u, p)

        return jax.tree.map(moved, projections, updates, params, is_leaf=lambda leaf: leaf is None), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
