"""What a binary network shows while it trains: flipped signs, weights at the clip, inputs in the window, alpha, equal logits.

`health` says which of these numbers are healthy. Layers have the names of `summarize`; heads that only training sees
(`nn.Auxiliary`) are left out, as there.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bnn_jax.nn.layer import Layer
from bnn_jax.nn.variables import Latent
from bnn_jax.nn.walk import Place, observe, walk
from bnn_jax.training.devices import own_devices, replicated, spread
from bnn_jax.training.evaluation import logits_of, network_logits
from bnn_jax.training.loss import cross_entropy
from bnn_jax.training.state import TrainState


def signs(state: TrainState) -> dict[str, jax.Array]:
    """Layer -> the signs of its latent weights as its scheme reads them, int8 of the kernel's shape.

    Where a scheme draws weights at random, these are the signs of evaluation. Empty for a network of real weights.
    A step that reuses the state's buffers leaves them as they are. Pure; to be compiled by `jax.jit`.
    """
    return {
        place.path: weights.signs.astype(jnp.int8)
        for place in _layers(_model(state))
        if (weights := place.layer.binary_weights()) is not None
    }


def latent_weights(model: Any) -> dict[str, np.ndarray]:
    """Layer -> its latent weights, as they are stored."""
    found = ((place.path, leaf) for place in _layers(model) for leaf in vars(place.layer).values())
    return {path: np.asarray(leaf[...]) for path, leaf in found if isinstance(leaf, Latent)}


def alphas(state: TrainState) -> dict[str, jax.Array]:
    """Layer -> mean over filters of its scheme's scale, for the layers that have one; what `watch` compares later ones with.

    Pure; to be compiled by `jax.jit`.
    """
    found = ((place.path, place.layer.binary_weights()) for place in _layers(_model(state)))
    return {path: weights.scale.mean() for path, weights in found if weights is not None and weights.scale is not None}


def watch(
    before: dict[str, jax.Array],
    state: TrainState,
    images: jax.Array,
    start: dict[str, float] | None = None,
) -> dict[str, jax.Array]:
    """What a step did to the binary layers, and how the network answers to its images.

    Pure; to be compiled by `jax.jit`. The state's statistics and random keys stay. Every value is a scalar on device:

    - `flips`, `flips/LAYER`: share of signs that changed, of all layers together and of each.
    - `at_clip/LAYER`: share of latent weights with |w| >= 1, the bound where they are clipped. This and flips are of weights
      as the scheme reads them.
    - `alpha/LAYER`: mean over filters of the scheme's scale, where it has one.
    - `alpha_over_start/LAYER`: that over its value at the start.
    - `in_window/LAYER`: share of inputs at which a binary activation lets a gradient through (|x| <= 1 for `sign_ste`).
    - `equal_logits`: share of images whose logits are all equal, so that they name no class.

    Args:
        before: `signs` of the state before the step.
        state: the state after it.
        images: (N, H, W, channels), a batch; the last two values are seen on it, in training mode.
        start: `alphas` of the state before the first step; None: `alpha_over_start` is left out.

    Raises:
        KeyError: for signs of another network. Otherwise as the model does.
    """
    model, watched = _model(state), {}
    flipped, count = jnp.int32(0), 0
    for place in _layers(model):
        weights = place.layer.binary_weights()
        if weights is None:
            continue
        changed = weights.signs.astype(jnp.int8) != before[place.path]
        flipped, count = flipped + jnp.sum(changed, dtype=jnp.int32), count + changed.size
        watched[f'flips/{place.path}'] = share(changed)
        watched[f'at_clip/{place.path}'] = share(jnp.abs(weights.latent) >= 1)
        if weights.scale is not None:
            alpha = watched[f'alpha/{place.path}'] = weights.scale.mean()
            if start is not None and place.path in start:
                watched[f'alpha_over_start/{place.path}'] = alpha / start[place.path]
    if count:
        watched['flips'] = _of(flipped, count)
    return watched | _forward_pass(model, images)


def _forward_pass(model: Any, images: jax.Array) -> dict[str, jax.Array]:
    """One forward pass that notes at what share of its inputs each binary activation lets a gradient through."""
    seen: dict[str, jax.Array] = {}

    def see(place: Place, x: jax.Array, _: jax.Array) -> None:
        passes = place.layer.passes_gradient(x) if isinstance(place.layer, Layer) else None
        if passes is not None:
            seen[place.path] = share(passes)

    observe(model, see)
    logits = model(images)
    return {f'in_window/{name}': share for name, share in seen.items()} | {'equal_logits': share(all_equal(logits))}


def all_equal(logits: jax.Array) -> jax.Array:
    """Whether all logits of an image are the same number, (N,)."""
    return (logits == logits[:, :1]).all(-1)


def by_statistics(model: Any, batches: Iterable[dict]) -> np.ndarray:
    """The same images by running and by batch statistics; what `statistics_record` makes a record of.

    Both are the network of evaluation but for the normalizations, which take the mean and variance of the batch in the second.
    The model is not changed. Each host normalizes its own images, so the second row depends on the number of hosts.

    Args:
        model: a trained network.
        batches: as `evaluate` takes them. Images beyond a multiple of the number of devices are left out.

    Returns:
        (2, 4): sum of losses, correct predictions, images with equal logits, and images; totals add up over hosts.
    """
    mesh, totals = own_devices(), np.zeros((2, 4))
    answers = logits_of(model, mesh), _logits_by_batch_statistics(model, mesh)
    for batch in batches:
        count = len(batch['image']) // mesh.size * mesh.size
        if not count:
            continue
        images, labels = spread(np.asarray(batch['image'])[:count], mesh), jnp.asarray(batch['label'])[:count]
        for row, answer in zip(totals, answers, strict=True):
            logits = jnp.asarray(np.asarray(answer(images)))  # on one device
            loss, equal = np.asarray(cross_entropy(logits, labels), np.float64), all_equal(logits)
            row += [loss.sum(), (logits.argmax(-1) == labels).sum(), equal.sum(), count]
    return totals


def statistics_record(totals: np.ndarray) -> dict[str, float]:
    """`loss`, `accuracy` and `equal_logits` under `running_statistics/` and `batch_statistics/`; empty without images."""
    names = ('loss', 'accuracy', 'equal_logits')
    return {
        f'{kind}_statistics/{name}': float(value / row[-1])
        for kind, row in zip(('running', 'batch'), totals, strict=True)
        for name, value in zip(names, row, strict=False)
        if row[-1]
    }


def _logits_by_batch_statistics(model: Any, mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """As `logits_of`, but a batch is normalized with its own mean and variance, as a whole."""
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, replicated(state, mesh), copy=True)
    copy.eval()
    for place in _layers(copy):
        place.layer.use_batch_statistics()
    return partial(network_logits, *nnx.split(copy))


def _layers(model: Any) -> list[Place]:
    """The layers of this library's kind, from first to last; others say nothing of themselves."""
    return [place for place in walk(model) if isinstance(place.layer, Layer)]


def _model(state: TrainState) -> Any:
    return nnx.merge(state.graphdef, state.params, state.rest, copy=True)


def share(mask: jax.Array) -> jax.Array:
    """Share of True, float32, 1 if all are; counted in integers, for a float32 sum of ones ends at 2^24."""
    return _of(jnp.sum(mask, dtype=jnp.int32), mask.size)


def _of(count: jax.Array, size: int) -> jax.Array:
    # Behind the barrier, for XLA multiplies by the rounded inverse of a constant: all of 41 would be 0.99999994.
    return count.astype(jnp.float32) / jax.lax.optimization_barrier(jnp.float32(size))
