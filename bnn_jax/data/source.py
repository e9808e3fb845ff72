"""What data sets look like to a pipeline: random access to images and labels."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike


class Source(Protocol):
    """Indexable images: source[i] -> {'image': uint8 or floating (H, W, C), 'label': int, or floats for a loss of one's own}.

    `classes`, a name for each label, and in an example `name`, for messages, are optional.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict: ...


def check_unmasked(name: str, array: Any) -> None:
    """Raises ValueError for a masked array: NumPy would show what lies under the mask."""
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f'{name}: got a masked array, expected numbers everywhere; give {name}.filled(VALUE)')


class ArraySource:
    """A source held in memory.

    Args:
        images: uint8 or floating, (n, H, W, C) with any number of channels, or (n, H, W) for one channel.
        labels: integers (n,) or a column (n, 1): the classes. Numbers of another kind or shape are labels for a loss of
            one's own, and become float32: (n,) floats, (n, k) soft or several labels.
        classes: a name for each class, which a packed network keeps.

    Raises:
        ValueError: for other shapes or dtypes.

    Example:
        >>> source = ArraySource(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], classes=('cat', 'dog'))
        >>> source[1]['image'].shape, source[1]['label']
        ((8, 8, 3), 1)
    """

    def __init__(self, images: ArrayLike, labels: ArrayLike, classes: Sequence[str] = ()):
        check_unmasked('images', images)
        check_unmasked('labels', labels)
        pixels, targets = np.asanyarray(images), np.asarray(labels)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.ndim != 4 or not (pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating)):
            raise ValueError(
                f'images: got {pixels.dtype}{list(np.shape(images))}, expected uint8 or floating (n, H, W, C) or (n, H, W)'
            )
        if targets.shape[:1] != pixels.shape[:1]:
            raise ValueError(
                f'labels: got shape {list(targets.shape)} for {len(pixels)} images, expected one label an image'
            )
        self.images, self.labels, self.classes = pixels, _labels(targets), tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        label = self.labels[index]
        return {'image': self.images[index], 'label': int(label) if self.labels.dtype == np.int32 else label}

    def described(self) -> dict[str, Any]:
        """For the config of a run: shapes and a checksum, by which other arrays are told from these."""
        checksum = zlib.crc32(np.ascontiguousarray(self.labels).data)
        for first in range(0, len(self), 1000):  # An array that lies on disk is read piece by piece.
            checksum = zlib.crc32(np.ascontiguousarray(self.images[first : first + 1000]).data, checksum)
        shapes = [f'{array.dtype}{list(array.shape)}' for array in (self.images, self.labels)]
        return {'kind': 'data.ArraySource', 'arrays': shapes, 'crc32': checksum}


def _labels(labels: np.ndarray) -> np.ndarray:
    """int32 (n,) for classes, float32 for all else. Raises ValueError for what are no numbers."""
    if labels.ndim == 2 and labels.shape[1] == 1 and np.issubdtype(labels.dtype, np.integer):
        labels = labels[:, 0]
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        bounds = np.iinfo(np.int32)
        if len(labels) and (labels.min() < bounds.min or labels.max() > bounds.max):
            raise ValueError(
                f'labels: got values from {labels.min()} to {labels.max()}, expected classes from 0 upwards'
            )
        return labels.astype(np.int32)
    if labels.ndim == 0 or not (np.issubdtype(labels.dtype, np.number) or labels.dtype == bool):
        raise ValueError(
            f'labels: got dtype {labels.dtype}, expected integers, a class an image; '
            'names become numbers by: classes, labels = numpy.unique(names, return_inverse=True)'
        )
    return labels.astype(np.float32)


def in_memory(examples: Iterable, count: int | None = None) -> ArraySource:
    """What a generator gives, held in memory, so that it can be shuffled and read again every epoch.

    Args:
        examples: (image, label) pairs, or mappings with `image` and `label`; images of one size.
        count: how many are taken; None: all, which a generator without end never gives.

    Returns:
        A source.

    Raises:
        ValueError: for no example, for images of several sizes, and as `ArraySource` does.

    Example:
        >>> len(in_memory((np.zeros((4, 4, 1), np.uint8), i % 2) for i in range(6)))
        6
    """
    pairs = [
        (example['image'], example['label']) if isinstance(example, Mapping) else example
        for example in itertools.islice(examples, count)
    ]
    if not pairs:
        raise ValueError('in_memory: got no examples, expected at least one')
    images, labels = zip(*pairs, strict=True)
    for pair in pairs:
        check_unmasked('images', pair[0])
        check_unmasked('labels', pair[1])
    shapes = list(dict.fromkeys(map(np.shape, images)))
    if len(shapes) > 1:
        raise ValueError(
            f'in_memory: got images of shapes {shapes[0]} and {shapes[1]}, expected one size; scale them first'
        )
    return ArraySource(np.stack(images), np.asarray(labels))


def check_labels(source: Source, num_classes: int, classes: bool = True) -> None:
    """Raises ValueError for a source without images, and for labels that are not what a network takes.

    Args:
        source: its `labels`, in memory, are looked at, or where it has none its first example.
        num_classes: of the network.
        classes: whether every label must be a class, or the shares of all classes; if not, only integers are looked at.
    """
    if len(source) == 0:
        raise ValueError('data set: got no images, expected at least one; check data_dir and split')
    labels = np.asarray(getattr(source, 'labels', None))
    if labels.ndim == 0:
        if not classes:
            return
        example = source[0]
        if not (isinstance(example, Mapping) and 'image' in example):
            raise ValueError(
                f"data set: got a {type(example).__name__} as example, expected {{'image': ..., 'label': ...}}"
            )
        labels = np.asarray(example.get('label'))[None]
    integers = np.issubdtype(labels.dtype, np.integer)
    if (
        classes
        and not integers
        and not (np.issubdtype(labels.dtype, np.floating) and labels.shape[1:] == (num_classes,))
    ):
        raise ValueError(
            f'labels: got {labels.dtype}{list(labels.shape)}, the first is {labels[0]}, expected integers, a class an image, '
            f'or a share of each of {num_classes} classes; labels of another kind want a loss of your own'
        )
    if integers and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
            'is num_classes that of the data set?'
        )


class Subset:
    """Some images of a source, in the order of `indices`; `skipped` says why others are missing."""

    def __init__(self, source: Source, indices: np.ndarray, skipped: tuple[str, ...] = ()):
        self.source, self.indices, self.skipped = source, indices, skipped
        self.classes: tuple[str, ...] = tuple(getattr(source, 'classes', ()))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.indices[index])]

    def described(self) -> dict[str, Any]:
        """For the config of a run: what it is a part of, and a checksum of the part."""
        return {
            'kind': 'data.Subset',
            'source': self.source,
            'crc32': zlib.crc32(np.ascontiguousarray(self.indices).data),
        }


@dataclasses.dataclass(frozen=True)
class Splits:
    """Two sources as the `data` of a Config: one to train on, one to test on.

    Example:
        >>> images, labels = np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2
        >>> data = Splits.held_out(ArraySource(images, labels), share=0.2)
        >>> len(data('train')), len(data('test'))
        (8, 2)
    """

    train: Source
    test: Source

    def __call__(self, split: str, data_dir: str = '') -> Source:
        if split not in ('train', 'test'):
            raise ValueError(f"split: got {split!r}, expected 'train' or 'test'")
        return self.train if split == 'train' else self.test

    @staticmethod
    def held_out(source: Source, share: float = 0.2, seed: int = 0) -> 'Splits':
        """A source in two: a random share of the images to test on, the others to train on; the same for the same seed.

        Raises:
            ValueError: if one of the parts would be empty.
        """
        order, tested = np.random.default_rng(seed).permutation(len(source)), round(share * len(source))
        if not 0 < tested < len(source):
            raise ValueError(
                f'held_out: got share {share} of {len(source)} images, expected at least one image in either part'
            )
        parts = (np.sort(order[tested:]), np.sort(order[:tested]))
        # As arrays again, which may lie on an accelerator; a subclass may read its images in another way.
        if type(source) is ArraySource:
            return Splits(*(ArraySource(source.images[part], source.labels[part], source.classes) for part in parts))
        return Splits(*(Subset(source, part) for part in parts))
