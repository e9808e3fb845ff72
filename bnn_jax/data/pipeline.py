"""From a source to batches: shuffling, augmentation, normalisation, prefetching; a function of (seed, step) alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import grain
import numpy as np

from bnn_jax.data.source import Source

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left-right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class crop:
    """Pad all four sides by `padding` zeros and cut a random window of the original size."""

    padding: int = 4

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        p, (height, width) = self.padding, image.shape[:2]
        top, left = rng.integers(0, 2 * p + 1, size=2)
        padded = np.pad(image, ((p, p), (p, p), (0, 0)))
        return padded[top : top + height, left : left + width]


@dataclasses.dataclass(frozen=True)
class Standardize:
    """uint8 image -> float32 (image / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != len(self.mean):
            raise ValueError(f'image: got {image.dtype}{list(image.shape)}, expected uint8 (H, W, {len(self.mean)})')
        scaled = image.astype(np.float32) / np.float32(255)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


@dataclasses.dataclass(frozen=True)
class _Augment(grain.transforms.RandomMap):
    augmentations: tuple[Augmentation, ...]
    standardize: Callable[[np.ndarray], np.ndarray]

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        image = element['image']
        for augmentation in self.augmentations:
            image = augmentation(image, rng)
        return {'image': self.standardize(image), 'label': np.int32(element['label'])}


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    standardize: Callable[[np.ndarray], np.ndarray],
    augmentations: Sequence[Augmentation] = (),
) -> tuple[grain.MapDataset, int]:
    """Endless batches by step, and how many make an epoch.

    batches[step] -> {'image': float32 (batch_size, H, W, C), 'label': int32 (batch_size,)}. Every epoch is shuffled and
    augmented anew; what is left over from whole batches is dropped, other images every epoch. batches[step] depends on
    seed and step only, so training resumes anywhere by its step number.
    Raises ValueError for an empty source or one smaller than a batch.
    """
    if len(source) == 0:
        raise ValueError('data set: got no images, expected at least one; check data_dir and split')
    if not 1 <= batch_size <= len(source):
        raise ValueError(f'batch_size: got {batch_size}, expected 1 to {len(source)}, the number of images')
    batches = (
        grain.MapDataset.source(cast(Any, source))
        .seed(seed)
        .shuffle()
        .random_map(_Augment(tuple(augmentations), standardize))
        .batch(batch_size, drop_remainder=True)
    )
    return batches.repeat(), len(batches)


def steps_from(batches: grain.MapDataset, first: int, last: int) -> Iterator[dict]:
    """batches[first], ..., batches[last - 1], read ahead in threads."""
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(batches.slice(slice(first, last)).to_iter_dataset(options))


def evaluation_batches(
    source: Source, *, batch_size: int, standardize: Callable[[np.ndarray], np.ndarray]
) -> Iterator[dict]:
    """Every image once, in order; the last batch may be smaller. Raises ValueError for an empty source."""
    if len(source) == 0:
        raise ValueError('data set: got no images, expected at least one; check data_dir and split')
    dataset = grain.MapDataset.source(cast(Any, source)).random_map(_Augment((), standardize), seed=0).batch(batch_size)
    yield from dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
