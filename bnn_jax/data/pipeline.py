"""From a source to batches: shuffling, augmentation, normalization, reading ahead.

A training batch depends on seed and step alone. It is the same whether threads or workers make it, on one host or many.
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
"""The largest number of workers per CPU core: a worker takes memory, and a second to start."""

WHOLE = (0, 1)
"""The shard of a single host."""


@dataclasses.dataclass(frozen=True)
class _Prepare:
    """(example, rng) -> {'image': augmented and normalized, 'label'}.

    A ValueError begins with the name of the example, if it has one.
    """

    augmentations: tuple[Augmentation, ...]
    standardize: Normalization

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        image = element['image']
        try:
            check_unmasked('image', image)
            check_unmasked('label', element.get('label'))
            for augmentation in self.augmentations:
                image = augmentation(image, rng)
            return {'image': self.standardize(image), 'label': _label(element)}
        except ValueError as error:
            if 'name' not in element:
                raise
            raise ValueError(f'{element["name"]}: {error}') from error


def _label(example: dict) -> np.ndarray:
    """The label as int32 if it is a class, else as float32. Raises ValueError if it is not a number."""
    label = np.asarray(example.get('label'))
    if np.issubdtype(label.dtype, np.integer) and label.size == 1:
        return label.astype(np.int32).reshape(())
    if not np.issubdtype(label.dtype, np.number):
        raise ValueError(
            f'label: got {example.get("label")!r} in an example with the keys {sorted(example)}, expected the number '
            'of its class (an integer), or floats'
        )
    return label.astype(np.float32)


def _batch(examples: Sequence[dict]) -> dict:
    """Stack examples to a batch. Raises ValueError for images of several sizes."""
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
    """Takes the place of the random generator in evaluation; using it raises ValueError."""

    def __getattr__(self, name: str):
        if name.startswith('__'):  # Python itself asks for such attributes, for example to pickle this.
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
    """The batches of training, and the number of steps of an epoch.

    Each epoch is shuffled and augmented anew. Images that do not fill a whole batch are dropped, different ones in each epoch.
    batches[step] depends on seed and step alone, so a run can resume at any step.

    Args:
        source: the training images.
        batch_size: images of a batch, over all hosts.
        seed: the seed of shuffling and augmentation.
        standardize: the normalization.
        augmentations: applied in this order.
        shard: (index, count): host `index` of `count` gets its part of each batch, batch_size / count images. The parts of all
            hosts, in order of index, make the batch that a single host would get. Each host decodes only its own images.

    Returns:
        (batches, epoch_steps): batches[step] -> {'image': float32 (n, H, W, C), 'label': int32 (n,)} for any step from
        0, with n = batch_size / count; and the number of steps of an epoch. Labels that are not classes are float32
        (n, ...).

    Raises:
        ValueError: the source is empty or smaller than a batch, batch_size is below 1, shard is out of bounds, or hosts
            cannot share a batch evenly.

    Example:
        >>> from bnn_jax import data
        >>> source = data.ArraySource(np.zeros((10, 8, 8), np.uint8), np.arange(10))
        >>> batches, epoch_steps = data.training_batches(source, batch_size=4, seed=0, standardize=data.PlusMinusOne())
        >>> batches[0]['image'].shape, epoch_steps
        ((4, 8, 8, 1), 2)
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
    """Yield batches[first] to batches[last - 1], and prepare the next ones meanwhile.

    Args:
        batches: the batches of `training_batches`.
        first: the first step.
        last: one more than the last step.
        workers: how many processes make batches; 0: two threads do. The processes are spawned, so the main script must guard
            its work with `if __name__ == '__main__'`, and source, augmentations and normalization must be picklable.
            Each process keeps a few batches in shared memory (/dev/shm) and starts no JAX backend. Closing the iterator
            ends the processes.
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
    """The batches of evaluation: each image once, in order. The last batch may be smaller.

    Args:
        source: the test images.
        batch_size: images of a batch, over all hosts.
        standardize: the normalization.
        augmentations: without random numbers, applied in this order.
        shard: (index, count): host `index` of `count` gets its part of each batch, at most batch_size / count images. The
            parts of all hosts, in order of index, make the batch that a single host would get. All hosts get the same number of
            batches, so that they can compute together; the last part of a host may be smaller or empty, (0, H, W, C).
        workers: as for `steps_from`.

    Yields:
        {'image': float32 (n, H, W, C), 'label': int32 (n,)}. Labels that are not classes are float32 (n, ...).

    Raises:
        ValueError: the source is empty, batch_size is below 1, hosts cannot share a batch evenly, shard or workers is
            out of bounds, an augmentation draws random numbers, images of a batch have several sizes, or a label is not
            numeric.
        OSError: a worker died.

    Example:
        >>> from bnn_jax import data
        >>> source = data.ArraySource(np.zeros((5, 8, 8), np.uint8), np.arange(5))
        >>> batches = data.evaluation_batches(source, batch_size=4, standardize=data.PlusMinusOne())
        >>> [len(batch['label']) for batch in batches]
        [4, 1]
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
    """Import Grain only where batches are made: a program that only prepares images does not need it."""
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
        raise ValueError(
            f'workers: got {workers}, expected 0 (threads) to {most} ({WORKERS_A_PROCESSOR} per processor)'
        )
    grain = _grain()
    if workers and len(batches):
        _mark_flags_as_parsed()
        # A worker needs no further threads, because there is usually about one worker for each core.
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
    """Processes that start inside this context never receive SIGINT or SIGTERM.

    Otherwise Ctrl-C, or SIGTERM to the process group, would end them too. But the main process decides what to do, and
    may still need their batches before it ends. Signals to the main process are delivered after this context.
    """
    resource_tracker.ensure_running()  # Starting the tracker after the next line would let signals through again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(index: int, count: int) -> None:
    """Make a worker ignore interrupts, and end soon after the main process ends, even if the main process was killed."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _mark_flags_as_parsed() -> None:
    """Mark absl flags as parsed: Grain reads them for its workers, and absl would raise. They can still be parsed later."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
