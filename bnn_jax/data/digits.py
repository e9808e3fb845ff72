"""A data set that needs no download: the 1,797 handwritten digits of 8x8 pixels that scikit-learn contains."""

from functools import cache

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.source import ArraySource

TEST_IMAGES = 360
"""The number of images of the split 'test'."""


def digits(split: str) -> ArraySource:
    """Handwritten digits: images uint8 (8, 8, 1), whose 17 gray levels are spread over 0..255, and labels 0..9.

    Args:
        split: 'train' (1,437 images) or 'test' (360). A fixed permutation decides which images each split has.

    Returns:
        A source.

    Raises:
        ValueError: split is neither 'train' nor 'test'.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, as in sklearn.datasets.load_digits.

    Example:
        >>> from bnn_jax import data
        >>> def digits(split, data_dir):  # the `data` of a Config
        ...     return data.digits(split)
    """
    if split not in ('train', 'test'):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
    pixels, labels = _whole()
    order = np.random.default_rng(0).permutation(len(pixels))
    chosen = order[:TEST_IMAGES] if split == 'test' else order[TEST_IMAGES:]
    images = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8)
    return ArraySource(images.reshape(-1, 8, 8, 1), np.asarray(labels)[chosen])


@cache  # scikit-learn would parse its text file at every call.
def _whole() -> tuple[np.ndarray, np.ndarray]:
    """All images, (n, 64) from 0 to 16, and their labels."""
    with of_extra('train'):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.asarray(pixels), np.asarray(labels)
