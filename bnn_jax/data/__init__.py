"""Images to train on: sources (random access, uint8) and pipelines from a source to batches.

A source is anything with `len` and `source[i] -> {'image': uint8 (H, W, C), 'label': int}`. Needs the extra `train`.
"""

from bnn_jax.data.digits import digits
from bnn_jax.data.folder import folder_source
from bnn_jax.data.images import CorruptImage, skip_corrupt
from bnn_jax.data.pipeline import Standardize, crop, evaluation_batches, flip, training_batches
from bnn_jax.data.source import ArraySource, Source
from bnn_jax.data.tfds_source import tfds_source

__all__ = [
    'ArraySource',
    'CorruptImage',
    'Source',
    'Standardize',
    'crop',
    'digits',
    'evaluation_batches',
    'flip',
    'folder_source',
    'skip_corrupt',
    'tfds_source',
    'training_batches',
]
