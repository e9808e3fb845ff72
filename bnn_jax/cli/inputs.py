"""What several commands are given: images' shape and preprocessing, names of classes, images to try."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
"""What a file with a preprocessing holds: ImageNet's, as most networks have it."""


def random_images(shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers, always the same. Raises ValueError for a shape that is not positive."""
    if min(shape) < 1:
        raise ValueError(f'images: got shape {shape}, expected positive numbers')
    # Drawn with 64 bits, rounded to 32.
    check_fits(f'images: {shape[0]:,} of {"x".join(map(str, shape[1:]))}:', 12 * math.prod(shape))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def preprocessing(file: Path, stated: Path | None) -> 'Preprocessing':
    """What `stated` says, or else the network's file. Raises ValueError where neither says it."""
    from bnn_jax.data.preprocessing import Preprocessing
    from bnn_jax.inference.serialization import preprocessing_of

    described = preprocessing_of(file) if stated is None else _json(stated)
    if described is None:
        raise ValueError(
            f'{file} does not say how images were prepared in training, and other images give other answers; state it: '
            f'--preprocessing FILE, a JSON file such as {EXAMPLE}'
        )
    return Preprocessing.of(described)


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f'{error}; expected something like {EXAMPLE}') from error


def class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    """A name a line; () without a path. Raises ValueError for another number of them."""
    if path is None:
        return ()
    try:
        names = tuple(path.read_text('utf-8').splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8 ({error}); expected a class name a line') from error
    if len(names) != num_classes:
        raise ValueError(f'{path}: got {len(names)} lines, expected {num_classes} class names, one a line')
    return names
