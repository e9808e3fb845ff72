"""Converts batches of several forms to dictionaries of arrays, and refuses those that do not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, Any] | Sequence[Any]

FORMS = "expected {'image': ..., 'label': ...} or (images, labels), either with a weight for each image if you like"


def as_batch(batch: Batch, num_classes: int | None, *, classes: bool = True) -> dict[str, Any]:
    """Convert a batch to a dictionary of arrays: `image`, `label`, and `weight` if the batch has one.

    Args:
        batch: a dictionary with these keys (others are left out), or a tuple or list (images, labels) or (images, labels,
            weights), of NumPy or JAX arrays, PyTorch tensors or lists.
        num_classes: the number of logits; None: not known.
        classes: whether labels are classes. Then they are integers (N,) or (N, 1), which become int32 (N,); or shares of the
            classes (one-hot, smoothed, mixed) that sum to 1 for each image, which become float32 (N, num_classes). Otherwise
            they are labels of a user's own loss and stay unchanged, except that integers (N,) become
            int32, and are classes if there are several logits.

    Returns:
        The dictionary. Its arrays are JAX arrays where the batch has JAX arrays, else NumPy arrays.

    Raises:
        TypeError: the batch has none of these forms, an image, label or weight is not a number, or labels have another
            dtype.
        ValueError: a key is missing, a tuple or list has another number of parts, or shapes do not fit; or, in NumPy
            arrays, labels are not classes, shares are negative or do not sum to 1, or weights are negative, not finite
            or all 0.

    Example:
        >>> batch = as_batch((np.zeros((2, 4, 4, 1)), [0, 1]), 10)
        >>> batch['label'].tolist(), batch['label'].dtype.name
        ([0, 1], 'int32')
    """
    found = _parts(batch)
    image = _array('image', found['image'])
    # A user's own loss may take a dictionary of labels. A list is one array, not a tree.
    labels = jax.tree.map(lambda a: _array('label', a), found['label'], is_leaf=lambda a: not isinstance(a, Mapping))
    if not image.shape:
        raise ValueError('batch: got image of shape (), expected images (N, H, W, channels)')
    for label in jax.tree.leaves(labels):
        if label.shape[:1] != image.shape[:1]:
            raise ValueError(f'batch: got images {image.shape} and labels {label.shape}, expected one label per image')
    if hasattr(labels, 'dtype'):
        labels = _classes(labels, num_classes, classes)
    prepared = {'image': image, 'label': labels}
    if found.get('weight') is not None:
        prepared['weight'] = _weights(_array('weight', found['weight']), image.shape)
    return prepared


def is_batch(value: Any) -> bool:
    """Whether a value is a single batch, not an iterable of batches."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, tuple | list) and 2 <= len(value) <= 3 and all(hasattr(part, 'shape') for part in value)


def are_classes(labels: Any) -> bool:
    """Whether labels that `as_batch` prepared are one class for each image."""
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
    """A value as a JAX or NumPy array; a PyTorch tensor leaves its graph and its device."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f'batch: got a masked array as {key}, expected numbers everywhere; give {key}.filled(VALUE)')
    if isinstance(value, jax.Array | np.ndarray):
        array = value
    else:
        if hasattr(value, 'detach'):
            value = value.detach().cpu()
            if str(getattr(value, 'dtype', '')) == 'torch.bfloat16':
                value = value.float()  # NumPy has no bfloat16.
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f'batch: got a {type(value).__name__} as {key} ({error}), expected an array of numbers'
            ) from error
        if isinstance(value, list | tuple) and array.dtype == np.float64:
            array = array.astype(np.float32)  # Python's floats always have 64 bits, so a list does not ask for float64.
    # JAX has no numbers wider than 64 bits.
    if array.dtype == object or array.dtype.kind in 'USMm' or array.dtype.fields or array.dtype.char in 'gG':
        raise TypeError(
            f'batch: got {key} of dtype {array.dtype} and shape {array.shape}, expected numbers of at most 64 bits'
        )
    if isinstance(array, np.ndarray) and not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder('='))  # JAX supports only the machine's byte order.
    return array


def _classes(labels: Any, num_classes: int | None, expected: bool) -> Any:
    """Convert labels to int32 (N,) or float32 (N, num_classes). Unless `expected`, only integers (N,) are converted."""
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
                'for labels that are quantities, or for several labels per image, give `init` a loss of your own'
            )
        raise ValueError(
            f'batch: got labels of shape {labels.shape} and dtype {labels.dtype}, expected one label per image: '
            f'integers (N,){shares}'
        )
    if num_classes is not None and labels.shape[1] != num_classes:
        raise ValueError(
            f'batch: got labels of shape {labels.shape} and dtype {labels.dtype}, expected one label per image: '
            f'integers (N,) or (N, 1){shares}'
        )
    if not (integers or labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.floating)):
        raise TypeError(
            f'batch: got labels of dtype {labels.dtype} and shape {labels.shape}, expected integers{shares}'
        )
    if isinstance(labels, np.ndarray) and labels.size:
        wide = labels.astype(np.float64)
        # The sum of shares in half precision is off by some thousandths.
        fits = (wide >= 0).all(1) & np.isclose(wide.sum(1), 1, rtol=0, atol=1e-2)
        if not fits.all():
            raise ValueError(
                f'batch: got labels of shape {labels.shape} with negative numbers or rows that do not sum to 1, such '
                f'as {wide[~fits][0].tolist()[:8]}, expected a share of each class; for several labels per image, give '
                '`init` a loss of your own'
            )
    return labels.astype(np.float32)


def _checked_classes(labels: Any, num_classes: int | None, expected: bool) -> Any:
    """Convert classes to int32. In a JAX array, whose values are not checked here, numbers too large for int32 become -1."""
    if isinstance(labels, np.ndarray):
        if num_classes == 1 and not expected:
            num_classes = None  # With one logit, integers of a user's own loss are counts, not classes.
        if num_classes is not None and labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            own = '' if expected else ' If they are not classes, give them as floats, or of shape (N, 1).'
            raise ValueError(
                f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
                f'is num_classes that of the data set?{own}'
            )
        return labels.astype(np.int32)
    if labels.dtype.itemsize > 4 or labels.dtype == jnp.uint32:
        labels = jnp.where(labels > np.iinfo(np.int32).max, jnp.asarray(0, labels.dtype) - 1, labels)
    return labels.astype(jnp.int32)


def _weights(weights: Any, shape: tuple[int, ...]) -> Any:
    """Weights as float32 (N,)."""
    if weights.shape == (shape[0], 1):
        weights = weights.reshape(-1)
    if weights.shape != shape[:1]:
        raise ValueError(f'batch: got images {shape} and weight {weights.shape}, expected one weight per image')
    known = isinstance(weights, np.ndarray) and weights.size > 0
    if known and not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise ValueError(
            f'batch: got weight of dtype {weights.dtype} from {weights.min()} to {weights.max()}, expected finite numbers '
            'that are at least 0 and not all 0'
        )
    return weights.astype(np.float32)
