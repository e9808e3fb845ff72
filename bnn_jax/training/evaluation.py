"""Evaluation: the logits of a network, and its loss and accuracy on labeled images."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64

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
    """Loss and accuracy of a model over batches of images, in evaluation mode. Each image counts once or by its weight.

    Args:
        model: a trained or a packed network, or any `nnx.Module` that is called with images; it is not changed.
        batches: as `train_step` takes them, or a single batch: a dictionary, or a tuple or list of arrays. They are
            spread over the devices of this host. A smaller batch is padded, so that nothing is compiled for it.
        loss: what is averaged, as for `init`; by default the cross-entropy, in nats.

    Returns:
        `loss`, the mean, and `count`, the number of images. If labels are classes or shares of classes, as in
        `train_step`, also `accuracy`, and for more than five classes `top5_accuracy`. If batches have a `weight`, loss
        and accuracies are weighted means.

    Raises:
        ValueError: there is no image, or labels or logits do not fit, as in `train_step`.
        TypeError: as `train_step`.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> bnn.training.evaluate(model, (np.ones((4, 2, 2, 1), np.float32), np.array([0, 1, 2, 0])))['count']
        4
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
    """The number of classes of a module without `num_classes`, from the shape of its logits."""
    graphdef, state = nnx.split(model)
    return classes_of(shape_of_logits(graphdef, *layout((state, nnx.State({}), image))))


def have_cross_entropy(model: Any, batch: dict[str, Any], loss: Loss) -> bool:
    """Whether the cross-entropy of test images is defined: their labels are classes of the network.

    Args:
        model: the model of the run.
        batch: some of its test images, as arrays.
        loss: the loss of the run; a user's own loss of a single logit may take integer labels that are not classes.
    """
    if not are_classes(batch['label']) or takes_classes(loss):
        return are_classes(batch['label'])
    return (getattr(model, 'num_classes', None) or _classes_asked(model, batch['image']) or 1) > 1


def evaluation_loss(loss: Loss, labels: Any) -> Loss:
    """The loss that is averaged over test images.

    For classes it is the cross-entropy in nats, even if the run minimizes another loss that takes classes, so that runs
    can be compared. For shares of classes, and for the labels of a user's own loss, it is the loss of the run.

    Args:
        loss: the loss of the run.
        labels: some of its test labels.
    """
    return CrossEntropy() if takes_classes(loss) and are_classes(labels) else loss


def _without_images() -> ValueError:
    return ValueError('evaluate: got no images, expected at least one')


def means(totals: Float64[np.ndarray, '5'], num_classes: int | None) -> dict[str, float]:
    """The result of `evaluate`.

    Args:
        totals: `totals_of` all images, or the sum over several parts of them.
        num_classes: the number of classes of the network; None: not known.

    Raises:
        ValueError: there is no image.
    """
    loss, correct, in_five, count, weight = totals.tolist()
    if count == 0:
        raise _without_images()
    result = {'loss': loss / weight}
    if not np.isnan(correct):  # NaN if labels name no classes.
        result['accuracy'] = correct / weight
    result['count'] = int(count)
    if 'accuracy' in result and num_classes is not None and num_classes > 5:
        result['top5_accuracy'] = in_five / weight
    return result


def totals_of(
    model: Any, batches: Iterable[Batch], num_classes: int | None = None, loss: Loss = _CROSS_ENTROPY
) -> Float64[np.ndarray, '5']:
    """Sum what `means` needs over the images of some batches.

    Args:
        model: as for `evaluate`.
        batches: batches as `train_step` takes them; there may be none.
        num_classes: the number of classes of the network; None: not known.
        loss: what is averaged.

    Returns:
        (5,): weighted sums of the loss, of correct predictions (NaN if labels name no classes) and of labels in the top
        five; the number of images; the sum of weights.
    """
    mesh = own_devices()
    if jax.sharding.get_abstract_mesh().explicit_axes:
        # Evaluation spreads images over its own mesh, which JAX refuses inside another explicit one.
        with jax.set_mesh(mesh):
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
        # Padded to the size of the largest batch so far, so that nothing is compiled for the last, smaller batch.
        padded = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        batch_logits = np.asarray(logits(spread(padded, mesh)))[:count]
        check_logits(batch_logits, images, num_classes, loss)
        totals += totals_of_logits(batch_logits, labels, loss, images, batch.get('weight'))
    return totals


def totals_of_logits(
    logits: Float[np.ndarray, ' N *out'],
    labels: Any,
    loss: Loss = _CROSS_ENTROPY,
    images: Any = None,
    weight: Any = None,
) -> Float64[np.ndarray, '5']:
    """Compute the sums that `totals_of` returns, from logits that are known.

    Args:
        logits: the logits of all images.
        labels: as `as_batch` prepares them.
        loss: what is averaged.
        images: for a loss that reads them.
        weight: the weight of each image; None: all alike.
    """
    count, (given, labels) = len(logits), jax.device_put((logits, labels))
    each = np.asarray(each_loss(loss, images, given, labels), np.float64)
    each = np.full(count, each) if each.ndim == 0 else each.reshape(count, -1).mean(1)
    weight = np.ones(count) if weight is None else np.asarray(weight, np.float64)
    names, correct, top5 = named_classes(loss, given, labels), np.full(count, np.nan), np.zeros(count)
    if names is not None:
        correct, top5 = np.asarray(given.argmax(-1) == names), np.asarray(in_top5(given, names))
    return np.array([(each * weight).sum(), (correct * weight).sum(), (top5 * weight).sum(), count, weight.sum()])


def logits_of(
    model: Any, mesh: Mesh | None = None
) -> Callable[[Float[Array | np.ndarray, 'N H W C']], Float[Array, 'N classes']]:
    """A function from images to logits in evaluation mode, compiled once for each shape.

    Args:
        model: as for `evaluate`; it is not changed.
        mesh: devices that each get the whole model, for images that are spread over them. None: the model stays where it is.

    Returns:
        The function.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> bnn.training.logits_of(model)(np.ones((4, 2, 2, 1), np.float32)).shape
        (4, 3)
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
def network_logits(
    graphdef: nnx.GraphDef, state: nnx.State, images: Float[Array, 'N H W C']
) -> Float[Array, 'N classes']:
    """The logits of a network, compiled once for each shape.

    Args:
        graphdef: the structure of the network.
        state: its arrays.
        images: normalized as in training.
    """
    return nnx.merge(graphdef, state, copy=True)(images)
