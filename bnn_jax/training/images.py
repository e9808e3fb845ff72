"""The images of a run: on the host, which makes each batch, or on the devices, where one call makes many steps.

`HostImages` and `DeviceImages` have the same methods, so that `fit` is the same for both.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bnn_jax.training.batch import as_batch
from bnn_jax.training.config import Config
from bnn_jax.training.devices import own_devices, replicated, spread, whole
from bnn_jax.training.diagnostics import by_statistics
from bnn_jax.training.evaluation import evaluation_loss, have_cross_entropy, totals_of, totals_of_logits
from bnn_jax.training.loss import Loss, takes_classes
from bnn_jax.training.on_device import Draw, looked_up, many, once_and_anew, pixel_table, prepared, reason_against
from bnn_jax.training.state import TrainState

if TYPE_CHECKING:
    from bnn_jax.data import Source

Step = Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, jax.Array]]]
Metrics = dict[str, jax.Array]

MOST_STEPS = 1024
"""The largest number of steps of one call."""

SECONDS_A_CALL = 1.0
"""How long a call should take. After a signal, a run finishes the running call and at most two more."""

STEPS_ON_HOSTS = 16
"""The number of steps of one call with several hosts: all must make the same number, and their clocks differ."""

SECONDS_BETWEEN_SAVES = 30.0
"""If images lie on the devices of one host, checkpoints are at least this many seconds apart, because saving one may take as
long as a short epoch. Only the last one may come sooner."""

EVALUATED = 256
"""The smallest batch of test images on the devices, unless there are fewer test images."""


class Pace:
    """Chooses how many steps a call makes, so that it takes about `SECONDS_A_CALL`.

    Args:
        most: the largest number of steps of a call.

    Example:
        >>> pace = Pace(8)
        >>> pace.took(1, 0.01)
        >>> pace.steps
        2
    """

    def __init__(self, most: int):
        hosts = jax.process_count() > 1
        self._most, self.steps = most, min(most, STEPS_ON_HOSTS) if hosts else 1
        self._fixed = hosts

    def took(self, count: int, seconds: float) -> None:
        """Note how long a call of `count` steps took. A call of fewer than `steps` steps does not count."""
        if self._fixed or count != self.steps:
            return
        if seconds < SECONDS_A_CALL / 2:
            self.steps = min(2 * self.steps, self._most)
        elif seconds > SECONDS_A_CALL:
            self.steps = max(1, self.steps // 2)


class HostImages:
    """Images on the host, which makes the batches and sends each to the devices for one step.

    Args:
        config: the config of the run.
        train, test: its images.
        mesh: the devices.
    """

    def __init__(self, config: Config, train: 'Source', test: 'Source', mesh: Mesh):
        from bnn_jax.data import training_batches

        self._config, self._test, self._mesh = config, test, mesh
        self._shard = jax.process_index(), jax.process_count()
        self._batches, self.epoch_steps = training_batches(
            train,
            batch_size=config.batch_size,
            seed=config.seed,
            standardize=config.standardize,
            augmentations=config.sized(config.augmentations),
            shard=self._shard,
        )
        self.pace, self.seconds_between_saves = Pace(1), 0.0

    def check(self, num_classes: int, classes: bool = True) -> None:
        """Raises ValueError for test labels that are not classes; training labels are checked batch by batch."""
        from bnn_jax.data import check_labels

        check_labels(self._test, num_classes, classes)

    @contextlib.contextmanager
    def trained_by(self, step: Step, first: int, last: int) -> Generator[Callable, None, None]:
        """Yield a function that makes one step, whatever its `count`. The host prepares further batches meanwhile.

        Args:
            step: the update, not yet compiled.
            first: the number of steps that the run has made.
            last: the number of the last step.

        Yields:
            (state, count) -> (state, metrics, a function that returns the images of the batch).
        """
        from bnn_jax.data.pipeline import steps_from

        compiled = jax.jit(step, donate_argnums=0, out_shardings=whole(self._mesh))
        with contextlib.closing(steps_from(self._batches, first, last, workers=self._config.workers)) as batches:

            def advance(state: TrainState, count: int) -> tuple[TrainState, Metrics, Callable[[], jax.Array]]:
                batch = next(batches)
                as_batch(batch, state.num_classes, classes=takes_classes(state.loss))
                placed = spread(batch, self._mesh)
                state, metrics = compiled(state, placed)
                return state, metrics, lambda: placed['image']

            yield advance

    def tested(self, model: Any, compared: int, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate the test images of this host.

        Args:
            model: the model of the run.
            compared: how many batches are also evaluated with batch statistics, where labels are classes of the network.
            loss: the loss of the run; `evaluation_loss` says what is averaged.

        Returns:
            `totals_of` all images, and `by_statistics` of the first `compared` batches.
        """
        return _tested(model, test_batches(self._config, self._test, self._shard), compared, loss)


def _tested(model: Any, batches: Iterator[dict[str, Any]], compared: int, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    first = list(itertools.islice(batches, max(1, compared)))
    of_classes = have_cross_entropy(model, first[0], loss)
    totals = totals_of(model, itertools.chain(first, batches), loss=evaluation_loss(loss, first[0]['label']))
    return totals, by_statistics(model, first[:compared] if of_classes else ())


class DeviceImages:
    """Images on the devices, as uint8. The devices make the batches; `Pace` says how many steps one call makes.

    Args:
        config: the config of the run.
        train, test: its images, in memory as uint8.
        mesh: the devices.
    """

    def __init__(self, config: Config, train: Any, test: Any, mesh: Mesh):
        if not 1 <= config.batch_size <= len(train):
            raise ValueError(f'batch_size: got {config.batch_size}, expected 1 to {len(train)}, the number of images')
        self._config, self._train, self._test, self._mesh = config, train, test, mesh
        self._once, others = once_and_anew(config.sized(config.augmentations))
        self._draw = Draw(config.seed, config.batch_size, len(train), others, mesh)
        self.epoch_steps = self._draw.epoch_steps
        self._table = pixel_table(config.standardize, train.images)
        self.pace = Pace(min(MOST_STEPS, self.epoch_steps))
        self.seconds_between_saves = (
            SECONDS_BETWEEN_SAVES if jax.process_count() == 1 else 0.0
        )  # All hosts must save at the same steps, and their clocks differ.
        self._evaluation: Evaluation | None = None

    def check(self, num_classes: int, classes: bool = True) -> None:
        """Raises ValueError for labels that are not classes."""
        from bnn_jax.data import check_labels

        for source in (self._train, self._test):
            check_labels(source, num_classes, classes)

    @contextlib.contextmanager
    def trained_by(self, step: Step, first: int, last: int) -> Generator[Callable, None, None]:
        """Yield a function that makes `count` steps of one epoch, at most `MOST_STEPS`; see `HostImages.trained_by`.

        Each metric is an array, whose first `count` numbers are those of the steps. The images are those of the last batch.
        """
        images, labels = prepared(self._train.images, self._once), np.asarray(self._train.labels, np.int32)
        lying = replicated({'image': images, 'label': labels, 'table': self._table}, self._mesh)
        steps = many(step, self._draw, min(MOST_STEPS, self.epoch_steps))
        compiled = jax.jit(steps, donate_argnums=0, out_shardings=whole(self._mesh))
        batch = jax.jit(self._draw.batch)

        def advance(state: TrainState, count: int) -> tuple[TrainState, Metrics, Callable[[], jax.Array]]:
            state, metrics = compiled(state, lying, jnp.int32(count))
            return state, metrics, lambda: batch(lying, state.step - 1)['image']

        yield advance

    def tested(self, model: Any, compared: int, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
        """As `HostImages.tested`."""
        if not takes_classes(loss):
            # A user's own loss may read the input of the network, which the host makes.
            batches = test_batches(self._config, self._test, (jax.process_index(), jax.process_count()))
            with contextlib.closing(batches):
                return _tested(model, batches, compared, loss)
        if self._evaluation is None:
            self._evaluation = Evaluation(self._config, self._test, compared, self._table)
        return self._evaluation(model)


class Evaluation:
    """The test images of this host on its devices. A call evaluates a network on all of them, batch by batch.

    Args:
        config: the config of the run.
        test: its test images, in memory as uint8.
        compared: how many batches are also evaluated with batch statistics.
        table: `on_device.pixel_table` of the run.
    """

    def __init__(self, config: Config, test: Any, compared: int, table: np.ndarray | None):
        mesh, shard = own_devices(), (jax.process_index(), jax.process_count())
        with contextlib.closing(test_batches(config, test, shard)) as batches:
            # At least one batch is made, so that an augmentation that draws random numbers is refused.
            self._first = list(itertools.islice(batches, max(1, compared)))[:compared]
        own = prepared(test.images[shard[0] :: shard[1]], config.sized(config.evaluation_augmentations))
        self._labels = np.asarray(test.labels, np.int32)[shard[0] :: shard[1]]
        size = -(-max(config.batch_size, EVALUATED) // mesh.size) * mesh.size
        size = min(size, -(-len(own) // mesh.size) * mesh.size)
        batches = -(-len(own) // size)
        images = np.zeros((batches * size, *own.shape[1:]), np.uint8)
        images[: len(own)] = own
        sharding = NamedSharding(mesh, PartitionSpec(None, 'data'))
        self._images = jax.device_put(images.reshape(batches, size, *images.shape[1:]), sharding)
        self._table, self._mesh = replicated(table, mesh), mesh

    def __call__(self, model: Any) -> tuple[np.ndarray, np.ndarray]:
        """As `DeviceImages.tested`."""
        graphdef, state = nnx.split(model)
        logits = np.asarray(_all_logits(graphdef, replicated(state, self._mesh), self._table, self._images))
        logits = logits.reshape(-1, logits.shape[-1])[: len(self._labels)]
        return totals_of_logits(logits, self._labels), by_statistics(model, self._first)


@partial(jax.jit, static_argnums=0)
def _all_logits(graphdef: nnx.GraphDef, state: nnx.State, table: jax.Array, images: jax.Array) -> jax.Array:
    """(batches, N, H, W, channels) uint8 -> (batches, N, classes)."""
    return jax.lax.map(lambda part: nnx.merge(graphdef, state, copy=True)(looked_up(table, part)), images)


def images_of(config: Config, mesh: Mesh) -> tuple[HostImages | DeviceImages, str]:
    """The images of a run, on the host or on the devices as its config says.

    Args:
        config: the config of the run.
        mesh: the devices.

    Returns:
        The images, and a remark for the user if there is an accelerator but the images cannot lie on it; else ''.

    Raises:
        ValueError: the config asks for images on the devices, and they cannot lie there; there are fewer training
            images than `batch_size`; or as `on_device.reason_against`.
    """
    train, test = (config.data(split, config.data_dir) for split in ('train', 'test'))
    accelerated, reason = jax.devices()[0].platform != 'cpu', None
    # `reason_against` calls the user's normalization, so it is called only if its result matters.
    if config.on_device or (config.on_device is None and accelerated):
        augmentations = (config.sized(each) for each in (config.augmentations, config.evaluation_augmentations))
        reason = reason_against(train, test, config.standardize, *augmentations)
    if config.on_device and reason:
        raise ValueError(f'on_device: got True, but {reason}; leave out on_device, or change what prevents it')
    if config.on_device or (config.on_device is None and accelerated and reason is None):
        return DeviceImages(config, train, test, mesh), ''
    return HostImages(config, train, test, mesh), f'images stay on the host: {reason}' if accelerated and reason else ''


def test_batches(config: Config, source: 'Source', shard: tuple[int, int] = (0, 1)) -> Generator[dict, None, None]:
    """The batches of test images of a run.

    Args:
        config: the config of the run.
        source: the test images.
        shard: the number of this host, and how many hosts there are; each gets its part.
    """
    from bnn_jax.data import evaluation_batches

    return evaluation_batches(
        source,
        batch_size=config.batch_size,
        standardize=config.standardize,
        augmentations=config.sized(config.evaluation_augmentations),
        shard=shard,
        workers=config.workers,
    )
