"""What data sets look like to a pipeline: random access to images and labels."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """Indexable images: source[i] -> {'image': uint8 (H, W, C), 'label': int}."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...


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

    def __getitem__(self, index: int) -> dict:
        return {'image': self.images[index], 'label': int(self.labels[index])}


def check_labels(source: Source, num_classes: int) -> None:
    """Raises ValueError for a source without images, and for one whose `labels`, in memory, are no classes."""
    if len(source) == 0:
        raise ValueError('data set: got no images, expected at least one; check data_dir and split')
    labels = getattr(source, 'labels', None)
    if labels is not None and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
            'is num_classes that of the data set?'
        )


class Subset:
    """Some images of a source, in the order of `indices`; `skipped` says why others are missing."""

    def __init__(self, source: Source, indices: np.ndarray, skipped: tuple[str, ...] = ()):
        self.source, self.indices, self.skipped = source, indices, skipped

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.indices[index])]
