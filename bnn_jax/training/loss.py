"""Losses as callable objects: (images, logits, labels) -> one number for each image."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped


class Loss(Protocol):
    """The interface of a loss: a callable pytree (images, logits, labels) -> the loss of each image, (N,).

    The state of a run holds the arrays of its loss; they are not trained. An attribute `takes_classes` that is true
    says that labels are classes or shares of classes (`batch.as_batch`). Without it labels may be any
    numbers (N, ...), except that integers (N,) are classes if there are several logits. The method `check` is optional.

    Example:
        >>> import dataclasses, jax
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class SquaredError:
        ...     def __call__(self, images, logits, labels):
        ...         return ((logits - labels) ** 2).mean(-1)
    """

    def check(self, model: Any) -> None:
        """Raises ValueError for a model that this loss does not fit; `init` calls it."""

    def __call__(
        self, images: Float[Array, ' N *image'], logits: Float[Array, ' N *out'], labels: Shaped[Array, ' N *label']
    ) -> Float[Array, ' N']: ...


def cross_entropy(
    logits: Float[Array, 'N classes'], labels: Int[Array, ' N'] | Float[Array, 'N classes']
) -> Float[Array, ' N']:
    """Softmax cross-entropy of each image.

    Forward: -log q_c for class c, or -sum_c p_c log q_c for shares p of the classes, with q = softmax(logits).

    Args:
        logits: floating.
        labels: classes, or the share of each class.

    Returns:
        Nats; NaN for a label that is not a class.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.training.cross_entropy(jnp.zeros((2, 2)), jnp.array([0, 2]))
        Array([0.6931472,       nan], dtype=float32)
    """
    return _cross_entropy(logits, labels)


# The public function has no `jax.jit` decorator. Pickle looks up a function by its name. To pickle a jitted function, it must
# pickle the plain function inside, but the name of that function would lead to the jitted one.
@jax.jit
def _cross_entropy(logits, labels):
    if labels.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))
    valid = (labels >= 0) & (labels < logits.shape[-1])
    # Inside jit an index out of range raises nothing: look up class 0 in its place, and make the loss NaN.
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0))
    return jnp.where(valid, loss, jnp.nan)


def as_loss(loss: Any) -> 'Loss':
    """Convert a loss to the form that `TrainState` holds.

    Args:
        loss: a `Loss`, or a function of (logits, labels) or (images, logits, labels).

    Returns:
        The `Loss` itself; a function becomes a `FunctionLoss`.

    Raises:
        TypeError: loss cannot be called with such arguments.
    """
    expected = (
        'expected a Loss such as CrossEntropy(), or a function (logits, labels) or (images, logits, labels) -> (N,)'
    )
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(f'loss: got {loss!r}, {expected}')
    if jax.tree.structure(loss) != jax.tree.structure(0):
        return loss  # A pytree, so a `Loss` already.  # pyright: ignore[reportReturnType]
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(f'loss: got {loss!r}, whose signature cannot be read; {expected}') from error
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    if needed > 3 or len(positional) < 2:
        raise TypeError(f'loss: got {loss!r} with {len(positional)} arguments, {needed} of them needed; {expected}')
    return FunctionLoss(loss, takes_images=needed == 3)  # pyright: ignore[reportArgumentType]


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=['function', 'takes_images'])
@dataclasses.dataclass(frozen=True)
class FunctionLoss:
    """A plain function as a loss, without `takes_classes`."""

    function: Callable[..., jax.Array]
    # Whether the function takes the images as its first argument.
    takes_images: bool

    def check(self, model: Any) -> None:
        """A function fits every model."""

    def __call__(
        self, images: Float[Array, ' N *image'], logits: Float[Array, ' N *out'], labels: Shaped[Array, ' N *label']
    ) -> Float[Array, ' N']:
        # Functions of users and of Optax mix dtypes; a user may have forbidden that for all other code.
        with jax.numpy_dtype_promotion('standard'):
            return self.function(images, logits, labels) if self.takes_images else self.function(logits, labels)


def takes_classes(loss: Any) -> bool:
    """Whether the labels of a loss are classes or shares of classes."""
    return getattr(loss, 'takes_classes', False)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The loss `cross_entropy`, for every model.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.training.CrossEntropy().takes_classes
        True
    """

    takes_classes = True

    def check(self, model: Any) -> None:
        """The cross-entropy fits every model."""

    def __call__(
        self,
        images: Any,
        logits: Float[Array, 'N classes'],
        labels: Int[Array, ' N'] | Float[Array, 'N classes'],
    ) -> Float[Array, ' N']:
        return cross_entropy(logits, labels)


def squared_hinge(
    logits: Float[Array, 'N classes'], labels: Int[Array, ' N'] | Float[Array, 'N classes']
) -> Float[Array, ' N']:
    """Squared hinge loss of each image, the mean over classes.

    Forward: mean_c max(0, 1 - t_c y_c)^2 for logits y, with t = +1 for the label's class and -1 for all others; t = 2 p - 1
    for shares p of the classes.
    Gradient with respect to y: -2 t max(0, 1 - t y) / C, for C classes.

    Args:
        logits: floating.
        labels: classes, or the share of each class.

    Returns:
        The loss; NaN for a label that is not a class.

    Source: the output layer in the published implementations of BinaryConnect and BinaryNet ("L2-SVM", arXiv:1511.00363
    section 3.1).

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.training.squared_hinge(jnp.array([[2.0, 0.0]]), jnp.array([0]))  # (0 + 1) / 2
        Array([0.5], dtype=float32)
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
    """The loss `squared_hinge`, for every model.

    A run that minimizes it still reports the cross-entropy of its test images.

    Example:
        >>> import bnn_jax as bnn, functools
        >>> config = functools.partial(bnn.training.Config, loss=bnn.training.SquaredHinge)
    """

    takes_classes = True

    def check(self, model: Any) -> None:
        """The squared hinge fits every model."""

    def __call__(
        self,
        images: Any,
        logits: Float[Array, 'N classes'],
        labels: Int[Array, ' N'] | Float[Array, 'N classes'],
    ) -> Float[Array, ' N']:
        return squared_hinge(logits, labels)
