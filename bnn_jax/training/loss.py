"""What training minimizes, as a value: from images, logits and labels to one number an image."""

import dataclasses
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax


class Loss(Protocol):
    """A callable pytree: (images, logits, labels) -> (N,), what is minimized, of each image.

    Its arrays travel with the state and are not trained.
    """

    def check(self, model: Any) -> None:
        """Raises ValueError for a model that this loss does not fit; `init` asks before the first step."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array: ...


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of every image, (N,), in nats; NaN for a label that is not a class."""
    valid = (labels >= 0) & (labels < logits.shape[-1])
    # An index out of range gives no error inside jit, so another one is looked up, and the loss is NaN.
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    return jnp.where(valid, loss, jnp.nan)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """`cross_entropy` of logits and labels, whatever the images; it fits every model."""

    def check(self, model: Any) -> None:
        """Nothing to check."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels)


def squared_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over classes of max(0, 1 - t y)^2, t = +1 for the label's class and -1 for all others, of every image.

    Gradient to the logits: -2 t max(0, 1 - t y) / classes. logits: (N, classes), labels: (N,); returns (N,), and NaN for a
    label that is not a class. Source: the output of BinaryConnect's and BinaryNet's code ("L2-SVM", arXiv:1511.00363, 3.1).
    """
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

    def check(self, model: Any) -> None:
        """Nothing to check."""

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return squared_hinge(logits, labels)
