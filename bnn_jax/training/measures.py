"""What is measured of logits and labels: the loss of each image, and accuracies; what does not fit is refused."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bnn_jax.training.batch import are_classes
from bnn_jax.training.loss import Loss, takes_classes


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


def check_logits(logits: Any, images: Any, num_classes: int | None, loss: Loss) -> None:
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


def mean(each: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The mean over all images, weighted where there are weights (of mean 1)."""
    if weight is None:
        return each.mean()
    if each.ndim == 0:
        raise ValueError('loss: got one number for the batch, expected one an image, (N,), for the batch has a weight')
    return (each.reshape(each.shape[0], -1).mean(1) * weight.astype(each.dtype)).mean()


def named_classes(loss: Loss, logits: jax.Array, labels: Any) -> jax.Array | None:
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
    return accuracies_of(logits, labels, weight, logits.dtype)


def accuracies_of(logits: jax.Array, labels: jax.Array, weight: jax.Array | None, dtype: Any) -> dict[str, jax.Array]:
    """As `accuracies`, of this dtype, for labels that are classes and weights of mean 1."""
    correct = logits.argmax(-1).astype(labels.dtype) == labels
    found = {'accuracy': mean(correct.astype(dtype), weight)}
    if logits.shape[-1] > 5:
        found['top5_accuracy'] = mean(in_top5(logits, labels).astype(dtype), weight)
    return found


def in_top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether fewer than five logits are larger than the label's, (N,); never where that one is NaN."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return (~(logits <= own)).sum(-1) < 5  # not `>`, of which a NaN has none


def classes_of(shape: tuple[int, ...]) -> int | None:
    """How many classes logits of this shape name; None where they name none."""
    return shape[1] if len(shape) == 2 and shape[1] > 1 else None


def layout(tree: Any) -> tuple[Any, tuple]:
    """Structure, shapes and dtypes of a tree of arrays, hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


@lru_cache(maxsize=64)
def shape_of_logits(graphdef: nnx.GraphDef, structure: Any, leaves: tuple) -> tuple[int, ...]:
    """That of a module that does not say it before it is called, from shapes alone."""

    def logits(params, rest, images):
        return nnx.merge(graphdef, params, rest, copy=True)(images)  # pyright: ignore[reportCallIssue]

    return jax.eval_shape(
        logits, *jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    ).shape
