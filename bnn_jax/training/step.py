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
from jaxtyping import Array, Float

from bnn_jax.nn.containers import Network
from bnn_jax.ops.meshes import automatically, is_explicit
from bnn_jax.optim.projected import taking_extra_args
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
) -> tuple[TrainState, dict[str, Float[Array, '']]]:
    """Make one update from the gradient of the mean loss: `train_step` without checks of the batch, not yet compiled.

    Args:
        state: before the step.
        batch: as `batch.as_batch` prepares it.
        extra_args: as for `train_step`.
        parts: into how many parts the batch is split. They are computed one after the other, so they need the memory of
            one part. Metrics and gradient are means over the parts. Batch normalization sees each part alone, and each
            part moves its running statistics.

    Returns:
        The next state, and the metrics.
    """
    rest, batch = with_progress(state), _prepared(batch)
    if parts == 1:
        rest, (metrics, gradient) = _gradient(state, rest, batch)
    else:
        # Part i has the images i, i + parts, ..., so that each part lies on all devices.
        one_after_another = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), batch)
        first, others = (jax.tree.map(lambda a, s=s: a[s], one_after_another) for s in (0, slice(1, None)))

        def add(done, part):
            rest, total = done
            rest, of_part = _gradient(state, rest, part)
            return (rest, jax.tree.map(jnp.add, total, of_part)), None

        (rest, total), _ = jax.lax.scan(add, _gradient(state, rest, first), others)
        metrics, gradient = jax.tree.map(lambda a: a / parts, total)

    # Some optimizers need more than the gradient: a plateau needs the loss, line searches and SAM need functions of the
    # parameters. A line search passes the arguments that it does not use to `value_fn`, which therefore accepts `grad_fn`.
    def value_fn(params, *_, grad_fn=None):
        return _loss(state, params, with_progress(state), batch)[0]

    offered = {'value': metrics['loss'], 'grad': gradient, 'value_fn': value_fn, 'grad_fn': jax.grad(value_fn)}
    tx = taking_extra_args(state.tx)
    # Optax mixes dtypes (Adam's b1 ** count); a user may have forbidden that for all other code.
    with jax.numpy_dtype_promotion('standard'):
        updates, opt_state = tx.update(gradient, state.opt_state, state.params, **offered | (extra_args or {}))
    params = optax.apply_updates(state.params, updates)
    metrics |= {'gradient_norm': gradient_norm(gradient)}
    state = dataclasses.replace(state, step=state.step + 1, params=params, rest=rest, opt_state=opt_state)
    return state, metrics


def _prepared(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its weights scaled to mean 1, so that a mean over parts is the mean over the batch."""
    if 'weight' not in batch:
        return batch
    return batch | {'weight': batch['weight'] / batch['weight'].mean()}


def _gradient(state: TrainState, rest: nnx.State, batch: dict[str, Any]):
    """The updated non-trainable state, and (metrics, gradient)."""
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
    # If the loss takes classes or the labels are classes, the loss of an auxiliary head is the cross-entropy; otherwise it is
    # the user's own loss.
    for share, auxiliary_logits in auxiliary:
        own = cross_entropy if takes_classes(state.loss) or are_classes(labels) else partial(state.loss, images)
        loss += share * mean(own(auxiliary_logits, labels), weight)
    return loss, (logits, nnx.state(model, nnx.Not(is_trained)))


def _answers(model: Any, images: Any) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
    """The logits of a model, and (weight, logits) of each of its auxiliary heads."""
    return model.with_auxiliary(images) if isinstance(model, Network) else (model(images), ())


# No buffers are donated: the caller may still use the old state.
@jax.jit
def _compiled(state: TrainState, batch: dict[str, Any], extra_args: dict[str, Any]):
    if is_explicit(batch):
        return automatically(update, PartitionSpec(), state, batch, extra_args)
    return update(state, batch, extra_args)


def train_step(state: TrainState, batch: Batch, **extra_args: Any) -> tuple[TrainState, dict[str, Float[Array, '']]]:
    """One update of the parameters from one batch, compiled once for each shape.

    Args:
        state: as `init` returns it. It stays usable.
        batch: {'image': ..., 'label': ...} or (images, labels), of NumPy or JAX arrays, PyTorch tensors or lists. Images are
            (N, H, W, C), floating. Labels are classes, integers (N,) or (N, 1); or shares of classes (one-hot, smoothed,
            mixed), (N, classes); or, for a loss of your own, any labels that it takes, one for each image. A third part
            `weight`, (N,), makes loss and accuracies weighted means, sum w x / sum w.
        extra_args: arrays for the optimizer beside those that it always gets: `value` (the loss), `grad`, `value_fn` and
            `grad_fn` (functions of the parameters, for line searches and the like).

    Returns:
        The next state, and metrics as scalars on the device: `loss` (in nats for the cross-entropy; auxiliary heads add their
        weighted losses) and `gradient_norm`. If labels are classes, or shares of classes with a loss that takes them, also
        `accuracy` (of this batch, in training mode) and, with more than five classes, `top5_accuracy`.

    Raises:
        ValueError: labels in a NumPy array are out of range (in a JAX array the loss becomes NaN), logits and classes
            differ in number, the batch is empty, lacks a key or has fields of different lengths; or as
            `batch.as_batch`; or the model raises it.
        TypeError: the batch has another form, labels have another dtype, or the loss is not an array; or the model
            raises it.

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
    """The batch as the compiled step takes it, after all checks."""
    taken = as_batch(batch, state.num_classes, classes=takes_classes(state.loss))
    image = taken['image']
    if not image.shape[0]:
        raise ValueError(f'batch: got an empty batch of shape {image.shape}, expected at least one image')
    if state.num_classes is None and isinstance(taken['label'], np.ndarray) and are_classes(taken['label']):
        # The module has no `num_classes`, so take it from the shape of the logits, which is found once for each shape of batch.
        shape = shape_of_logits(state.graphdef, *layout((state.params, state.rest, image)))
        taken = as_batch(taken, classes_of(shape), classes=takes_classes(state.loss))
    return taken
