"""Inputs that several commands share: shape and preprocessing of images, names of classes, random images."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from bnn_jax.files import read_json
from bnn_jax.training.memory import check_fits

if TYPE_CHECKING:
    from bnn_jax.data.preprocessing import Preprocessing

Shape = tuple[int, int, int]
"""Height, width and channels of an image."""

EXAMPLE = (
    '{"input_shape": [224, 224, 3], "steps": [{"kind": "resize_short", "size": 256}, {"kind": "centre_crop", "size": 224}], '
    '"normalisation": {"kind": "Standardize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}'
)
"""An example of a file with a preprocessing: the usual one for ImageNet."""


def random_images(shape: tuple[int, ...]) -> Float32[np.ndarray, '*shape']:
    """Images of normally distributed numbers, the same at every call.

    Args:
        shape: (N, H, W, C).

    Raises:
        ValueError: the shape is not positive, or the images need more memory than the machine has.
    """
    if min(shape) < 1:
        raise ValueError(f'images: got shape {shape}, expected positive numbers')
    # 12 bytes per number: they are drawn with 64 bits and rounded to 32.
    check_fits(f'images: got {shape[0]:,} of {"x".join(map(str, shape[1:]))}; drawing them', 12 * math.prod(shape))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def preprocessing(file: Path, stated: Path | None) -> 'Preprocessing':
    """Read how images are prepared for a network.

    Args:
        file: the packed network.
        stated: a JSON file with the preprocessing; None: read it from `file`.

    Raises:
        ValueError: no preprocessing is stated, `stated` is not JSON, or `Preprocessing.of` refuses its value.
    """
    from bnn_jax.data.preprocessing import Preprocessing
    from bnn_jax.inference.serialization import preprocessing_of

    described = preprocessing_of(file) if stated is None else _json(stated)
    if described is None:
        raise ValueError(
            f'{file} does not say how test images were prepared, and images that are prepared differently get wrong '
            f'answers; give --preprocessing FILE, a JSON file such as {EXAMPLE}'
        )
    return Preprocessing.of(described)


def _json(path: Path) -> Any:
    """The value in a JSON file with a preprocessing."""
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f'{error}; expected something like {EXAMPLE}') from error


def class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    """Read the names of classes from a text file, one per line.

    Args:
        path: the file; None: there are no names.
        num_classes: how many names there must be.

    Raises:
        ValueError: there are more or fewer names, or the file is not UTF-8.
    """
    if path is None:
        return ()
    try:
        names = tuple(path.read_text('utf-8').splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 text ({error}); expected one class name per line') from error
    if len(names) != num_classes:
        raise ValueError(f'{path}: got {len(names)} lines, expected {num_classes} class names, one per line')
    return names
