"""Training images on the devices, as uint8: shuffled, augmented and normalized there, with many steps in a compiled call.

A batch depends on seed and step alone, not on the number of devices or of steps in a call. `data.training_batches`,
on the host, draws another batch for the same step, so a resumed run must not change between host and devices.
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
from jaxtyping import Float32, Int32, Key, Shaped, UInt8

if TYPE_CHECKING:
    from bnn_jax.data import Source

Augment = Callable[[Array, Array], Array]
"""(images, key) -> images, uint8 (N, H, W, C); the key alone decides the random numbers, which differ between images."""

STREAM = 0x1A6E5
"""Folded into the seed, so that images get other random numbers than weights and dropout."""

SHARE_OF_MEMORY = 0.25
"""The largest share of a device's memory for images, if the device reports its memory."""

COMPARED = 16
"""The number of images on which a normalization is compared with its table."""


# Augmentations.


def flipped(images: UInt8[Array, 'N H W C'], key: Key[Array, '']) -> UInt8[Array, 'N H W C']:
    """Mirror each image left-right with probability 1/2, as `data.flip` does."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cropped(images: UInt8[Array, 'N H W C'], key: Key[Array, ''], padding: int) -> UInt8[Array, 'N H W C']:
    """Pad each image with zeros and cut a random window of the old size, as `data.crop` does."""
    number, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (number, 2), 0, 2 * padding + 1)
    return _windows(padded, corners, height, width)


def cut(images: UInt8[Array, 'N H W C'], key: Key[Array, ''], size: int) -> UInt8[Array, 'N size size C']:
    """Cut a random size x size window from each image, as `data.random_crop` does."""
    number, height, width, _ = images.shape
    corners = jax.random.randint(key, (number, 2), 0, jnp.array([[height - size + 1, width - size + 1]]))
    return _windows(images, corners, size, size)


def with_hole(images: UInt8[Array, 'N H W C'], key: Key[Array, ''], size: int) -> UInt8[Array, 'N H W C']:
    """Set a square around a random pixel of each image to 0, as `data.cutout` does."""
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
    """Find the version of an augmentation that augments a batch on the device.

    Args:
        augmentation: an augmentation of `bnn_jax.data`, which augments an image on the host; or your own, with a method
            `on_device(images, key) -> images`, uint8 (N, H, W, C), where the key alone decides the random numbers.

    Returns:
        The same augmentation for batches; None if there is none.
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
    """Split augmentations into those applied once, on the host, and those applied in each step, on the device.

    Args:
        augmentations: the augmentations of training images.

    Returns:
        The leading `resize_short`, `resize_to` and `center_crop`, and all others as `batched` returns them.

    Raises:
        ValueError: `batched` finds no version of one of the others.
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


def prepared(
    images: UInt8[np.ndarray, 'N H W C'], augmentations: Sequence[Callable]
) -> UInt8[np.ndarray, 'N height width C']:
    """Apply augmentations that draw no random numbers to all images.

    Args:
        images: the images of a data set.
        augmentations: applied to each image in turn.

    Returns:
        Images of one size.

    Raises:
        ValueError: an augmentation draws random numbers or refuses an image, or the results are not uint8.
    """
    if not augmentations:
        return images
    done = np.stack([augmented(image, augmentations) for image in images])
    if done.dtype != np.uint8:
        raise ValueError(
            f'augmentations: got {done.dtype} images from {list(augmentations)}, expected uint8; for other images set '
            'on_device=False'
        )
    return done


def augmented(image: UInt8[np.ndarray, 'H W C'], augmentations: Sequence[Callable]) -> Shaped[np.ndarray, '*shape']:
    """Apply augmentations that draw no random numbers to an image. Raises ValueError for one that draws some."""
    from bnn_jax.data.pipeline import NoRandomness

    return functools.reduce(lambda image, augment: augment(image, NoRandomness()), augmentations, image)


# Normalization.


def pixel_table(
    standardize: Callable[[np.ndarray], np.ndarray], images: UInt8[np.ndarray, 'N H W C']
) -> Float32[np.ndarray, '256 C'] | None:
    """The table of a normalization: its result for each of the 256 values of a pixel, in each channel.

    Args:
        standardize: image -> float image of the same shape.
        images: the images of the data set. On some of them the table is compared with the normalization.

    Returns:
        The table, which gives the numbers of the normalization to the bit. None if table and normalization differ on a
        compared image, as for whitening, where a number depends on other pixels; if the result is not float32 of the
        image's shape; or if the normalization fails on an image of 256 x 1 pixels.

    Example:
        >>> from bnn_jax import data
        >>> table = pixel_table(data.PlusMinusOne(), np.zeros((1, 4, 4, 1), np.uint8))
        >>> table.shape, table[0].tolist(), table[255].tolist()
        ((256, 1), [-1.0], [1.0])
    """
    channels = images.shape[-1]
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, channels))
    try:
        table = np.asarray(standardize(np.ascontiguousarray(ramp)))
    except Exception:  # A user's normalization may refuse an image of this size with any error.
        return None
    if table.shape != ramp.shape or table.dtype != np.float32:
        return None
    table = table[:, 0]
    for image in images[:COMPARED]:
        if not np.array_equal(table[image, np.arange(channels)], standardize(image), equal_nan=True):
            return None
    return table


def looked_up(table: Float32[Array, '256 C'], images: UInt8[Array, '*batch C']) -> Float32[Array, '*batch C']:
    """Images normalized with their `pixel_table`."""
    channels = images.shape[-1]
    channel = jax.lax.broadcasted_iota(jnp.int32, images.shape, images.ndim - 1)
    return table.reshape(-1)[images.astype(jnp.int32) * channels + channel]


# Batches.


@dataclasses.dataclass(frozen=True)
class Draw:
    """Chooses and augments the images of each batch. Its methods are pure, to be compiled with the step.

    Example:
        >>> Draw(seed=0, batch_size=32, images=100).epoch_steps
        3
    """

    seed: int
    batch_size: int
    # The number of training images.
    images: int
    # Applied in this order.
    augmentations: tuple[Augment, ...] = ()
    # The devices that share a batch; None: it stays on one device.
    mesh: Mesh | None = None

    @property
    def epoch_steps(self) -> int:
        """The number of steps of an epoch. Images beyond the last whole batch are left out; they differ from epoch to epoch."""
        return self.images // self.batch_size

    def order(self, epoch: Int32[Array, '']) -> Int32[Array, ' images']:
        """The numbers of all training images, in the random order of an epoch."""
        return jax.random.permutation(jax.random.fold_in(self._keys()[0], epoch), self.images)

    def batch(self, lying: dict[str, Array], step: Array, order: Array | None = None) -> dict[str, Array]:
        """The batch of a step: normalized `image`, and `label`.

        Args:
            lying: `image`, `label` and `table` (`pixel_table`) of the training set, on the devices.
            step: counted from 0 at the start of the run.
            order: the order of the step's epoch, if the caller has it.
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
        # The generator is named, since under another default of JAX a resumed run would draw other batches.
        return jax.random.split(jax.random.fold_in(jax.random.key(self.seed, impl='threefry2x32'), STREAM))

    def _spread(self, array: Array) -> Array:
        if self.mesh is None:
            return array
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec('data')))


def many(step: Callable, draw: Draw, most: int) -> Callable:
    """A function that makes several steps of one epoch. Pure, for `jax.jit`.

    Args:
        step: (state, batch) -> (state, metrics).
        draw: makes the batches.
        most: the largest number of steps of a call.

    Returns:
        (state, the `lying` of `Draw.batch`, count) -> (state, metrics). Each metric is an array of `most` numbers; the first
        `count` are those of the steps.
    """

    def steps(state: Any, lying: dict[str, Array], count: Array) -> tuple[Any, dict[str, Array]]:
        order = draw.order(state.step // draw.epoch_steps)

        def one(i: Array, done: tuple[Any, dict[str, Array]]) -> tuple[Any, dict[str, Array]]:
            state, seen = done
            state, metrics = step(state, draw.batch(lying, state.step, order))
            return state, {name: seen[name].at[i].set(value) for name, value in metrics.items()}

        _, shapes = jax.eval_shape(lambda state: step(state, draw.batch(lying, state.step, order)), state)
        seen = {name: jnp.zeros(most, shape.dtype) for name, shape in shapes.items()}
        # The length of this loop, unlike that of a `scan`, is an argument, so that one program serves calls of all lengths.
        return jax.lax.fori_loop(0, count, one, (state, seen))

    return steps


# Whether images can lie on the devices.


def reason_against(
    train: 'Source', test: 'Source', standardize: Callable, augmentations: Sequence, evaluation_augmentations: Sequence
) -> str | None:
    """Why the images of a run cannot lie on the devices.

    Args:
        train, test: the images.
        standardize, augmentations, evaluation_augmentations: of the run.

    Returns:
        The reason, as the end of a sentence; None if they can.

    Raises:
        ValueError: an augmentation of evaluation draws random numbers, or an augmentation refuses the first image.
    """
    from bnn_jax.data import ArraySource

    for name, source in (('training', train), ('test', test)):
        images = getattr(source, 'images', None)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            return f'the {name} images are not held in memory as uint8 (data.ArraySource, TfdsSource.in_memory())'
        # On the devices a source's own __getitem__ would never be called.
        if getattr(type(source), '__getitem__', None) is not ArraySource.__getitem__:
            return f'{type(source).__name__} reads the {name} images by a __getitem__ of its own, not that of data.ArraySource'
        labels = getattr(source, 'labels', None)
        if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
            return f'the labels of the {name} images are not classes'
    try:
        once, _ = once_and_anew(augmentations)
    except ValueError as error:
        return str(error)
    if len(train) and pixel_table(standardize, train.images) is None:  # pyright: ignore[reportAttributeAccessIssue]
        return (
            f'the normalization {standardize!r} mixes pixels or channels, does not return float32 images of the same '
            'shape, or fails on 256 x 1 pixels'
        )
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
