"""What only a binary network has to show while it trains: signs that flip, weights at the clip, inputs in the window, alpha.

Layers have the names of `summarize`; heads that only training sees (`layers.Auxiliary`) are left out, as there.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.nn.containers import Branches, Network, Residual, Sequential
from bnn_jax.nn.product import Product
from bnn_jax.training.state import TrainState


def signs(state: TrainState) -> dict[str, jax.Array]:
    """Layer -> the signs of its latent weights as its scheme reads them, int8 of the kernel's shape.

    Where a scheme draws weights at random, these are the signs of evaluation. Empty for a network of real weights.
    A step that reuses the state's buffers leaves them as they are. Pure; to be compiled by `jax.jit`.
    """
    return {
        place.name: place.layer.scheme.sign(place.layer.latent()).astype(jnp.int8)
        for place in products(_model(state))
        if place.layer.scheme.weight is not None
    }


def watch(before: dict[str, jax.Array], state: TrainState, images: jax.Array) -> dict[str, jax.Array]:
    """The state after a step beside the signs before it; every value a scalar on device.

    flips/LAYER: share of signs that changed. at_clip/LAYER: share of latent weights with |w| >= 1, the bound where they are
    clipped; both of weights as the scheme reads them. alpha/LAYER: mean over filters of the scheme's scale, where it has
    one. in_window/LAYER: share of inputs at which a binary activation lets a gradient through (|x| <= 1 for `sign_ste`),
    on these images, (N, H, W, channels), in training mode; the state's statistics and random keys stay.
    Pure; to be compiled by `jax.jit`. Raises KeyError for signs of another network, and as the model does.
    """
    model, watched = _model(state), {}
    for place in products(model):
        scheme, latent = place.layer.scheme, place.layer.latent()
        if scheme.weight is not None:
            watched[f'flips/{place.name}'] = _share(scheme.sign(latent).astype(jnp.int8) != before[place.name])
            watched[f'at_clip/{place.name}'] = _share(jnp.abs(latent) >= 1)
            if scheme.scale is not None:
                watched[f'alpha/{place.name}'] = scheme.scale(latent).mean()
    return watched | _in_window(model, images)


def _in_window(model: Network, images: jax.Array) -> dict[str, jax.Array]:
    """One forward pass in which every binary activation is preceded by a probe; changes the model, so of a copy."""
    seen: dict[str, jax.Array] = {}
    binary = [place for place in products(model) if place.layer.scheme.activation is not None]
    for place in binary:
        place.chain.layers[place.index] = _Probe(place, seen)
    if binary:
        model(images)
    return {f'in_window/{name}': share for name, share in seen.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class _Probe:
    """The same layer, noting first at what share of its inputs the gradient of its activation is not 0."""

    place: 'Place'
    seen: dict[str, jax.Array]

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = self.place.layer.scheme.activation
        assert activation is not None
        y, gradient = jax.vjp(activation, x)
        self.seen[self.place.name] = _share(gradient(jnp.ones_like(y))[0] != 0)
        return self.place.layer(x)


@dataclasses.dataclass(frozen=True)
class Place:
    """A product in a network: the chain that holds it, where, and the name `summarize` gives it."""

    chain: Sequential
    index: int
    name: str
    layer: Product


def products(model: Network) -> list[Place]:
    """The products of a network from first to last, a residual body before its shortcut."""
    return list(_places(model.body, ''))


def _places(chain: Sequential, path: str) -> Iterator[Place]:
    for i, layer in enumerate(chain.layers):
        if isinstance(layer, Product):
            yield Place(chain, i, f'{path}{i}', layer)
        elif isinstance(layer, Residual):
            yield from _places(layer.body, f'{path}{i}.body.')
            yield from _places(layer.shortcut, f'{path}{i}.shortcut.')
        elif isinstance(layer, Branches):
            for j, branch in enumerate(layer.branches):
                yield from _places(branch, f'{path}{i}.branch{j}.')


def _model(state: TrainState) -> Network:
    return nnx.merge(state.graphdef, state.params, state.rest, copy=True)


def _share(mask: jax.Array) -> jax.Array:
    """Share of True, float32, 1 if all are; counted in integers, for a float32 sum of ones ends at 2^24."""
    # Behind the barrier, for XLA multiplies by the rounded inverse of a constant: all of 41 would be 0.99999994.
    size = jax.lax.optimization_barrier(jnp.float32(mask.size))
    return jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32) / size
