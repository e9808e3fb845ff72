"""Sources: data sets with random access to images and labels."""

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike


class Source(Protocol):
    """A data set with random access: source[i] -> {'image': uint8 or floating (H, W, C), 'label': int}.

    A label may also be an array of floats: the share of each class, or a label for a loss of your own. A source may have an
    attribute `classes`, a name for each class; an example may have `name`, for error messages.

    Example:
        >>> class Squares:
        ...     def __len__(self):
        ...         return 10
        ...     def __getitem__(self, index):
        ...         return {'image': np.full((8, 8, 1), index, np.uint8), 'label': index % 2}
        >>> check_labels(Squares(), 2)
    """

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, index: int) -> dict:
        """An example: image and label."""
        ...


def check_unmasked(name: str, array: Any) -> None:
    """Raises ValueError for a masked array, because NumPy would use its masked numbers as well.

    Args:
        name: the name of the array, for the message.
        array: any value.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(f'{name}: got a masked array, expected numbers everywhere; give {name}.filled(VALUE)')


class ArraySource:
    """A source held in memory.

    Args:
        images: uint8 or floating, (n, H, W, C) with any number of channels, or (n, H, W) for one channel.
        labels: classes, integers (n,) or (n, 1). All other numbers become float32: floats (n, num_classes) are the share of
            each class; others, such as floats (n,), are labels for a loss of your own.
        classes: a name for each class, which `bnn-jax convert` stores in the packed file.

    Raises:
        ValueError: images or labels have other shapes or dtypes, or are masked arrays, or a class does not fit into int32.

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
                f'labels: got shape {list(targets.shape)} for {len(pixels)} images, expected one label for each image'
            )
        self.images, self.labels, self.classes = pixels, _labels(targets), tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        label = self.labels[index]
        return {'image': self.images[index], 'label': int(label) if self.labels.dtype == np.int32 else label}

    def described(self) -> dict[str, Any]:
        """How config.json describes the source: dtypes, shapes, and a checksum that tells its arrays from others."""
        checksum = zlib.crc32(np.ascontiguousarray(self.labels).data)
        for first in range(0, len(self), 1000):  # Piece by piece: the array may be a mapped file, larger than memory.
            checksum = zlib.crc32(np.ascontiguousarray(self.images[first : first + 1000]).data, checksum)
        shapes = [f'{array.dtype}{list(array.shape)}' for array in (self.images, self.labels)]
        return {'kind': 'data.ArraySource', 'arrays': shapes, 'crc32': checksum}


def _labels(labels: np.ndarray) -> np.ndarray:
    """Labels as int32 (n,) if they are classes, else as float32. Raises ValueError if they are not numbers."""
    if labels.ndim == 2 and labels.shape[1] == 1 and np.issubdtype(labels.dtype, np.integer):
        labels = labels[:, 0]
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        bounds = np.iinfo(np.int32)
        if len(labels) and (labels.min() < bounds.min or labels.max() > bounds.max):
            raise ValueError(
                f'labels: got values from {labels.min()} to {labels.max()}, expected classes from 0 to {bounds.max}'
            )
        return labels.astype(np.int32)
    if labels.ndim == 0 or not (np.issubdtype(labels.dtype, np.number) or labels.dtype == bool):
        raise ValueError(
            f'labels: got dtype {labels.dtype}, expected integers, one class per image; '
            'for names write classes, labels = numpy.unique(names, return_inverse=True)'
        )
    return labels.astype(np.float32)


def in_memory(examples: Iterable, count: int | None = None) -> ArraySource:
    """Read the examples of a generator into memory, so that each epoch can use them in another order.

    Args:
        examples: (image, label) pairs, or mappings with `image` and `label`; images of one size.
        count: how many are taken; None: all, so the generator must end.

    Returns:
        A source.

    Raises:
        ValueError: there are no examples, or images of several sizes; or as `ArraySource`.

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
    """Raises ValueError for a source without images, or with labels that do not fit a network.

    Args:
        source: its attribute `labels` is checked; if it has none, its first example.
        num_classes: the number of classes of the network.
        classes: whether each label must be a class or the shares of all classes. If not, only integers in the attribute
            `labels` are checked.

    Example:
        >>> check_labels(ArraySource(np.zeros((2, 8, 8), np.uint8), [0, 7]), 3)
        Traceback (most recent call last):
        ValueError: labels: got values from 0 to 7, expected 0 to 2; is num_classes that of the data set?
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
            f'labels: got {labels.dtype}{list(labels.shape)}, the first is {labels[0]}, expected integers, one class per '
            f'image, or a share of each of {num_classes} classes; labels of another kind need a loss of your own'
        )
    if integers and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'labels: got values from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}; '
            'is num_classes that of the data set?'
        )


class Subset:
    """Some images of a source.

    Args:
        source: the whole source.
        indices: which images of the whole source this source has, in order.
        skipped: the error messages of images that were left out.
    """

    def __init__(self, source: Source, indices: np.ndarray, skipped: tuple[str, ...] = ()):
        self.source, self.indices, self.skipped = source, indices, skipped
        self.classes: tuple[str, ...] = tuple(getattr(source, 'classes', ()))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.indices[index])]

    def described(self) -> dict[str, Any]:
        """How config.json describes the subset: the whole source, and a checksum of the indices."""
        return {
            'kind': 'data.Subset',
            'source': self.source,
            'crc32': zlib.crc32(np.ascontiguousarray(self.indices).data),
        }


@dataclasses.dataclass(frozen=True)
class Splits:
    """Two sources as the `data` of a Config: one for training, one for tests.

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
        """Split a source at random: a share of the images for tests, the others for training.

        Args:
            source: all images.
            share: the share of the images for tests.
            seed: the same seed gives the same split.

        Raises:
            ValueError: one of the parts would be empty.
        """
        order, tested = np.random.default_rng(seed).permutation(len(source)), round(share * len(source))
        if not 0 < tested < len(source):
            raise ValueError(
                f'held_out: got share {share} of {len(source)} images, expected at least one image in each part'
            )
        parts = (np.sort(order[tested:]), np.sort(order[:tested]))
        # The parts of an ArraySource are arrays too, so that they can lie on an accelerator. A subclass may read images in
        # another way, so its parts are subsets.
        if type(source) is ArraySource:
            return Splits(*(ArraySource(source.images[part], source.labels[part], source.classes) for part in parts))
        return Splits(*(Subset(source, part) for part in parts))
