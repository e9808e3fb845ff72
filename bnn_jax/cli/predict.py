"""`bnn-jax predict`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from bnn_jax.cli.inputs import class_names
from bnn_jax.cli.inputs import preprocessing as preparation

TOP = 5
BATCH = 32


def predict(
    file: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    preprocessing: Path | None = None,
    classes: Path | None = None,
) -> None:
    """The five likeliest classes of each image, with their probabilities.

    Args:
        file: a packed network.
        images: JPEG, PNG, BMP, GIF, WebP or PPM files.
        preprocessing: a JSON file that says how images were prepared in training, where the network's file does not.
        classes: a text file with a class name a line.
    """
    from bnn_jax.inference.serialization import load
    from bnn_jax.nn.tables import listing

    network, prepare = load(file), preparation(file, preprocessing)
    if prepare.input_shape[2] != network.channels:
        raise ValueError(f'preprocessing: gives {prepare.input_shape[2]} channels, the network has {network.channels}')
    names = class_names(classes, network.num_classes) or prepare.classes or map(str, range(network.num_classes))
    names = tuple(names)
    if len(names) != network.num_classes:
        raise ValueError(f'preprocessing: names {len(names)} classes, the network has {network.num_classes}')
    if not images:
        raise ValueError('predict: got no images, expected at least one file')
    prepared = [prepare(_bytes(path), str(path)) for path in images]
    probabilities = _probabilities(network, prepared)
    rows = []
    for path, shares in zip(images, probabilities, strict=True):
        for rank, index in enumerate(np.argsort(-shares, kind='stable')[:TOP]):
            rows.append(['' if rank else str(path), str(rank + 1), names[index], f'{shares[index]:.2%}'])
    print(f'preprocessing: {json.dumps({k: v for k, v in prepare.described().items() if k != "classes"})}')
    print(listing(file.name, ['image', 'rank', 'class', 'probability'], rows))


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f'there is no image {path}')
    return path.read_bytes()


def _probabilities(network, images: Sequence[np.ndarray]) -> np.ndarray:
    """Softmax of the logits in float64, in batches of one size, so that one compilation serves all."""
    from bnn_jax.training.step import logits_of

    logits, size = logits_of(network), min(BATCH, len(images))
    parts = []
    for first in range(0, len(images), size):
        part = np.stack(images[first : first + size])
        filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(logits(filled), np.float64)[: len(part)])
    values = np.concatenate(parts)
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
