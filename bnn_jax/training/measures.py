"""The loss of each image, accuracies and the norm of a gradient. Checks of the shapes of logits and losses."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from bnn_jax.training.batch import are_classes
from bnn_jax.training.loss import Loss, takes_classes


def each_loss(
    loss: Loss, images: Float[Array, ' N *image'], logits: Float[Array, ' N *out'], labels: Any
) -> Float[Array, '*shape']:
    """loss(images, logits, labels): one number for the batch, or one or more for each image.

    Args:
        loss: what a run minimizes.
        images: the images of the batch.
        logits: the logits of the model.
        labels: as the loss takes them.

    Raises:
        TypeError: the loss is not an array.
        ValueError: the loss has another shape.
    """
    values, count = loss(images, logits, labels), logits.shape[0]
    if jax.tree.structure(values) != jax.tree.structure(0):
        raise TypeError(
            f'loss: got a {type(values).__name__}, expected an array of one number for each image, ({count},)'
        )
    values = jnp.asarray(values)
    shapes = f'logits {jnp.shape(logits)} and labels {jax.tree.map(jnp.shape, labels)}'
    if values.ndim and values.shape[0] != count:
        raise ValueError(f'loss: got shape {values.shape} for {shapes}, expected one number for each image, ({count},)')
    # Logits (N, 1) and labels (N,) broadcast to (N, N), which is never meant.
    if values.shape == (count, count) and jnp.shape(logits) != (count, count):
        raise ValueError(
            f'loss: got shape {values.shape} for {shapes}, one for each pair of an image and a label, expected one '
            f'number for each image, ({count},); give logits and labels the same shape'
        )
    return values


def check_logits(logits: Any, images: Any, num_classes: int | None, loss: Loss) -> None:
    """Raises ValueError for logits whose shape does not fit the images or the classes.

    Args:
        logits: the logits of the model.
        images: the images of the batch.
        num_classes: how many logits an image has; None: not known.
        loss: the loss of the run; a user's own loss may read logits of other shapes.
    """
    shape = jnp.shape(logits)
    if takes_classes(loss) and (len(shape) != 2 or shape[0] != images.shape[0]):
        raise ValueError(
            f'logits: got shape {shape} for images {images.shape}, expected (N, classes); take a mean over other axes in the '
            'model, or give a loss of your own'
        )
    if num_classes is not None and shape[-1:] != (num_classes,):
        raise ValueError(
            f'logits: got shape {shape}, expected {num_classes} for each image, the num_classes of the model; change either'
        )


def mean(each: Float[Array, '*shape'], weight: Float[Array, ' N'] | None) -> Float[Array, '']:
    """The mean over all images.

    Args:
        each: one number for the batch, or one or more for each image.
        weight: the weight of each image, with mean 1; None: all alike.

    Raises:
        ValueError: there are weights, but the loss is one number for the whole batch.
    """
    if weight is None:
        return each.mean()
    if each.ndim == 0:
        raise ValueError('loss: got one number for a batch with weights, expected one for each image, (N,)')
    return (each.reshape(each.shape[0], -1).mean(1) * weight.astype(each.dtype)).mean()


def named_classes(loss: Loss, logits: Float[Array, ' N *out'], labels: Any) -> Int[Array, ' N'] | None:
    """The class of each image, (N,): its label, or the class with the largest share. None if there are no classes.

    Args:
        loss: the loss of the run. Shares of classes count only if the loss takes classes.
        logits: the logits of the model; a single logit names no class.
        labels: as `batch.as_batch` prepares them.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        return None
    if are_classes(labels):
        return labels
    return labels.argmax(-1).astype(jnp.int32) if takes_classes(loss) else None


def gradient_norm(gradient: Any) -> Float[Array, '']:
    """The Euclidean norm of all numbers of a gradient together, as `train_step` measures it.

    Args:
        gradient: a tree of arrays; None in it is left out.

    Returns:
        A scalar.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> float(bnn.training.gradient_norm({'kernel': np.array([3.0]), 'bias': np.array([4.0])}))
        5.0
    """
    return optax.tree.norm(gradient)


def accuracies(
    logits: Float[Array, 'N classes'],
    labels: Int[Array, ' N'] | Float[Array, 'N classes'],
    weight: Float[Array, ' N'] | None = None,
) -> dict[str, Float[Array, '']]:
    """The accuracies of a batch, as `train_step` measures them.

    Args:
        logits: (N, classes).
        labels: (N,) integers, or shares of classes (N, classes), whose largest is the label.
        weight: the weight of each image, (N,); None: all alike.

    Returns:
        `accuracy` and, for more than five classes, `top5_accuracy`.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.training.accuracies(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))['accuracy']
        Array(0.5, dtype=float32)
    """
    labels = labels.argmax(-1).astype(jnp.int32) if labels.ndim == logits.ndim else labels
    weight = None if weight is None else weight / weight.mean()
    return accuracies_of(logits, labels, weight, logits.dtype)


def accuracies_of(
    logits: Float[Array, 'N classes'], labels: Int[Array, ' N'], weight: Float[Array, ' N'] | None, dtype: Any
) -> dict[str, Float[Array, '']]:
    """Compute `accuracies` in this dtype, for labels that are classes and weights with mean 1."""
    correct = logits.argmax(-1).astype(labels.dtype) == labels
    found = {'accuracy': mean(correct.astype(dtype), weight)}
    if logits.shape[-1] > 5:
        found['top5_accuracy'] = mean(in_top5(logits, labels).astype(dtype), weight)
    return found


@jax.jit
def in_top5(logits: Float[Array, 'N classes'], labels: Int[Array, ' N']) -> Bool[Array, ' N']:
    """Whether fewer than five logits exceed the label's. A logit counts as larger if it or the label's is NaN."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return (~(logits <= own)).sum(-1) < 5  # Not `>`, which is False for each comparison with NaN.


def classes_of(shape: tuple[int, ...]) -> int | None:
    """The number of classes that logits of this shape stand for; None if they stand for no classes."""
    return shape[1] if len(shape) == 2 and shape[1] > 1 else None


def layout(tree: Any) -> tuple[Any, tuple]:
    """The structure, and the shapes and dtypes, of a tree of arrays; hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


@lru_cache(maxsize=64)
def shape_of_logits(graphdef: nnx.GraphDef, structure: Any, leaves: tuple) -> tuple[int, ...]:
    """The shape of a module's logits, from shapes alone.

    Args:
        graphdef: the structure of the module.
        structure: the structure of (parameters, other state, images), the first value of `layout`.
        leaves: their shapes and dtypes, the second value of `layout`.
    """

    def logits(params, rest, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images)  # pyright: ignore[reportCallIssue]

    return jax.eval_shape(
        logits, *jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    ).shape
