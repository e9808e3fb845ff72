"""Changes of a batch on the devices, before a step: cutout, mixup, label smoothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Three changes of a training batch, each off at 0. They depend on seed and step alone, not on where a run was stopped.

    Example:
        >>> import numpy as np
        >>> batch = {'image': jnp.ones((2, 4, 4, 1)), 'label': jnp.array([0, 1])}
        >>> changed = Mixing(label_smoothing=0.1)(batch, jnp.int32(0), num_classes=2)
        >>> np.asarray(changed['label'], np.float64).round(3).tolist()
        [[0.95, 0.05], [0.05, 0.95]]
    """

    # The side in pixels of a square that becomes 0. Its center is a random pixel; its part outside the image is ignored
    # (DeVries and Taylor, arXiv:1708.04552).
    cutout: int = 0
    # alpha: x = l x_i + (1 - l) x_j, and the labels likewise, with one l ~ Beta(alpha, alpha) for the batch. x_j is the batch
    # in reverse order (Zhang et al., arXiv:1710.09412).
    mixup: float = 0.0
    # e: the label's class gets 1 - e + e / classes, each other class e / classes (Szegedy et al., arXiv:1512.00567).
    label_smoothing: float = 0.0
    seed: int = 0

    def __call__(self, batch: dict[str, Any], step: Int32[Array, ''], num_classes: int | None) -> dict[str, Any]:
        """The changed batch; mixed or smoothed labels are shares of classes, float32 (N, num_classes)."""
        images, labels = batch['image'], batch['label']
        places, share = jax.random.split(jax.random.fold_in(jax.random.key(self.seed, impl='threefry2x32'), step))
        if self.cutout:
            images = _cut_out(images, self.cutout, places)
        if (self.mixup or self.label_smoothing) and jnp.issubdtype(labels.dtype, jnp.integer):
            assert num_classes is not None  # `beginning` refuses a network without `num_classes`.
            labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        if self.label_smoothing:
            labels = (1 - self.label_smoothing) * labels + self.label_smoothing / labels.shape[-1]
        if self.mixup:
            ours = jax.random.beta(share, self.mixup, self.mixup)
            images, labels = (ours.astype(a.dtype) * a + (1 - ours).astype(a.dtype) * a[::-1] for a in (images, labels))
        return {**batch, 'image': images, 'label': labels}


def _cut_out(images: jax.Array, size: int, key: jax.Array) -> jax.Array:
    def inside(key: jax.Array, extent: int) -> jax.Array:
        first = jax.random.randint(key, (len(images), 1), 0, extent) - size // 2
        place = jnp.arange(extent)[None]
        return (place >= first) & (place < first + size)

    rows, columns = (inside(*each) for each in zip(jax.random.split(key), images.shape[1:3], strict=True))
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], jnp.zeros((), images.dtype), images)
