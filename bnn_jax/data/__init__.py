"""Images to train on: sources, which give single images, and pipelines from a source to batches.

A source has `len` and `source[i] -> {'image': uint8 or floating (H, W, C), 'label': int}`; `Source` says which other labels are
allowed. Image files need Pillow (extra `deploy`). Batches, TFDS data sets and `digits` need the extra `train`.
"""

from bnn_jax.data.augmentations import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PlusMinusOne,
    Standardize,
    SubtractMean,
    Unchanged,
    center_crop,
    crop,
    cutout,
    flip,
    inception_crop,
    lighting,
    random_crop,
    resize_short,
    resize_short_between,
    resize_to,
)
from bnn_jax.data.digits import digits
from bnn_jax.data.folder import folder_source, folders
from bnn_jax.data.images import CorruptImage, skip_corrupt
from bnn_jax.data.pipeline import evaluation_batches, training_batches
from bnn_jax.data.source import ArraySource, Source, Splits, check_labels, in_memory
from bnn_jax.data.tfds_source import data_set, tfds_source

__all__ = [
    'IMAGENET_MEAN',
    'IMAGENET_STD',
    'ArraySource',
    'CorruptImage',
    'PlusMinusOne',
    'Source',
    'Splits',
    'Standardize',
    'SubtractMean',
    'Unchanged',
    'center_crop',
    'check_labels',
    'crop',
    'cutout',
    'data_set',
    'digits',
    'evaluation_batches',
    'flip',
    'folder_source',
    'folders',
    'in_memory',
    'inception_crop',
    'lighting',
    'random_crop',
    'resize_short',
    'resize_short_between',
    'resize_to',
    'skip_corrupt',
    'tfds_source',
    'training_batches',
]
