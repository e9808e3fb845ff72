"""Where the images of a run lie: on the host, read a batch at a time, or on the devices, where many steps are one call.

Both ways have the same methods, so that `fit` reads the same for either.
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
"""Steps of one call, at most."""

SECONDS_A_CALL = 1.0
"""How long a call should take: a signal is answered after this one and the next."""

STEPS_ON_HOSTS = 16
"""Steps of one call where there are several hosts, which must all take as many; their clocks differ."""

SECONDS_BETWEEN_SAVES = 30.0
"""Where an epoch takes a second, a checkpoint at its end would cost as much."""

EVALUATED = 256
"""Images of a batch of evaluation on the device, at least."""


class Pace:
    """How many steps a call takes: more as long as a call is short.

    Args:
        most: at most so many.
    """

    def __init__(self, most: int):
        hosts = jax.process_count() > 1
        self._most, self.steps = most, min(most, STEPS_ON_HOSTS) if hosts else 1
        self._fixed = hosts

    def took(self, count: int, seconds: float) -> None:
        """Note how long a call of `count` steps took; one that was cut short by an epoch's end says nothing."""
        if self._fixed or count != self.steps:
            return
        if seconds < SECONDS_A_CALL / 2:
            self.steps = min(2 * self.steps, self._most)
        elif seconds > SECONDS_A_CALL:
            self.steps = max(1, self.steps // 2)


class HostImages:
    """Batches made on the host, each shipped to the devices for one step."""

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
        """Raises ValueError for labels of test images that are no classes; those of training are checked batch by batch."""
        from bnn_jax.data import check_labels

        check_labels(self._test, num_classes, classes)

    @contextlib.contextmanager
    def trained_by(self, step: Step, first: int, last: int) -> Generator[Callable, None, None]:
        """(state, count) -> (state, metrics, images of the batch): one step whatever the count; reads ahead while entered."""
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
        """`totals_of` the test images of this host, and `by_statistics` of the first `compared` batches.

        The loss is `evaluation_loss`. Where labels are no classes of the network, nothing is compared.
        """
        return _tested(model, test_batches(self._config, self._test, self._shard), compared, loss)


def _tested(model: Any, batches: Iterator[dict[str, Any]], compared: int, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    first = list(itertools.islice(batches, max(1, compared)))
    of_classes = have_cross_entropy(model, first[0], loss)
    totals = totals_of(model, itertools.chain(first, batches), loss=evaluation_loss(loss, first[0]['label']))
    return totals, by_statistics(model, first[:compared] if of_classes else ())


class DeviceImages:
    """All images on the devices, as uint8; batches are made there, and `Pace` says how many steps are one call."""

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
        )  # as all hosts must agree
        self._evaluation: Evaluation | None = None

    def check(self, num_classes: int, classes: bool = True) -> None:
        """Raises ValueError for labels that are no classes."""
        from bnn_jax.data import check_labels

        for source in (self._train, self._test):
            check_labels(source, num_classes, classes)

    @contextlib.contextmanager
    def trained_by(self, step: Step, first: int, last: int) -> Generator[Callable, None, None]:
        """(state, count) -> (state, metrics, images of the last batch): `count` steps, at most `pace.steps`, of one epoch.

        Every metric has room for more numbers than there were steps; the first `count` are theirs.
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
            # It may ask for the images as the network sees them, which the host makes.
            batches = test_batches(self._config, self._test, (jax.process_index(), jax.process_count()))
            with contextlib.closing(batches):
                return _tested(model, batches, compared, loss)
        if self._evaluation is None:
            self._evaluation = Evaluation(self._config, self._test, compared, self._table)
        return self._evaluation(model)


class Evaluation:
    """Test images of this host on its devices, and what a network answers to all of them in one call."""

    def __init__(self, config: Config, test: Any, compared: int, table: np.ndarray | None):
        mesh, shard = own_devices(), (jax.process_index(), jax.process_count())
        with contextlib.closing(test_batches(config, test, shard)) as batches:
            # One at least, so that an augmentation that draws numbers is refused.
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
    """The images of a run where its config wants them, and a sentence where that is not what an accelerator is best at.

    Raises:
        ValueError: where the config asks for images on the devices that cannot lie there.
    """
    train, test = (config.data(split, config.data_dir) for split in ('train', 'test'))
    accelerated, reason = jax.devices()[0].platform != 'cpu', None
    # Elsewhere nobody asks, and nothing of the user's is called.
    if config.on_device or (config.on_device is None and accelerated):
        augmentations = (config.sized(each) for each in (config.augmentations, config.evaluation_augmentations))
        reason = reason_against(train, test, config.standardize, *augmentations)
    if config.on_device and reason:
        raise ValueError(f'on_device: got True, but {reason}; leave it out, or mend that')
    if config.on_device or (config.on_device is None and accelerated and reason is None):
        return DeviceImages(config, train, test, mesh), ''
    return HostImages(config, train, test, mesh), f'images stay on the host: {reason}' if accelerated and reason else ''


def test_batches(config: Config, source: 'Source', shard: tuple[int, int] = (0, 1)) -> Generator[dict, None, None]:
    """The test images of a run as it sees them, or a host's part of them."""
    from bnn_jax.data import evaluation_batches

    return evaluation_batches(
        source,
        batch_size=config.batch_size,
        standardize=config.standardize,
        augmentations=config.sized(config.evaluation_augmentations),
        shard=shard,
        workers=config.workers,
    )
