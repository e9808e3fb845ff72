"""Evaluation: the logits of a network, and what they are worth on images with labels."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.training.batch import Batch, are_classes, as_batch, is_batch
from bnn_jax.training.devices import own_devices, replicated, spread
from bnn_jax.training.loss import CrossEntropy, Loss, as_loss, takes_classes
from bnn_jax.training.measures import (
    check_logits,
    classes_of,
    each_loss,
    in_top5,
    layout,
    named_classes,
    shape_of_logits,
)

_CROSS_ENTROPY = CrossEntropy()


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
    return classes_of(shape_of_logits(graphdef, *layout((state, nnx.State({}), image))))


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


def evaluation_loss(loss: Loss, labels: Any) -> Loss:
    """What is averaged over test images: the cross-entropy, in nats, whichever loss of classes is minimized; a loss of one's
    own itself.

    Args:
        loss: of the run.
        labels: some of its test labels; classes that are shares are left to the loss of the run.
    """
    return CrossEntropy() if takes_classes(loss) and are_classes(labels) else loss


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
        check_logits(batch_logits, images, num_classes, loss)
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
    names, correct, top5 = named_classes(loss, given, labels), np.full(count, np.nan), np.zeros(count)
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
