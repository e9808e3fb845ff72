"""From a source to batches: shuffling, augmentation, normalization, prefetching; a function of (seed, step) alone.

Whatever decodes and augments them, one thread or many worker processes, on one host or many, batches are the same.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bnn_jax.command import of_extra
from bnn_jax.data.augmentations import Augmentation, Normalization
from bnn_jax.data.source import Source, check_unmasked

if TYPE_CHECKING:
    import grain

WORKERS_A_PROCESSOR = 16
"""Processes that read images, at most: each takes memory and a second to start."""

WHOLE = (0, 1)
"""The shard of a host that is alone."""


@dataclasses.dataclass(frozen=True)
class _Prepare:
    augmentations: tuple[Augmentation, ...]
    standardize: Normalization

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        image = element['image']
        check_unmasked('image', image)
        check_unmasked('label', element.get('label'))
        try:
            for augmentation in self.augmentations:
                image = augmentation(image, rng)
            return {'image': self.standardize(image), 'label': _label(element)}
        except ValueError as error:
            if 'name' not in element:
                raise
            raise ValueError(f'{element["name"]}: {error}') from error


def _label(example: dict) -> np.ndarray:
    """int32 for a class, float32 for labels of another kind. Raises ValueError for what is no number."""
    label = np.asarray(example.get('label'))
    if np.issubdtype(label.dtype, np.integer) and label.size == 1:
        return label.astype(np.int32).reshape(())
    if not np.issubdtype(label.dtype, np.number):
        raise ValueError(
            f'label: got {example.get("label")!r} in an example with {sorted(example)}, expected an integer, its class'
        )
    return label.astype(np.float32)


def _batch(examples: Sequence[dict]) -> dict:
    """One batch. Raises ValueError for images of several sizes."""
    shapes = list(dict.fromkeys(np.shape(example['image']) for example in examples))
    if len(shapes) > 1:
        one, other = ('x'.join(map(str, shape)) for shape in shapes[:2])
        raise ValueError(
            f'batch: got images of {one} and of {other}, expected one size; put a step that gives all of them one size, such '
            'as resize_to(height, width), or resize_short(size) and then a crop, into augmentations and, for '
            'test images, evaluation_augmentations'
        )
    return {key: np.stack([np.asarray(example[key]) for example in examples]) for key in ('image', 'label')}


class NoRandomness:
    """Stands for the generator where results must not depend on chance."""

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        raise ValueError(
            f'evaluation: an augmentation draws random numbers ({name}), expected deterministic ones, '
            'such as resize_short(256), center_crop(224)'
        )


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    standardize: Normalization,
    augmentations: Sequence[Augmentation] = (),
    shard: tuple[int, int] = WHOLE,
) -> tuple['grain.MapDataset', int]:
    """Endless batches by step, and how many make an epoch.

    batches[step] -> {'image': float32 (batch_size, H, W, C), 'label': int32 (batch_size,)}. Every epoch is shuffled and
    augmented anew; what is left over from whole batches is dropped, other images every epoch. batches[step] depends on
    seed and step only, so training resumes anywhere by its step number.
    shard (index, count): the part of host `index` of `count`, batch_size / count images of every batch; the parts of all
    hosts, in their order, are the batch of one host alone. No host decodes another's images.
    Raises ValueError for an empty source, one smaller than a batch, or a batch that hosts cannot share evenly.
    """
    _check_not_empty(source)
    if not 1 <= batch_size <= len(source):
        raise ValueError(f'batch_size: got {batch_size}, expected 1 to {len(source)}, the number of images')
    index, count = _checked_shard(shard, batch_size)
    epoch_steps = len(source) // batch_size
    parts = (
        _grain()
        .MapDataset.source(cast(Any, source))
        .seed(seed)
        .shuffle()
        .random_map(_Prepare(tuple(augmentations), standardize))
        .batch(batch_size // count, drop_remainder=True, batch_fn=_batch)
        .slice(slice(index, epoch_steps * count, count))
    )
    return parts.repeat(), epoch_steps


def steps_from(batches: 'grain.MapDataset', first: int, last: int, *, workers: int = 0) -> Generator[dict, None, None]:
    """batches[first], ..., batches[last - 1], read ahead: by two threads, or by `workers` processes, each a whole batch.

    Processes are spawned: the main script must guard its work by `if __name__ == '__main__'`, source and augmentations
    must pickle, and a few batches a worker lie in shared memory (/dev/shm). They initialize no JAX backend; closing the
    iterator ends them.
    """
    return _read(batches.slice(slice(first, last)), workers)


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    standardize: Normalization,
    augmentations: Sequence[Augmentation] = (),
    shard: tuple[int, int] = WHOLE,
    workers: int = 0,
) -> Generator[dict, None, None]:
    """Every image once, in order; the last batch may be smaller. augmentations: deterministic ones.

    shard (index, count): the part of host `index` of `count`, at most batch_size / count images a batch; the parts of all
    hosts, in their order, are the batch of one host alone. Every host gets as many batches, so that all take part in every
    step; of the last batch a host's part may be smaller, or empty: (0, H, W, C). workers: as for `steps_from`.
    Raises ValueError for an empty source, a batch that hosts cannot share evenly, or an augmentation that is random.
    """
    _check_not_empty(source)
    index, count = _checked_shard(shard, batch_size)
    prepare = functools.partial(_Prepare(tuple(augmentations), standardize), rng=cast(Any, NoRandomness()))
    examples = _grain().MapDataset.source(cast(Any, source)).map(prepare)
    parts = examples.batch(batch_size // count, batch_fn=_batch).slice(slice(index, None, count))
    yield from _read(parts, workers)
    if len(parts) < -(-len(source) // batch_size):
        first = cast(dict, examples[0])
        yield {key: np.asarray(value)[None][:0] for key, value in first.items()}


def _grain() -> ModuleType:
    """Imported where batches are made: whoever only prepares an image needs none of it."""
    with of_extra('train'):
        import grain
    return grain


def _check_not_empty(source: Source) -> None:
    if len(source) == 0:
        raise ValueError('data set: got no images, expected at least one; check data_dir and split')


def _checked_shard(shard: tuple[int, int], batch_size: int) -> tuple[int, int]:
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f'shard: got {shard}, expected (index, count) with 0 <= index < count')
    if batch_size < 1 or batch_size % count:
        raise ValueError(f'batch_size: got {batch_size} for {count} hosts, expected a positive multiple of {count}')
    return index, count


def _read(batches: 'grain.MapDataset', workers: int) -> Generator[dict, None, None]:
    most = WORKERS_A_PROCESSOR * (os.cpu_count() or 1)
    if not 0 <= workers <= most:
        raise ValueError(f'workers: got {workers}, expected 0 (threads) to {most}, {WORKERS_A_PROCESSOR} a processor')
    grain = _grain()
    if workers and len(batches):
        _mark_flags_as_parsed()
        # In a worker one thread does everything: there is a worker for every core.
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        options = grain.MultiprocessingOptions(num_workers=min(workers, len(batches)))
        dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    else:
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    iterator = iter(dataset)
    try:
        with _interrupts_held_back() if workers else contextlib.nullcontext():
            first = next(iterator, None)
        if first is not None:
            yield first
        yield from iterator
    except RuntimeError as error:
        if 'Worker process' not in str(error):
            raise
        raise OSError(
            f'a process that reads images died ({error}); use fewer --workers, or give more memory or space in /dev/shm'
        ) from error
    finally:
        iterator.close()


INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes that start meanwhile, from this thread or from those it starts, get no Ctrl-C, from their first moment on.

    Ctrl-C, and SIGTERM to a group, reach every process; the main one decides, and may want batches before it ends. What it
    is sent meanwhile it gets afterwards.
    """
    resource_tracker.ensure_running()  # When it starts it lets them through again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(index: int, count: int) -> None:
    """No interrupts, and an end soon after that of the process that started this one, even if it was killed."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _mark_flags_as_parsed() -> None:
    """Grain's workers read absl flags, an error before anyone parsed them; who parses them later still can."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
