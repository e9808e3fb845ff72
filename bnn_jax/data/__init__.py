"""Images to train on: sources (random access, uint8) and pipelines from a source to batches.

A source is anything with `len` and `source[i] -> {'image': uint8 (H, W, C), 'label': int}`. Needs the extra `train`.
"""

try:
    import grain as _grain  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("reading data needs the extra `train`: pip install 'bnn_jax[train]'") from error

from bnn_jax.data.digits import digits
from bnn_jax.data.pipeline import Standardize, crop, evaluation_batches, flip, training_batches
from bnn_jax.data.source import ArraySource, Source, check_labels
from bnn_jax.data.tfds_source import tfds_source

__all__ = [
    'ArraySource',
    'Source',
    'Standardize',
    'check_labels',
    'crop',
    'digits',
    'evaluation_batches',
    'flip',
    'tfds_source',
    'training_batches',
]
