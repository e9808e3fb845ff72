"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, bundled with scikit-learn, nothing to download."""

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.source import ArraySource

TEST_IMAGES = 360


def digits(split: str) -> ArraySource:
    """Split 'train' (1,437) or 'test' (360): images uint8 (8, 8, 1), 16 gray levels spread over 0..255, labels 0..9.

    The split is a fixed permutation. Raises ValueError for another split. Source: UCI "Optical Recognition of
    Handwritten Digits", test part, as in sklearn.datasets.load_digits.
    """
    with of_extra('train'):
        from sklearn.datasets import load_digits

    if split not in ('train', 'test'):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    chosen = order[:TEST_IMAGES] if split == 'test' else order[TEST_IMAGES:]
    images = np.round(pixels[chosen] * (255 / 16)).astype(np.uint8)
    return ArraySource(images.reshape(-1, 8, 8, 1), np.asarray(labels)[chosen])
