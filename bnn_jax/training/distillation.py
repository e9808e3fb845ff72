"""Knowledge distillation: the softened outputs of a trained network are targets, with the labels or in their place."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bnn_jax.nn.containers import Network, expect_network
from bnn_jax.ops.deterministic import wide
from bnn_jax.training.loss import cross_entropy


def soft_cross_entropy(
    logits: Float[Array, 'N classes'], teacher_logits: Float[Array, 'N classes'], temperature: float
) -> Float[Array, ' N']:
    """The cross-entropy of each image between the softened answers of a teacher and of a student.

    Forward: -T^2 sum_c p_c log q_c for student s and teacher t, with p = softmax(t / T) and q = softmax(s / T).
    Gradient: T (q - p) times the incoming gradient to s, none to t. For every T, the factor T^2 keeps it about as large as
    the gradient from labels.

    Args:
        logits: the logits of the student, floating.
        teacher_logits: the logits of the teacher, floating.
        temperature: T; the larger, the more the small logits of the teacher count.

    Returns:
        Nats, float32 or wider. The least value, at q = p, is T^2 times the entropy of p, not 0.

    Raises:
        ValueError: the shapes differ.

    Source: Hinton, Vinyals and Dean (arXiv:1503.02531) section 2.

    Example:
        >>> import bnn_jax as bnn, jax.numpy as jnp
        >>> bnn.training.soft_cross_entropy(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 1.0)
        Array([0.6931472], dtype=float32)
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f'soft_cross_entropy: got logits {logits.shape} and {teacher_logits.shape} of the teacher, expected the same shape'
        )
    dtype = wide(logits.dtype)
    # No gradient to the teacher, whose arrays may be arguments of a differentiated step.
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits).astype(dtype) / temperature)
    return -(temperature**2) * (targets * jax.nn.log_softmax(logits.astype(dtype) / temperature)).sum(-1)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['state'],
    meta_fields=['graphdef', 'channels', 'num_classes', 'temperature', 'share'],
)
@dataclasses.dataclass(frozen=True)
class Distillation:
    """The loss of a student, which `distillation` makes. The teacher gets no gradient.

    Forward: (1 - share) cross_entropy(logits, labels) + share soft_cross_entropy(logits, teacher(images), temperature).

    Example:
        >>> [field.name for field in dataclasses.fields(Distillation)]
        ['state', 'graphdef', 'channels', 'num_classes', 'temperature', 'share']
    """

    takes_classes = True

    # The arrays of the teacher; they are arguments of the compiled step.
    state: nnx.State
    # The structure of the teacher, in evaluation mode.
    graphdef: nnx.GraphDef
    # The teacher's input channels and number of classes. A student that states its own must have the same.
    channels: int
    num_classes: int
    # T of `soft_cross_entropy`.
    temperature: float
    # The weight of the teacher's part of the loss, from 0 to 1.
    share: float

    def check(self, model: Any) -> None:
        """Raises ValueError if the model states other channels than the teacher, or another number of classes."""
        got = (self.channels, self.num_classes)
        expected = tuple(getattr(model, name, own) for name, own in zip(('channels', 'num_classes'), got, strict=True))
        if got != expected:
            raise ValueError(
                f'distillation: got a teacher of {got[0]} channels and {got[1]} classes, expected the {expected[0]} and '
                f'{expected[1]} of the model; teacher and model see the same images and labels'
            )

    def __call__(
        self,
        images: Float[Array, 'N H W C'],
        logits: Float[Array, 'N classes'],
        labels: Int[Array, ' N'] | Float[Array, 'N classes'],
    ) -> Float[Array, ' N']:
        """The loss of each image, in nats; NaN for a label that is not a class, for any share."""
        teacher_logits = nnx.merge(self.graphdef, self.state, copy=True)(images)
        soft = soft_cross_entropy(logits, teacher_logits, self.temperature)
        return (1 - self.share) * cross_entropy(logits, labels) + self.share * soft


def distillation(teacher: Network, *, temperature: float = 1.0, share: float = 1.0) -> Distillation:
    """Make the loss of a student that learns from this teacher.

    A run saves its teacher with its state. A resumed run goes on with the teacher it began with, and refuses one of another
    structure.

    Args:
        teacher: a trained network. It is copied, and neither changed nor trained.
        temperature: T, positive; the larger, the more the small logits of the teacher count.
        share: the share of the teacher's part, from 0 (labels alone) to 1 (the teacher alone).

    Returns:
        A loss for `init` or `Config.loss`. With the defaults and a real teacher, it is the distributional loss of ReActNet.

    Raises:
        TypeError: teacher is not an `nn.Network`.
        ValueError: temperature or share is out of range.

    Source: arXiv:1503.02531; for binary students ReActNet (arXiv:2003.03488) section 4.3.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> teacher = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> bnn.training.distillation(teacher, temperature=4.0, share=0.9).share
        0.9
    """
    expect_network('distillation', teacher)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f'distillation: got temperature {temperature}, expected a positive number')
    if not 0 <= share <= 1:
        raise ValueError(f'distillation: got share {share}, expected 0 to 1')
    graphdef, state = nnx.split(teacher)
    # Copied: a step may reuse the buffers of its state, but the teacher is the caller's.
    copy = nnx.merge(graphdef, jax.tree.map(jnp.array, state), copy=True)
    copy.eval()
    graphdef, state = nnx.split(copy)
    return Distillation(state, graphdef, teacher.channels, teacher.num_classes, float(temperature), float(share))
