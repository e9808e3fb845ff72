"""Knowledge distillation: a trained network's answers, softened by a temperature, as targets beside the labels."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnn_jax.nn.containers import Network, expect_network
from bnn_jax.ops.deterministic import wide
from bnn_jax.training.loss import cross_entropy


def soft_cross_entropy(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """Cross-entropy of softmax(logits / T) to the teacher's softmax(teacher_logits / T), times T^2, of every image.

    Forward: -T^2 sum_c p_c log q_c, p = softmax(t / T), q = softmax(s / T). s, t: (N, classes), floating; returns (N,) nats,
    float32 or wider. Gradient: g T (q - p) to s, none to t; T^2 keeps its size about that of a loss on labels for every T.
    Its least value, at q = p, is T^2 times the entropy of p, not 0. Raises ValueError for shapes that differ.
    Source: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f'soft_cross_entropy: got logits {logits.shape} and {teacher_logits.shape} of the teacher, expected the same'
        )
    dtype = wide(logits.dtype)
    # The teacher is a constant, also where its arrays are arguments of the step.
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits).astype(dtype) / temperature)
    return -(temperature**2) * (targets * jax.nn.log_softmax(logits.astype(dtype) / temperature)).sum(-1)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=['state'],
    meta_fields=['graphdef', 'channels', 'num_classes', 'temperature', 'share'],
)
@dataclasses.dataclass(frozen=True)
class Distillation:
    """A loss: (1 - share) times the cross-entropy to the label plus share times `soft_cross_entropy` to the teacher.

    Made by `distillation`. state: the teacher's arrays, arguments of the compiled step; graphdef: its structure, in
    evaluation mode. No gradient goes into it.
    """

    takes_classes = True

    state: nnx.State
    graphdef: nnx.GraphDef
    channels: int
    num_classes: int
    temperature: float
    share: float

    def check(self, model: Any) -> None:
        """Raises ValueError unless the teacher reads the model's images and names its classes."""
        got = (self.channels, self.num_classes)
        expected = tuple(getattr(model, name, own) for name, own in zip(('channels', 'num_classes'), got, strict=True))
        if got != expected:
            raise ValueError(
                f'distillation: got a teacher of {got[0]} channels and {got[1]} classes, expected the {expected[0]} and '
                f'{expected[1]} of the model; teacher and model see the same images and labels'
            )

    def __call__(self, images: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """(N,) nats; NaN for a label that is not a class, whatever the share."""
        teacher_logits = nnx.merge(self.graphdef, self.state, copy=True)(images)
        soft = soft_cross_entropy(logits, teacher_logits, self.temperature)
        return (1 - self.share) * cross_entropy(logits, labels) + self.share * soft


def distillation(teacher: Network, *, temperature: float = 1.0, share: float = 1.0) -> Distillation:
    """The loss of a student of this teacher, which is copied and neither changed nor trained.

    temperature: T, positive; the larger, the more the teacher's small logits count. share: of the teacher's part, from 0
    (labels only) to 1 (the teacher only). The defaults are ReActNet's distributional loss from a real teacher. A run saves
    its teacher with its state: resumed, it keeps the one it began with; one of another structure is refused.
    Raises TypeError for a teacher that is not one of this library's networks, ValueError for a temperature or share out
    of range. Sources: arXiv:1503.02531; for binary students ReActNet, arXiv:2003.03488, section 4.3.
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
