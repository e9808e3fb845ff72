"""What training minimizes, as a value: from images, logits and labels to one number an image."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax


class Loss(Protocol):
    """A callable pytree: (images, logits, labels) -> (N,), what is minimized, of each image.

    Its arrays travel with the state and are not trained. Where an attribute `takes_classes` is true, labels are classes (see
    `batch.as_batch`); else they are what the batch has, of any shape and dtype. `check` may be left out.
    """

    def check(self, model: Any) -> None:
        """Raises ValueError for a model that this loss does not fit; `init` asks before the first step."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array: ...


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of every image, (N,), in nats; NaN for a label that is not a class.

    labels: (N,) integers; or (N, classes) floating, the share of each class, of which it is the expectation.
    """
    if labels.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))
    valid = (labels >= 0) & (labels < logits.shape[-1])
    # An index out of range gives no error inside jit, so another one is looked up, and the loss is NaN.
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    return jnp.where(valid, loss, jnp.nan)


def as_loss(loss: Any) -> 'Loss':
    """A loss as a value of `TrainState`: itself if it is one, a plain function as a `FunctionLoss`.

    Raises:
        TypeError: for what cannot be called with (logits, labels) or (images, logits, labels).
    """
    expected = (
        'expected a Loss such as CrossEntropy(), or a function (logits, labels) or (images, logits, labels) -> (N,)'
    )
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(f'loss: got {loss!r}, {expected}')
    if jax.tree.structure(loss) != jax.tree.structure(0):
        return loss  # A pytree, with arrays of its own.  # pyright: ignore[reportReturnType]
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(f'loss: got {loss!r}, whose arguments cannot be seen; {expected}') from error
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    if needed > 3 or len(positional) < 2:
        raise TypeError(f'loss: got {loss!r} with {len(positional)} arguments, {needed} of them needed; {expected}')
    return FunctionLoss(loss, takes_images=needed == 3)  # pyright: ignore[reportArgumentType]


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=['function', 'takes_images'])
@dataclasses.dataclass(frozen=True)
class FunctionLoss:
    """A plain function as a loss, with labels of its own kind."""

    function: Callable[..., jax.Array]
    takes_images: bool

    def check(self, model: Any) -> None:
        """Nothing to check."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        with jax.numpy_dtype_promotion('standard'):  # functions of users and of Optax rely on it
            return self.function(images, logits, labels) if self.takes_images else self.function(logits, labels)


def takes_classes(loss: Any) -> bool:
    """Whether a loss takes classes, or shares of them, as labels; others take labels of their own kind."""
    return getattr(loss, 'takes_classes', False)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """`cross_entropy` of logits and labels, whatever the images; it fits every model."""

    takes_classes = True

    def check(self, model: Any) -> None:
        """Nothing to check."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels)


def squared_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over classes of max(0, 1 - t y)^2, t = +1 for the label's class and -1 for all others, of every image.

    Gradient to the logits: -2 t max(0, 1 - t y) / classes. logits: (N, classes), labels: (N,), or shares p of classes
    (N, classes), t = 2 p - 1; returns (N,), and NaN for a label that is not a class. Source: the output of BinaryConnect's
    and BinaryNet's code ("L2-SVM", arXiv:1511.00363, 3.1).
    """
    if labels.ndim == logits.ndim:
        targets, valid = 2 * labels.astype(logits.dtype) - 1, jnp.isfinite(labels).all(-1)
    else:
        classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)[None]
        targets = jnp.where(classes == labels[:, None], 1, -1).astype(logits.dtype)
        valid = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(valid, jnp.square(jnp.maximum(1 - targets * logits, 0)).mean(-1), jnp.nan)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class SquaredHinge:
    """`squared_hinge` of logits and labels, whatever the images; it fits every model.

    The loss of a training step is then this, not in nats; that of `evaluate` is the cross-entropy all the same.
    """

    takes_classes = True

    def check(self, model: Any) -> None:
        """Nothing to check."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return squared_hinge(logits, labels)
