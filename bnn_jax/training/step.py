"""One training step and evaluation, from loss to metrics."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from bnn_jax.nn.containers import Network
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.training.devices import own_devices, replicated, spread
from bnn_jax.training.loss import cross_entropy
from bnn_jax.training.state import TrainState, with_progress

Batch = dict[str, Any]


def update(state: TrainState, batch: Batch, *, parts: int = 1) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_step` without its checks, not yet compiled: gradient of the mean loss, one update of the chain.

    parts: the batch is computed in so many parts one after another (part i: the images i, i + parts, ..., so that each part
    lies on all devices), which needs the memory of one; loss and gradient are the means over them. Every part is normalized
    by itself, and moves the running statistics.
    """
    rest = with_progress(state)
    if parts == 1:
        rest, (metrics, gradient) = _gradient(state, rest, batch)
    else:
        one_after_another = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), batch)
        first, others = (jax.tree.map(lambda a, s=s: a[s], one_after_another) for s in (0, slice(1, None)))

        def add(done, part):
            rest, total = done
            rest, of_part = _gradient(state, rest, part)
            return (rest, jax.tree.map(jnp.add, total, of_part)), None

        (rest, total), _ = jax.lax.scan(add, _gradient(state, rest, first), others)
        metrics, gradient = jax.tree.map(lambda a: a / parts, total)
    with jax.numpy_dtype_promotion('standard'):  # optax relies on it (Adam's b1 ** count), where a user forbids it
        updates, opt_state = state.tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {'gradient_norm': optax.tree.norm(gradient)}
    state = dataclasses.replace(state, step=state.step + 1, params=params, rest=rest, opt_state=opt_state)
    return state, metrics


def _gradient(state: TrainState, rest: nnx.State, batch: Batch):
    """Returns updated non-trainable state, and (metrics, gradient)."""

    def loss_of(params):
        model = nnx.merge(state.graphdef, params, rest, copy=True)
        logits, auxiliary = _answers(model, batch['image'])
        loss = state.loss(batch['image'], logits, batch['label']).mean()
        for weight, auxiliary_logits in auxiliary:
            loss += weight * cross_entropy(auxiliary_logits, batch['label']).mean()
        return loss, (logits, nnx.state(model, nnx.Not(nnx.Param)))

    (loss, (logits, left)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    correct = logits.argmax(-1).astype(batch['label'].dtype) == batch['label']
    metrics = {'loss': loss, 'accuracy': correct.mean(dtype=loss.dtype)}
    if logits.shape[-1] > 5:
        metrics['top5_accuracy'] = in_top5(logits, batch['label']).mean(dtype=loss.dtype)
    return left, (metrics, gradient)


def _answers(model: Any, images: Any) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
    """The logits of any model, and those of the auxiliary heads of a network that has them."""
    return model.with_auxiliary(images) if isinstance(model, Network) else (model(images), ())


def in_top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether fewer than five logits are larger than the label's, (N,); never where that one is NaN."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return (~(logits <= own)).sum(-1) < 5  # not `>`, of which a NaN has none


# No buffers are donated: the caller may go on with the state that it gave.
_compiled = jax.jit(update)


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: state and a batch to the next state and metrics, compiled once a shape.

    batch: `image` (N, H, W, C) floating, `label` (N,) integers. metrics, on device: `loss` (mean of the state's loss, nats,
    plus the weighted cross-entropies of auxiliary heads, where the model has any), `accuracy` (of this batch, in
    training mode), `gradient_norm`; `top5_accuracy` (see `in_top5`) where there are more than five classes. state stays
    usable.
    Raises ValueError for labels out of range where they are NumPy arrays (elsewhere the loss becomes NaN), for a batch
    of other keys or lengths, and as the model does.
    """
    num_classes = state.num_classes
    if num_classes is None and 'image' in batch:
        num_classes = _number_of_logits(state.graphdef, *_layout((state.params, state.rest, batch['image'])))
    check_batch(batch, num_classes)
    return _compiled(state, {key: batch[key] for key in ('image', 'label')})


def _layout(tree: Any) -> tuple[Any, tuple]:
    """Structure, shapes and dtypes of a tree of arrays, hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


@lru_cache(maxsize=64)
def _number_of_logits(graphdef: nnx.GraphDef, structure: Any, leaves: tuple) -> int:
    """That of a module that does not say it before it is called, from shapes alone."""

    def logits(params, rest, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images)  # pyright: ignore[reportCallIssue]

    return jax.eval_shape(
        logits, *jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    ).shape[-1]


def check_batch(batch: Batch, num_classes: int | None) -> None:
    """Raises TypeError or ValueError unless batch has one integer label an image, and these (if NumPy) are classes."""
    if not {'image', 'label'} <= set(batch):
        raise ValueError(f'batch: got keys {sorted(batch)}, expected image and label')
    shape, labels = np.shape(batch['image']), batch['label']
    if np.shape(labels) != shape[:1]:
        raise ValueError(f'batch: got images {shape} and labels {np.shape(labels)}, expected one label an image')
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f'batch: got labels of dtype {labels.dtype}, expected integers')
    if num_classes is None or not isinstance(labels, np.ndarray) or not labels.size:
        return
    if not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
            'is num_classes that of the data set?'
        )


def evaluate(model: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean loss (nats), accuracy and number of images over batches, every image counted once, in evaluation mode.

    Where there are more than five classes, `top5_accuracy` as well.

    Args:
        model: a trained or a packed network, or any `nnx.Module` that is called with images; it is not changed.
        batches: as `train_step` takes them; a smaller one is padded, so that it compiles once, and spread over the devices
            of this host.

    Raises:
        ValueError: if there is no image at all, and as `train_step` for labels.
    """
    batches, num_classes = iter(batches), getattr(model, 'num_classes', None)
    if num_classes is None:
        first = next(batches, None)
        if first is None:
            raise _without_images()
        graphdef, state = nnx.split(model)
        num_classes = _number_of_logits(graphdef, *_layout((state, nnx.State({}), first['image'])))
        batches = itertools.chain([first], batches)
    return means(totals_of(model, batches, num_classes), num_classes)


def _without_images() -> ValueError:
    return ValueError('evaluate: got no images, expected at least one')


def means(totals: np.ndarray, num_classes: int) -> dict[str, float]:
    """What `evaluate` returns, from `totals_of` all images or from the sum of several parts' totals."""
    loss, correct, in_five, count = totals.tolist()
    if count == 0:
        raise _without_images()
    result = {'loss': loss / count, 'accuracy': correct / count, 'count': int(count)}
    return result | ({'top5_accuracy': in_five / count} if num_classes > 5 else {})


def totals_of(model: Any, batches: Iterable[Batch], num_classes: int | None = None) -> np.ndarray:
    """Sum of the losses, numbers of correct predictions, of labels in the top five and of images; batches may be empty."""
    mesh = own_devices()
    logits, size, totals = logits_of(model, mesh), 0, np.zeros(4)
    for batch in batches:
        check_batch(batch, num_classes or model.num_classes)
        images, labels = np.asarray(batch['image']), np.asarray(batch['label'])
        count = len(images)
        if count == 0:
            continue
        size = max(size, -(-count // mesh.size) * mesh.size)
        # Filled up to the largest batch so far, so that the last, smaller one is not compiled anew.
        images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        totals += totals_of_logits(np.asarray(logits(spread(images, mesh)))[:count], labels)
    return totals


def totals_of_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As `totals_of`, from logits (N, classes) and labels (N,)."""
    loss = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))
    top5 = np.asarray(in_top5(jnp.asarray(logits), jnp.asarray(labels)))
    return np.array([loss.sum(dtype=np.float64), (logits.argmax(-1) == labels).sum(), top5.sum(), len(labels)])


def logits_of(model: Any, mesh: Mesh | None = None) -> Callable[[Any], jax.Array]:
    """images -> logits in evaluation mode, compiled once a shape; model itself is not changed.

    mesh: devices that are each given the whole model, for images spread over them; None: the model stays where it is.
    """
    if isinstance(model, PackedLayer):
        return partial(_packed_logits, model if mesh is None else replicated(model, mesh))
    graphdef, state = nnx.split(model)
    evaluating = nnx.merge(graphdef, state if mesh is None else replicated(state, mesh), copy=True)
    evaluating.eval()
    return partial(network_logits, *nnx.split(evaluating))


@jax.jit
def _packed_logits(packed: Any, images):
    return packed(images)


@partial(jax.jit, static_argnums=0)
def network_logits(graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    """The logits of a network given by its structure and arrays, compiled once a shape."""
    return nnx.merge(graphdef, state, copy=True)(images)
