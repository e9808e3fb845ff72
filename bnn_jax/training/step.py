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
from jax.sharding import Mesh, PartitionSpec

from bnn_jax.nn.containers import Network
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.ops.meshes import automatically, is_explicit
from bnn_jax.training.batch import Batch, are_classes, as_batch, is_batch
from bnn_jax.training.devices import own_devices, replicated, spread
from bnn_jax.training.loss import CrossEntropy, Loss, as_loss, cross_entropy, takes_classes
from bnn_jax.training.state import TrainState, is_trained, with_progress

_CROSS_ENTROPY = CrossEntropy()


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
    labels = _named_classes(state.loss, logits, batch['label'])
    named = {} if labels is None else _accuracies(logits, labels, batch.get('weight'), loss.dtype)
    return left, ({'loss': loss} | named, gradient)


def _loss(state: TrainState, params: nnx.State, rest: nnx.State, batch: dict[str, Any]):
    """The mean loss of a batch, and (logits, updated non-trainable state)."""
    model = nnx.merge(state.graphdef, params, rest, copy=True)
    images, labels, weight = batch['image'], batch['label'], batch.get('weight')
    logits, auxiliary = _answers(model, images)
    _check_logits(logits, images, state.num_classes, state.loss)
    loss = _mean(each_loss(state.loss, images, logits, labels), weight)
    for share, auxiliary_logits in auxiliary:
        own = cross_entropy if takes_classes(state.loss) or are_classes(labels) else partial(state.loss, images)
        loss += share * _mean(own(auxiliary_logits, labels), weight)
    return loss, (logits, nnx.state(model, nnx.Not(is_trained)))


def _answers(model: Any, images: Any) -> tuple[jax.Array, tuple[tuple[float, jax.Array], ...]]:
    """The logits of any model, and those of the auxiliary heads of a network that has them."""
    return model.with_auxiliary(images) if isinstance(model, Network) else (model(images), ())


def _mean(each: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The mean over all images, weighted where there are weights (of mean 1)."""
    if weight is None:
        return each.mean()
    if each.ndim == 0:
        raise ValueError('loss: got one number for the batch, expected one an image, (N,), for the batch has a weight')
    return (each.reshape(each.shape[0], -1).mean(1) * weight.astype(each.dtype)).mean()


def each_loss(loss: Loss, images: jax.Array, logits: jax.Array, labels: Any) -> jax.Array:
    """loss(images, logits, labels). Raises ValueError unless that is one number, or one or more for each image."""
    values, count = jnp.asarray(loss(images, logits, labels)), logits.shape[0]
    shapes = f'logits {jnp.shape(logits)} and labels {jax.tree.map(jnp.shape, labels)}'
    if values.ndim and values.shape[0] != count:
        raise ValueError(f'loss: got shape {values.shape} for {shapes}, expected one number an image, ({count},)')
    if values.shape == (count, count) and jnp.shape(logits) != (count, count):
        raise ValueError(
            f'loss: got shape {values.shape} for {shapes}, each image with each label, expected one number an image, '
            f'({count},); give both the same shape'
        )
    return values


def _check_logits(logits: Any, images: Any, num_classes: int | None, loss: Loss) -> None:
    """Raises ValueError for logits that are none of these classes."""
    shape = jnp.shape(logits)
    if takes_classes(loss) and (len(shape) != 2 or shape[0] != images.shape[0]):
        raise ValueError(
            f'logits: got shape {shape} for images {images.shape}, expected (N, classes); take a mean over other axes in the '
            'model, or give a loss of your own'
        )
    if num_classes is not None and shape[-1:] != (num_classes,):
        raise ValueError(
            f'logits: got shape {shape}, expected {num_classes} of each image, the num_classes of the model; change either'
        )


def _named_classes(loss: Loss, logits: jax.Array, labels: Any) -> jax.Array | None:
    """The classes that prepared labels name, (N,); None where they name none."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        return None
    if are_classes(labels):
        return labels
    return labels.argmax(-1).astype(jnp.int32) if takes_classes(loss) else None


def gradient_norm(gradient: Any) -> jax.Array:
    """The square root of the sum of squares of all numbers of a gradient, as `train_step` measures it; None counts nothing."""
    return optax.tree.norm(gradient)


def accuracies(logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None) -> dict[str, jax.Array]:
    """`accuracy` and, of more than five classes, `top5_accuracy` of a batch, as `train_step` measures them.

    Args:
        logits: (N, classes).
        labels: (N,) integers, or shares of classes (N, classes), whose largest is the label.
        weight: (N,), of each image; None: all alike.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.training.accuracies(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))['accuracy']
        Array(0.5, dtype=float32)
    """
    labels = labels.argmax(-1).astype(jnp.int32) if labels.ndim == logits.ndim else labels
    weight = None if weight is None else weight / weight.mean()
    return _accuracies(logits, labels, weight, logits.dtype)


def _accuracies(logits: jax.Array, labels: jax.Array, weight: jax.Array | None, dtype: Any) -> dict[str, jax.Array]:
    correct = logits.argmax(-1).astype(labels.dtype) == labels
    found = {'accuracy': _mean(correct.astype(dtype), weight)}
    if logits.shape[-1] > 5:
        found['top5_accuracy'] = _mean(in_top5(logits, labels).astype(dtype), weight)
    return found


def in_top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether fewer than five logits are larger than the label's, (N,); never where that one is NaN."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return (~(logits <= own)).sum(-1) < 5  # not `>`, of which a NaN has none


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
        shape = _shape_of_logits(state.graphdef, *_layout((state.params, state.rest, image)))
        taken = as_batch(taken, _classes_of(shape), classes=takes_classes(state.loss))
    return taken


def _classes_of(shape: tuple[int, ...]) -> int | None:
    return shape[1] if len(shape) == 2 and shape[1] > 1 else None


def _layout(tree: Any) -> tuple[Any, tuple]:
    """Structure, shapes and dtypes of a tree of arrays, hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


@lru_cache(maxsize=64)
def _shape_of_logits(graphdef: nnx.GraphDef, structure: Any, leaves: tuple) -> tuple[int, ...]:
    """That of a module that does not say it before it is called, from shapes alone."""

    def logits(params, rest, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images)  # pyright: ignore[reportCallIssue]

    return jax.eval_shape(
        logits, *jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    ).shape


def evaluate(model: Any, batches: Iterable[Batch], loss: Any = _CROSS_ENTROPY) -> dict[str, float]:
    """Mean loss and number of images over batches, every image counted once, in evaluation mode.

    Where labels are classes, `accuracy` as well, and of more than five classes `top5_accuracy`.

    Args:
        model: a trained or a packed network, or any `nnx.Module` that is called with images; it is not changed.
        batches: as `train_step` takes them, or one of them; a smaller one is padded, so that it compiles once, and spread
            over the devices of this host.
        loss: what is averaged, as for `init`; by default the cross-entropy, in nats.

    Raises:
        ValueError: if there is no image at all, and as `train_step` for labels and logits.
        TypeError: as `train_step`.
    """
    loss = as_loss(loss)
    if is_batch(batches):
        batches = [batches]  # pyright: ignore[reportAssignmentType]
    batches, num_classes = iter(batches), getattr(model, 'num_classes', None)
    if num_classes is None:
        first = next(batches, None)
        if first is None:
            raise _without_images()
        image = as_batch(first, None, classes=takes_classes(loss))['image']
        num_classes, batches = _classes_asked(model, image), itertools.chain([first], batches)
    return means(totals_of(model, batches, num_classes, loss), num_classes)


def _classes_asked(model: nnx.Module, image: Any) -> int | None:
    """The number of classes of a module that does not say it, from the shape of its logits."""
    graphdef, state = nnx.split(model)
    return _classes_of(_shape_of_logits(graphdef, *_layout((state, nnx.State({}), image))))


def have_cross_entropy(model: Any, batch: dict[str, Any], loss: Loss) -> bool:
    """Whether test images have a cross-entropy beside the loss of training: labels that are classes of the network.

    Args:
        model: of the run.
        batch: some of its test images, arrays.
        loss: of the run; one of its own kind may take integers that count, for one logit.
    """
    if not are_classes(batch['label']) or takes_classes(loss):
        return are_classes(batch['label'])
    return (getattr(model, 'num_classes', None) or _classes_asked(model, batch['image']) or 1) > 1


def _without_images() -> ValueError:
    return ValueError('evaluate: got no images, expected at least one')


def means(totals: np.ndarray, num_classes: int | None) -> dict[str, float]:
    """What `evaluate` returns, from `totals_of` all images or from the sum of several parts' totals."""
    loss, correct, in_five, count, weight = totals.tolist()
    if count == 0:
        raise _without_images()
    result = {'loss': loss / weight}
    if not np.isnan(correct):  # Labels were no classes.
        result['accuracy'] = correct / weight
    result['count'] = int(count)
    if 'accuracy' in result and num_classes is not None and num_classes > 5:
        result['top5_accuracy'] = in_five / weight
    return result


def totals_of(
    model: Any, batches: Iterable[Batch], num_classes: int | None = None, loss: Loss = _CROSS_ENTROPY
) -> np.ndarray:
    """Sums over images of loss, of correct predictions and of labels in the top five, all weighted; numbers of images and
    sum of weights. Correct ones are NaN where labels are no classes. batches may be empty."""
    mesh = own_devices()
    if jax.sharding.get_abstract_mesh().explicit_axes:
        with jax.set_mesh(mesh):  # The images are spread over a mesh of their own.
            return totals_of(model, batches, num_classes, loss)
    logits, size, totals = logits_of(model, mesh), 0, np.zeros(5)
    for given in batches:
        num_classes = num_classes or getattr(model, 'num_classes', None)
        batch = as_batch(given, num_classes, classes=takes_classes(loss))
        images, labels = np.asarray(batch['image']), jax.tree.map(np.asarray, batch['label'])
        count = len(images)
        if count == 0:
            continue
        size = max(size, -(-count // mesh.size) * mesh.size)
        # Filled up to the largest batch so far, so that the last, smaller one is not compiled anew.
        padded = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        batch_logits = np.asarray(logits(spread(padded, mesh)))[:count]
        _check_logits(batch_logits, images, num_classes, loss)
        totals += totals_of_logits(batch_logits, labels, loss, images, batch.get('weight'))
    return totals


def totals_of_logits(
    logits: np.ndarray, labels: Any, loss: Loss = _CROSS_ENTROPY, images: Any = None, weight: Any = None
) -> np.ndarray:
    """As `totals_of`, from the logits of all images, and labels as `as_batch` prepares them."""
    count, given, labels = len(logits), jnp.asarray(logits), jax.tree.map(jnp.asarray, labels)
    each = np.asarray(each_loss(loss, images, given, labels), np.float64)
    each = np.full(count, each) if each.ndim == 0 else each.reshape(count, -1).mean(1)
    weight = np.ones(count) if weight is None else np.asarray(weight, np.float64)
    names, correct, top5 = _named_classes(loss, given, labels), np.full(count, np.nan), np.zeros(count)
    if names is not None:
        correct, top5 = np.asarray(given.argmax(-1) == names), np.asarray(in_top5(given, names))
    return np.array([(each * weight).sum(), (correct * weight).sum(), (top5 * weight).sum(), count, weight.sum()])


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
