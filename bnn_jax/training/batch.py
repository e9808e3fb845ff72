"""What a batch may be: many forms in, one out, and everything else refused with its key, shape and dtype."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, Any] | Sequence[Any]

FORMS = "expected {'image': ..., 'label': ...} or (images, labels), either with a weight for each image if you like"


def as_batch(batch: Batch, num_classes: int | None, *, classes: bool = True) -> dict[str, Any]:
    """A batch as a dictionary of arrays: `image`, `label`, and `weight` where there is one.

    Args:
        batch: a dictionary with these keys (others are left out), or a tuple or list (images, labels) or (images, labels,
            weights), of NumPy or JAX arrays, PyTorch tensors or lists.
        num_classes: the number of logits; None: not known.
        classes: whether labels are classes: integers of any width, (N,) or a column (N, 1), which become int32 (N,); or, for
            each image, a share of each class that sum to 1 (one-hot, smoothed, mixed), which become float32 (N, num_classes).
            If not, labels are of the loss's own kind and stay as they are, for each image its own; integers (N,) are still
            taken for classes.

    Raises:
        TypeError: for labels of another dtype than those, for a batch that is neither form.
        ValueError: for keys that are missing, lengths that differ, labels (if NumPy) that are no classes, shares that do not
            sum to 1, weights that are negative, not finite or all 0.
    """
    found = _parts(batch)
    image = _array('image', found['image'])
    # A loss of your own may take a dictionary of labels; a list is one array.
    labels = jax.tree.map(lambda a: _array('label', a), found['label'], is_leaf=lambda a: not isinstance(a, Mapping))
    if not image.shape:
        raise ValueError('batch: got image of shape (), expected images (N, H, W, channels)')
    for label in jax.tree.leaves(labels):
        if label.shape[:1] != image.shape[:1]:
            raise ValueError(f'batch: got images {image.shape} and labels {label.shape}, expected one label an image')
    if hasattr(labels, 'dtype'):
        labels = _classes(labels, num_classes, classes)
    prepared = {'image': image, 'label': labels}
    if found.get('weight') is not None:
        prepared['weight'] = _weights(_array('weight', found['weight']), image.shape)
    return prepared


def is_batch(value: Any) -> bool:
    """Whether this is one batch, not several."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, tuple | list) and 2 <= len(value) <= 3 and all(hasattr(part, 'shape') for part in value)


def are_classes(labels: Any) -> bool:
    """Whether prepared labels are one class an image."""
    return hasattr(labels, 'dtype') and labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer)


def _parts(batch: Batch) -> Mapping[str, Any]:
    if isinstance(batch, Mapping):
        if not {'image', 'label'} <= set(batch):
            raise ValueError(f'batch: got keys {sorted(map(str, batch))}, expected image and label')
        return batch
    if isinstance(batch, tuple | list):
        if not 2 <= len(batch) <= 3:
            raise ValueError(f'batch: got a {type(batch).__name__} of {len(batch)} parts, {FORMS}')
        return dict(zip(('image', 'label', 'weight'), batch, strict=False))
    raise TypeError(f'batch: got a {type(batch).__name__}, {FORMS}')


def _array(key: str, value: Any) -> Any:
    """A JAX or NumPy array of what was given; a PyTorch tensor is taken off its graph and device."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f'batch: got a masked array as {key}, expected numbers everywhere; give {key}.filled(VALUE)')
    if isinstance(value, jax.Array | np.ndarray):
        array = value
    else:
        if hasattr(value, 'detach'):
            value = value.detach().cpu()
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f'batch: got a {type(value).__name__} as {key} ({error}), expected an array of numbers'
            ) from error
        if isinstance(value, list | tuple) and array.dtype == np.float64:
            array = array.astype(np.float32)  # Python's numbers say nothing of a width.
    # Of numbers wider than 64 bits JAX knows nothing.
    if array.dtype == object or array.dtype.kind in 'USMm' or array.dtype.fields or array.dtype.char in 'gG':
        raise TypeError(
            f'batch: got {key} of dtype {array.dtype} and shape {array.shape}, expected numbers of at most 64 bits'
        )
    if isinstance(array, np.ndarray) and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder('='))  # JAX has one order of bytes.
    return array


def _classes(labels: Any, num_classes: int | None, expected: bool) -> Any:
    """Labels as int32 (N,) or float32 (N, num_classes), or as they are where they are no classes and need not be."""
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    if expected and integers and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.reshape(-1)
    if integers and labels.ndim == 1:
        return _checked_classes(labels, num_classes, expected)
    if not expected:
        return labels
    shares = f', or shares of classes (N, {num_classes or "classes"}) that sum to 1'
    if labels.ndim != 2:
        if labels.ndim == 1:
            raise TypeError(
                f'batch: got labels of dtype {labels.dtype}, expected integers (N,){shares}; their shape is {labels.shape}; '
                'for numbers or several labels an image give init a loss of your own'
            )
        raise ValueError(
            f'batch: got labels of shape {labels.shape} and dtype {labels.dtype}, expected one label an image: integers '
            f'(N,){shares}'
        )
    if num_classes is not None and labels.shape[1] != num_classes:
        raise ValueError(
            f'batch: got labels of shape {labels.shape} and dtype {labels.dtype}, expected one label an image: integers '
            f'(N,) or (N, 1){shares}'
        )
    if not (integers or labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise TypeError(
            f'batch: got labels of dtype {labels.dtype} and shape {labels.shape}, expected integers{shares}'
        )
    if isinstance(labels, np.ndarray) and labels.size:
        wide = labels.astype(np.float64)
        # Shares in half precision sum to 1 up to some thousandths.
        if not (wide.min() >= 0 and np.allclose(wide.sum(1), 1, rtol=0, atol=1e-2)):
            raise ValueError(
                f'batch: got labels of shape {labels.shape} whose rows do not sum to 1 (the first is {wide[0].tolist()[:8]}), '
                'expected a share of each class; for several labels an image give init a loss of your own'
            )
    return labels.astype(np.float32)


def _checked_classes(labels: Any, num_classes: int | None, expected: bool) -> Any:
    """int32. Of a JAX array, whose numbers are not known here, those that int32 cannot hold become -1."""
    if isinstance(labels, np.ndarray):
        if num_classes == 1 and not expected:
            num_classes = None  # One number an image, and labels that count.
        if num_classes is not None and labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            own = '' if expected else ' If they are no classes, give them as floats, or of shape (N, 1).'
            raise ValueError(
                f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
                f'is num_classes that of the data set?{own}'
            )
        return labels.astype(np.int32)
    if labels.dtype.itemsize > 4 or labels.dtype == jnp.uint32:
        labels = jnp.where(labels > np.iinfo(np.int32).max, jnp.asarray(0, labels.dtype) - 1, labels)
    return labels.astype(jnp.int32)


def _weights(weights: Any, shape: tuple[int, ...]) -> Any:
    if weights.shape == (shape[0], 1):
        weights = weights.reshape(-1)
    if weights.shape != shape[:1]:
        raise ValueError(f'batch: got images {shape} and weight {weights.shape}, expected one weight an image')
    known = isinstance(weights, np.ndarray) and weights.size > 0
    if known and not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise ValueError(
            f'batch: got weight of dtype {weights.dtype} from {weights.min()} to {weights.max()}, expected finite numbers '
            'from 0, not all 0'
        )
    return weights.astype(np.float32)
