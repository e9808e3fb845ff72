"""One training step, from loss to metrics."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from bnn_jax.nn.containers import Network
from bnn_jax.ops.meshes import automatically, is_explicit
from bnn_jax.training.batch import Batch, are_classes, as_batch
from bnn_jax.training.loss import cross_entropy, takes_classes
from bnn_jax.training.measures import (
    accuracies_of,
    check_logits,
    classes_of,
    each_loss,
    gradient_norm,
    layout,
    mean,
    named_classes,
    shape_of_logits,
)
from bnn_jax.training.state import TrainState, is_trained, with_progress


def update(
    state: TrainState, batch: dict[str, Any], extra_args: dict[str, Any] | None = None, *, parts: int = 1
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`train_step` without its checks, not yet compiled: gradient of the mean loss, one update of the chain.

    parts: the batch is computed in so many parts one after another (part i: the images i, i + parts, ..., so that each part
    lies on all devices), which needs the memory of one; loss and gradient are the means over them. Every part is normalized
    by itself, and moves the running statistics.
    """
    rest, batch = with_progress(state), _prepared(batch)
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

    # What optimizers ask for beside the gradient: plateaus the loss, line searches and SAM functions of the parameters.
    def value_fn(params, *_, grad_fn=None):  # Line searches hand on whatever else they are given.
        return _loss(state, params, with_progress(state), batch)[0]

    offered = {'value': metrics['loss'], 'grad': gradient, 'value_fn': value_fn, 'grad_fn': jax.grad(value_fn)}
    tx = optax.with_extra_args_support(state.tx)
    with jax.numpy_dtype_promotion('standard'):  # optax relies on it (Adam's b1 ** count), where a user forbids it
        updates, opt_state = tx.update(gradient, state.opt_state, state.params, **offered | (extra_args or {}))
    params = optax.apply_updates(state.params, updates)
    metrics |= {'gradient_norm': gradient_norm(gradient)}
    state = dataclasses.replace(state, step=state.step + 1, params=params, rest=rest, opt_state=opt_state)
    return state, metrics


def _prepared(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with weights that have the mean 1, so that a mean over parts is that over the batch."""
    if 'weight' not in batch:
        return batch
    return batch | {'weight': batch['weight'] / batch['weight'].mean()}


def _gradient(state: TrainState, rest: nnx.State, batch: dict[str, Any]):
    """Returns updated non-trainable state, and (metrics, gradient)."""
    of_params = jax.value_and_grad(lambda params: _loss(state, params, rest, batch), has_aux=True)
    (loss, (logits, left)), gradient = of_params(state.params)
    labels = named_classes(state.loss, logits, batch['label'])
    named = {} if labels is None else accuracies_of(logits, labels, batch.get('weight'), loss.dtype)
    return left, ({'loss': loss} | named, gradient)


def _loss(state: TrainState, params: nnx.State, rest: nnx.State, batch: dict[str, Any]):
    """The mean loss of a batch, and (logits, updated non-trainable state)."""
    model = nnx.merge(state.graphdef, params, rest, copy=True)
    images, labels, weight = batch['image'], batch['label'], batch.get('weight')
    logits, auxiliary = _answers(model, images)
    check_logits(logits, images, state.num_classes, state.loss)
    loss = mean(each_loss(state.loss, images, logits, labels), weight)
    for share, auxiliary_logits in auxiliary:
        own = cross_entropy if takes_classes(state.loss) or are_classes(labels) else partial(state.loss, images)
        loss += share * mean(own(auxiliary_logits, labels), weight)
    return loss, (logits, nnx.state(model, nnx.Not(is_trained)))


def _answers(model: Any, images: Any) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
    """The logits of any model, and those of the auxiliary heads of a network that has them."""
    return model.with_auxiliary(images) if isinstance(model, Network) else (model(images), ())


# No buffers are donated: the caller may go on with the state that it gave.
@jax.jit
def _compiled(state: TrainState, batch: dict[str, Any], extra_args: dict[str, Any]):
    if is_explicit(batch):
        return automatically(update, PartitionSpec(), state, batch, extra_args)
    return update(state, batch, extra_args)


def train_step(state: TrainState, batch: Batch, **extra_args: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: state and a batch to the next state and metrics, compiled once a shape. state stays usable.

    Args:
        state: as `init` makes it.
        batch: {'image': ..., 'label': ...} or (images, labels), of NumPy or JAX arrays, PyTorch tensors or lists; images
            (N, H, W, C), floating. Labels are classes, (N,) or (N, 1), integers of any width, or shares of classes (one-hot,
            smoothed, mixed), (N, classes); of a loss of your own they are whatever that takes, N of them. With a third part,
            `weight` (N,), loss and accuracies are means weighted by it, sum w x / sum w.
        extra_args: arrays that the optimizer takes beside those that it is always given: `value` (the loss), `grad`,
            `value_fn` and `grad_fn` (functions of the parameters, for line searches and the like).

    Returns:
        The next state, and metrics on device: `loss` (mean of the state's loss, nats, plus the weighted losses of auxiliary
        heads, where the model has any), `gradient_norm`, and where labels are classes `accuracy` (of this batch, in training
        mode) and, of more than five classes, `top5_accuracy` (see `in_top5`).

    Raises:
        ValueError: for labels out of range where they are NumPy arrays (elsewhere the loss becomes NaN), for logits of
            another width than the classes, for a batch of other keys or lengths, and as the model does.
        TypeError: for labels of another dtype, and as the model does.

    Example:
        >>> import bnn_jax as bnn, numpy as np, optax
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.XNOR, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> state = bnn.training.init(model, optax.adam(1e-2))
        >>> images, labels = np.ones((4, 2, 2, 1), np.float32), [0, 1, 2, 0]
        >>> state, metrics = bnn.training.train_step(state, (images, labels))
        >>> int(state.step)
        1
    """
    return _compiled(state, _taken(state, batch), extra_args)


def _taken(state: TrainState, batch: Batch) -> dict[str, Any]:
    """The batch as the compiled step takes it."""
    taken = as_batch(batch, state.num_classes, classes=takes_classes(state.loss))
    image = taken['image']
    if not image.shape[0]:
        raise ValueError(f'batch: got an empty batch of shape {image.shape}, expected at least one image')
    if state.num_classes is None and isinstance(taken['label'], np.ndarray) and are_classes(taken['label']):
        # A module that does not say how many logits it has; from their shape, asked once.
        shape = shape_of_logits(state.graphdef, *layout((state.params, state.rest, image)))
        taken = as_batch(taken, classes_of(shape), classes=takes_classes(state.loss))
    return taken
