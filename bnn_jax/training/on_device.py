"""Training images that lie on the devices, as uint8: shuffled, augmented and normalized there, many steps a compiled call.

A batch is a function of (seed, step) alone: neither the number of devices nor how many steps one call takes changes it. It is
not the batch that `data.training_batches` draws for that step, so a run goes on in the way in which it began.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from bnn_jax.data import Source

Augment = Callable[[Array, Array], Array]
"""(images, key) -> images: uint8 (N, H, W, C), each image changed by numbers of its own, drawn from the key alone."""

STREAM = 0x1A6E5
"""Folded into the seed, so that images are drawn by other random numbers than the network's weights and dropout."""

SHARE_OF_MEMORY = 0.25
"""Of a device's memory, at most, that images may take where the device says how much it has."""

COMPARED = 16
"""Images on which a normalization is compared with its table."""


# Augmentations.


def flipped(images: Array, key: Array) -> Array:
    """Each image mirrored left-right with probability 1/2: `data.flip`."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cropped(images: Array, key: Array, padding: int) -> Array:
    """A window of each image, padded by zeros, every position equally likely: `data.crop`."""
    number, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (number, 2), 0, 2 * padding + 1)
    return _windows(padded, corners, height, width)


def cut(images: Array, key: Array, size: int) -> Array:
    """A size x size window of each image, every position equally likely: `data.random_crop`."""
    number, height, width, _ = images.shape
    corners = jax.random.randint(key, (number, 2), 0, jnp.array([[height - size + 1, width - size + 1]]))
    return _windows(images, corners, size, size)


def with_hole(images: Array, key: Array, size: int) -> Array:
    """Each image with a square of zeros round a pixel, every pixel equally likely: `data.cutout`."""
    number, height, width, _ = images.shape
    corners = jax.random.randint(key, (number, 2), 0, jnp.array([[height, width]])) - size // 2

    def inside(corner: Array, length: int) -> Array:
        place = jnp.arange(length)[None] - corner[:, None]
        return (place >= 0) & (place < size)

    hole = inside(corners[:, 0], height)[:, :, None, None] & inside(corners[:, 1], width)[:, None, :, None]
    return jnp.where(hole, jnp.uint8(0), images)


def _windows(images: Array, corners: Array, height: int, width: int) -> Array:
    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, image.shape[-1]))

    return jax.vmap(window)(images, corners)


def batched(augmentation: Any) -> Augment | None:
    """What does on the device to a batch what an augmentation of `bnn_jax.data` does to an image; None where nothing does.

    An augmentation of your own says it by a method `on_device(images, key) -> images`: uint8 (N, H, W, C) in and out, each
    image by numbers of its own, drawn from the key alone.
    """
    from bnn_jax import data

    if augmentation is data.flip:
        return flipped
    if isinstance(augmentation, data.crop):
        return functools.partial(cropped, padding=augmentation.padding)
    if isinstance(augmentation, data.random_crop):
        return functools.partial(cut, size=augmentation.size)
    if isinstance(augmentation, data.cutout):
        return functools.partial(with_hole, size=augmentation.size)
    return getattr(augmentation, 'on_device', None)


def once_and_anew(augmentations: Sequence) -> tuple[tuple, tuple[Augment, ...]]:
    """The first augmentations, which draw nothing and are done once on the host, and the others as `batched` has them.

    Raises:
        ValueError: for one of the others that cannot be done on the device.
    """
    from bnn_jax import data

    sizes = (data.resize_short, data.resize_to, data.center_crop)
    once = tuple(itertools.takewhile(lambda augmentation: isinstance(augmentation, sizes), augmentations))
    anew = []
    for augmentation in augmentations[len(once) :]:
        on_batches = batched(augmentation)
        if on_batches is None:
            raise ValueError(f'the augmentation {augmentation!r} has no method on_device(images, key)')
        anew.append(on_batches)
    return once, tuple(anew)


def prepared(images: np.ndarray, augmentations: Sequence[Callable]) -> np.ndarray:
    """All images after augmentations that draw nothing: uint8 (N, H, W, channels).

    Raises:
        ValueError: for an augmentation that draws random numbers, or makes other than uint8 of an image.
    """
    if not augmentations:
        return images
    done = np.stack([augmented(image, augmentations) for image in images])
    if done.dtype != np.uint8:
        raise ValueError(
            f'augmentations: got {done.dtype} images of {list(augmentations)}, expected uint8; for others set on_device=False'
        )
    return done


def augmented(image: np.ndarray, augmentations: Sequence[Callable]) -> np.ndarray:
    """An image after augmentations that draw nothing. Raises ValueError for one that does."""
    from bnn_jax.data.pipeline import NoRandomness

    return functools.reduce(lambda image, augment: augment(image, NoRandomness()), augmentations, image)


# Normalization.


def pixel_table(standardize: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray | None:
    """What a normalization makes of each of the 256 values of a pixel, float32 (256, channels).

    Looked up, it gives the normalization's own numbers to the bit. None for one that looks at more than a pixel, such as
    whitening: compared on some of the images. None as well for one that fails on an image of 256 x 1 pixels.

    Args:
        standardize: image -> float image of the same shape.
        images: uint8 (N, H, W, channels).
    """
    channels = images.shape[-1]
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, channels))
    try:
        table = np.asarray(standardize(np.ascontiguousarray(ramp)))
    except Exception:  # It was written for images of the data set, and this is none.
        return None
    if table.shape != ramp.shape or table.dtype != np.float32:
        return None
    table = table[:, 0]
    for image in images[:COMPARED]:
        if not np.array_equal(table[image, np.arange(channels)], standardize(image), equal_nan=True):
            return None
    return table


def looked_up(table: Array, images: Array) -> Array:
    """The rows of `pixel_table` for each pixel."""
    channels = images.shape[-1]
    channel = jax.lax.broadcasted_iota(jnp.int32, images.shape, images.ndim - 1)
    return table.reshape(-1)[images.astype(jnp.int32) * channels + channel]


# Batches.


@dataclasses.dataclass(frozen=True)
class Draw:
    """Which images make the batch of a step, and how they are changed; pure functions, to be compiled with what uses them."""

    seed: int
    batch_size: int
    # of the training set
    images: int
    # (images, key) -> images
    augmentations: tuple[Augment, ...] = ()
    # over whose devices a batch is spread; None: it stays on one
    mesh: Mesh | None = None

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch; what is left over from whole batches is dropped, other images every epoch."""
        return self.images // self.batch_size

    def order(self, epoch: Array) -> Array:
        """All images of the training set, shuffled anew every epoch."""
        return jax.random.permutation(jax.random.fold_in(self._keys()[0], epoch), self.images)

    def batch(self, lying: dict[str, Array], step: Array, order: Array | None = None) -> dict[str, Array]:
        """The batch of a step, counted from 0: normalized `image` and `label`.

        Args:
            lying: `image`, `label` and `table` (`pixel_table`) of the training set.
            step: counted from the first of the run.
            order: that of the step's epoch, where it is at hand.
        """
        if order is None:
            order = self.order(step // self.epoch_steps)
        first = step % self.epoch_steps * self.batch_size
        indices = self._spread(jax.lax.dynamic_slice(order, (first,), (self.batch_size,)))
        images, key = lying['image'][indices], jax.random.fold_in(self._keys()[1], step)
        for number, augmentation in enumerate(self.augmentations):
            images = augmentation(images, jax.random.fold_in(key, number))
        return {'image': self._spread(looked_up(lying['table'], images)), 'label': lying['label'][indices]}

    def _keys(self) -> Array:
        # Named: another default of JAX would draw other batches.
        return jax.random.split(jax.random.fold_in(jax.random.key(self.seed, impl='threefry2x32'), STREAM))

    def _spread(self, array: Array) -> Array:
        if self.mesh is None:
            return array
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec('data')))


def many(step: Callable, draw: Draw, most: int) -> Callable:
    """(state, images as `Draw.batch` takes them, count) -> (state, metrics): `count` steps, at most `most`, of one epoch.

    Every metric is an array of `most` numbers, of which the first `count` are those of the steps. Pure; to be compiled.
    """

    def steps(state: Any, lying: dict[str, Array], count: Array) -> tuple[Any, dict[str, Array]]:
        order = draw.order(state.step // draw.epoch_steps)

        def one(i: Array, done: tuple[Any, dict[str, Array]]) -> tuple[Any, dict[str, Array]]:
            state, seen = done
            state, metrics = step(state, draw.batch(lying, state.step, order))
            return state, {name: seen[name].at[i].set(value) for name, value in metrics.items()}

        _, shapes = jax.eval_shape(lambda state: step(state, draw.batch(lying, state.step, order)), state)
        seen = {name: jnp.zeros(most, shape.dtype) for name, shape in shapes.items()}
        # Not `scan`, whose length is compiled in: one program serves calls of every length, up to a watched step.
        return jax.lax.fori_loop(0, count, one, (state, seen))

    return steps


# Whether.


def reason_against(
    train: 'Source', test: 'Source', standardize: Callable, augmentations: Sequence, evaluation_augmentations: Sequence
) -> str | None:
    """Why the images of a run cannot lie on the devices, as the end of a sentence; None where they can.

    Args:
        train, test: the sources.
        standardize, augmentations, evaluation_augmentations: those of the run.

    Raises:
        ValueError: for an augmentation of evaluation that draws random numbers.
    """
    from bnn_jax.data import ArraySource

    for name, source in (('training', train), ('test', test)):
        images = getattr(source, 'images', None)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            return f'the {name} images are not held in memory as uint8 (data.ArraySource, TfdsSource.in_memory())'
        # On the devices nobody calls it.
        if getattr(type(source), '__getitem__', None) is not ArraySource.__getitem__:
            return (
                f'the {name} images are read by a __getitem__ of {type(source).__name__}, not that of data.ArraySource'
            )
        labels = getattr(source, 'labels', None)
        if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
            return f'the labels of the {name} images are no classes'
    try:
        once, _ = once_and_anew(augmentations)
    except ValueError as error:
        return str(error)
    if len(train) and pixel_table(standardize, train.images) is None:  # pyright: ignore[reportAttributeAccessIssue]
        return f'the normalization {standardize!r} looks at more than one pixel at a time, or fails on 256 x 1 pixels'
    channels, needed = train.images.shape[-1], 0  # pyright: ignore[reportAttributeAccessIssue]
    for name, source, steps in (('training', train, once), ('test', test, evaluation_augmentations)):
        if len(source) == 0:
            continue
        image = np.asarray(augmented(source.images[0], steps))  # pyright: ignore[reportAttributeAccessIssue]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != channels:
            got = f'{image.dtype}{list(image.shape)}'
            return f'a {name} image becomes {got} by {list(steps)}, expected uint8 (H, W, {channels})'
        needed += len(source) * image.nbytes
    there = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')
    if there is not None and needed > SHARE_OF_MEMORY * there:
        return f'the images take {needed / 1e9:.1f} GB, more than {SHARE_OF_MEMORY:.0%} of the {there / 1e9:.0f} GB of a device'
    return None
