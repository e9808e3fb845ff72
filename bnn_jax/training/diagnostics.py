"""Diagnostics of training: flipped signs, weights at the clip, inputs in the window, alpha, images with equal logits.

`health` says which numbers are healthy. Layers have the names that `summarize` gives them. As in `summarize`, auxiliary heads
(`nn.Auxiliary`) are left out.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Float64, Int8

from bnn_jax.nn.layer import BinaryWeights, Layer
from bnn_jax.nn.places import Place, observe, walk
from bnn_jax.nn.variables import Latent
from bnn_jax.training.devices import own_devices, replicated, spread
from bnn_jax.training.evaluation import logits_of, network_logits
from bnn_jax.training.loss import cross_entropy
from bnn_jax.training.state import TrainState


def signs(state: TrainState) -> dict[str, Int8[Array, '*kernel']]:
    """The signs of the weights of each layer, after its scheme's `before` and `balance`. Pure, for `jax.jit`.

    Args:
        state: its signs are copied, so that the next step may reuse its buffers.

    Returns:
        Layer -> int8 of the kernel's shape. Where a scheme draws weights at random, these are the signs of the weights
        that evaluation uses. Empty for a network of real weights.
    """
    return {
        place.path: _signs(weights)
        for place in _layers(_model(state))
        if (weights := place.layer.binary_weights()) is not None
    }


def latent_weights(model: Any) -> dict[str, Float[np.ndarray, '*kernel']]:
    """The latent weights of each layer, as it stores them.

    Args:
        model: any network.

    Returns:
        Layer -> array.
    """
    found = ((place.path, leaf) for place in _layers(model) for leaf in vars(place.layer).values())
    return {path: np.asarray(leaf[...]) for path, leaf in found if isinstance(leaf, Latent)}


def alphas(state: TrainState) -> dict[str, Float[Array, '']]:
    """The alpha of each layer whose scheme has one. `watch` compares later alphas with these. Pure, for `jax.jit`.

    Args:
        state: usually before the first step.

    Returns:
        Layer -> the mean over filters of the scheme's scale.
    """
    found = ((place.path, place.layer.binary_weights()) for place in _layers(_model(state)))
    return {path: weights.scale.mean() for path, weights in found if weights is not None and weights.scale is not None}


def watch(
    before: dict[str, Int8[Array, '*kernel']],
    state: TrainState,
    images: Float[Array, 'N H W C'],
    start: dict[str, float] | None = None,
) -> dict[str, Float[Array, '']]:
    """Measure how a step changed the binary layers, and what they compute for its images. Pure, for `jax.jit`.

    The statistics and random keys of the state stay unchanged.

    Args:
        before: `signs` of the state before the step.
        state: after the step.
        images: a batch. `in_window` and `equal_logits` are measured on it, in training mode.
        start: `alphas` of the state before the first step; None: `alpha_over_start` is left out.

    Returns:
        Scalars on the device:

        - `flips`, `flips/LAYER`: share of signs that changed, in all layers together and in each.
        - `at_clip/LAYER`: share of latent weights with |w| >= 1, the bound of clipping, after the scheme's `before`.
        - `alpha/LAYER`: mean over filters of the scheme's scale, if it has one.
        - `alpha_over_start/LAYER`: alpha over its value at the start.
        - `in_window/LAYER`: share of inputs at which their quantizer passes a gradient (|x| <= 1 for `sign_ste`).
        - `equal_logits`: share of images whose logits are all equal, so that they name no class.

    Raises:
        KeyError: `before` is of another network. The model may raise other errors.
    """
    model, watched = _model(state), {}
    flipped, count = jnp.int32(0), 0
    for place in _layers(model):
        weights = place.layer.binary_weights()
        if weights is None:
            continue
        changed = _signs(weights) != before[place.path]
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
    """`in_window` of each layer, and `equal_logits`, from one forward pass."""
    seen: dict[str, jax.Array] = {}

    def see(place: Place, x: jax.Array, _: jax.Array) -> None:
        passes = place.layer.passes_gradient(x) if isinstance(place.layer, Layer) else None
        if passes is not None:
            seen[place.path] = share(passes)

    observe(model, see)
    logits = model(images)
    return {f'in_window/{name}': share for name, share in seen.items()} | {'equal_logits': share(all_equal(logits))}


def all_equal(logits: Float[Array, 'N classes']) -> Bool[Array, ' N']:
    """Whether all logits of an image are the same number."""
    return (logits == logits[:, :1]).all(-1)


def by_statistics(model: Any, batches: Iterable[dict]) -> Float64[np.ndarray, '2 4']:
    """Evaluate the same images with running statistics and with batch statistics.

    The network is in evaluation mode both times. The second time, this library's normalizations take the mean and
    variance of the batch. Each host normalizes its own images, so the second row depends on the number of hosts.

    Args:
        model: a trained network; it is not changed.
        batches: dictionaries with `image`, and classes as `label`. Images of a batch beyond a multiple of the number of
            devices are left out.

    Returns:
        A row for running and a row for batch statistics: the sum of losses, and how many predictions are correct, how many
        images have equal logits, and how many images there are. Totals of several hosts can be added. `statistics_record`
        makes a record from them.
    """
    mesh, totals = own_devices(), np.zeros((2, 4))
    answers = logits_of(model, mesh), _logits_by_batch_statistics(model, mesh)
    for batch in batches:
        count = len(batch['image']) // mesh.size * mesh.size
        if not count:
            continue
        images = spread(np.asarray(batch['image'])[:count], mesh)
        labels = jax.device_put(np.asarray(batch['label'])[:count])
        for row, answer in zip(totals, answers, strict=True):
            logits = jax.device_put(np.asarray(answer(images)))  # Gathered on one device.
            loss, equal = np.asarray(cross_entropy(logits, labels), np.float64), all_equal(logits)
            row += [loss.sum(), (logits.argmax(-1) == labels).sum(), equal.sum(), count]
    return totals


def statistics_record(totals: Float64[np.ndarray, '2 4']) -> dict[str, float]:
    """Make a record from the totals of `by_statistics`.

    Args:
        totals: from `by_statistics`.

    Returns:
        `loss`, `accuracy` and `equal_logits` under `running_statistics/` and `batch_statistics/`; empty without images.
    """
    names = ('loss', 'accuracy', 'equal_logits')
    return {
        f'{kind}_statistics/{name}': float(value / row[-1])
        for kind, row in zip(('running', 'batch'), totals, strict=True)
        for name, value in zip(names, row, strict=False)
        if row[-1]
    }


def _logits_by_batch_statistics(model: Any, mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """`logits_of` a model whose normalizations take the mean and variance of the whole batch."""
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, replicated(state, mesh), copy=True)
    copy.eval()
    for place in _layers(copy):
        place.layer.use_batch_statistics()
    return partial(network_logits, *nnx.split(copy))


def _layers(model: Any) -> list[Place]:
    """The layers of this library, from first to last; other layers have nothing to report."""
    return [place for place in walk(model) if isinstance(place.layer, Layer)]


def _model(state: TrainState) -> Any:
    return nnx.merge(state.graphdef, state.params, state.rest, copy=True)


def _signs(weights: BinaryWeights) -> Int8[Array, '*kernel']:
    # A scheme that draws signs only in training may have real numbers here.
    return jnp.sign(weights.signs).astype(jnp.int8)


def share(mask: Bool[Array, '*shape']) -> Float32[Array, '']:
    """The share of True, float32, exactly 1 if all are True.

    Args:
        mask: booleans of any shape. They are counted in integers, because a float32 sum of ones stops at 2^24.
    """
    return _of(jnp.sum(mask, dtype=jnp.int32), mask.size)


def _of(count: jax.Array, size: int) -> jax.Array:
    # XLA would multiply by the rounded inverse of a constant, and 41 of 41 would be 0.99999994; the barrier prevents that.
    return count.astype(jnp.float32) / jax.lax.optimization_barrier(jnp.float32(size))
