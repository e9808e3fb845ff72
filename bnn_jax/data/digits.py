"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, bundled with scikit-learn, nothing to download."""

from collections.abc import Sequence

import numpy as np

TEST_IMAGES = 360


class ArraySource:
    """A source held in memory: images uint8 (n, H, W, C), labels (n,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        if len(images) != len(labels) or images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f'images {images.dtype}{list(images.shape)} and labels {list(np.shape(labels))}: '
                'expected uint8 (n, H, W, C) and (n,)'
            )
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> dict:
        return {'image': self.images[index], 'label': int(self.labels[index])}


def digits(split: str) -> Sequence[dict]:
    """Split 'train' (1,437) or 'test' (360): images uint8 (8, 8, 1), 16 grey levels spread over 0..255, labels 0..9.

    The split is a fixed permutation. Raises ValueError for another split. Source: UCI "Optical Recognition of
    Handwritten Digits", test part, as in sklearn.datasets.load_digits.
    """
    from sklearn.datasets import load_digits

    if split not in ('train', 'test'):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    chosen = order[:TEST_IMAGES] if split == 'test' else order[TEST_IMAGES:]
    images = np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    return ArraySource(images[..., None], bunch.target[chosen])
