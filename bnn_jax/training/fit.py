"""fit: a config to a trained state, resumable at any step; read from top to bottom."""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

from bnn_jax.files import write
from bnn_jax.network import Network
from bnn_jax.training.checkpoint import Checkpoints
from bnn_jax.training.devices import (
    all_devices,
    check_shares,
    is_first_host,
    own_copy,
    replicated,
    spread,
    sum_over_hosts,
    whole,
)
from bnn_jax.training.loss import CrossEntropy, Loss
from bnn_jax.training.metrics import MetricsLog
from bnn_jax.training.options import option
from bnn_jax.training.progress import Progress
from bnn_jax.training.state import TrainState, init, model_of
from bnn_jax.training.step import check_batch, means, totals_of, update
from bnn_jax.training.watch import signs, watch

if TYPE_CHECKING:
    from bnn_jax.data import Source


PRECISIONS = {'float32': None, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Scalars can be set on the command line; the rest is the experiment's.

    model: (rngs=, width=) -> network. data: (split, data_dir) -> source, splits 'train' and 'test'. standardize,
    augmentations, evaluation_augmentations (deterministic): see `bnn_jax.data`. schedule: (learning_rate, total steps) ->
    optax schedule. optimizer: that schedule -> optax chain, without the projection of latent weights, which `init` takes
    from the scheme. deployed: as model, with the same parameters: what a run converts, where `convert` refuses model; None:
    model. loss: makes what is minimised; partial(distillation, teacher) for a teacher. anchors: (epoch, test accuracy from 0
    to 1) as published, shown beside what a run of the same epochs and width 1 gets.
    """

    model: Callable[..., Network]
    data: Callable[[str, str], 'Source']
    standardize: Callable[[np.ndarray], np.ndarray]
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam
    schedule: Callable[..., optax.Schedule] = optax.cosine_decay_schedule
    augmentations: tuple = ()
    evaluation_augmentations: tuple = ()
    deployed: Callable[..., Network] | None = None
    loss: Callable[[], Loss] = CrossEntropy
    anchors: tuple[tuple[int, float], ...] = ()
    epochs: int = option(10, 'how often every training image is seen')
    batch_size: int = option(64, 'images a step')
    learning_rate: float = option(1e-3, 'largest learning rate of the schedule')
    width: float = option(1.0, "factor on the architecture's filters")
    seed: int = option(0, 'of initialisation, shuffling and augmentation')
    checkpoint_every: int = option(500, 'steps between checkpoints; one is always written at the end of an epoch')
    accumulate: int = option(1, 'parts of a batch that are computed one after another, to need less memory')
    precision: str = option('float32', 'to which training rounds the operands of products: float32 or bfloat16')
    watch_every: int = option(100, 'steps between records of sign flips, clipping, STE window and alpha; 0: never')
    workers: int = option(0, 'processes that decode and augment images; 0: two threads. The batches are the same')
    workdir: str = option('', 'where the run keeps all it writes; by default runs/<experiment>-<seed>')
    data_dir: str = option('~/tensorflow_datasets', 'where TFDS data sets are prepared')

    def __post_init__(self):
        for name in ('epochs', 'batch_size', 'checkpoint_every', 'accumulate'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected at least 1')
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f'learning_rate: got {self.learning_rate}, expected a positive number')
        for name in ('seed', 'workers', 'watch_every'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name}: got {getattr(self, name)}, expected 0 or more')
        if self.batch_size % self.accumulate:
            raise ValueError(f'accumulate: got {self.accumulate}, expected a divisor of batch_size {self.batch_size}')
        if self.precision not in PRECISIONS:
            raise ValueError(f'precision: got {self.precision!r}, expected one of {", ".join(PRECISIONS)}')
        for epoch, accuracy in self.anchors:
            if epoch < 1 or not 0 <= accuracy <= 1:
                raise ValueError(f'anchors: got ({epoch}, {accuracy}), expected (epoch from 1, accuracy from 0 to 1)')

    def operands(self) -> DTypeLike | None:
        """The dtype to which training rounds the operands of products; None: they stay as they are."""
        return PRECISIONS[self.precision]

    def comparable_anchors(self) -> tuple[tuple[int, float], ...]:
        """The anchors, if this run is as long as the published one and of full width; its rates fall at other epochs else."""
        same = self.anchors and self.anchors[-1][0] == self.epochs and self.width == 1
        return self.anchors if same else ()

    def described(self) -> dict[str, Any]:
        """All fields as JSON, the same in every process: functions by name, partials and dataclasses by their parts."""
        return {f.name: _described(getattr(self, f.name)) for f in dataclasses.fields(self)}


class NonFiniteLoss(ArithmeticError):
    """Training diverged: the loss or its gradient is NaN or infinite."""


class Interrupted(SystemExit):
    """SIGTERM or Ctrl-C arrived; the state was saved first. The exit status is 128 + the signal's number."""


def fit(config: Config) -> TrainState:
    """Train as config says, in config.workdir; started again after any interruption it goes on, to the same result.

    Writes config.json, metrics.jsonl, tensorboard/ and checkpoints/ there. The parameters depend on the config alone, not
    on where a run was stopped (on CPU bit for bit). The metrics of a step are fetched while the next one runs.
    Batches are spread over all devices. On several hosts (`devices.Hosts`), every one calls this with the same config and a
    workdir that all see; each reads its part of the images, the first one writes and reports. A run may go on with another
    number of devices or hosts: the same batches, summed in another order. Returns the state as one device holds it.
    Raises NonFiniteLoss at a NaN or infinite loss or gradient, the last good checkpoint being kept; OSError for a working
    directory that cannot be written; ValueError for a checkpoint of another model or config, and for bad data.
    """
    from bnn_jax.data import check_labels, training_batches
    from bnn_jax.data.pipeline import steps_from

    mesh, shard = all_devices(), (jax.process_index(), jax.process_count())
    check_shares(config.batch_size // config.accumulate, mesh)
    workdir = prepare_workdir(config)
    train_source, test_source = (config.data(split, config.data_dir) for split in ('train', 'test'))
    batches, epoch_steps = training_batches(
        train_source,
        batch_size=config.batch_size,
        seed=config.seed,
        standardize=config.standardize,
        augmentations=config.augmentations,
        shard=shard,
    )
    last_step = config.epochs * epoch_steps
    schedule = config.schedule(config.learning_rate, last_step)
    tx = config.optimizer(schedule)
    model = config.model(rngs=nnx.Rngs(config.seed), width=config.width)
    state = init(model, tx, config.loss(), operands=config.operands())
    check_labels(test_source, state.num_classes)
    checkpoints = Checkpoints(workdir / 'checkpoints', decisive(config))
    state = replicated(checkpoints.restore(state), mesh)
    if is_first_host():
        write(workdir / 'config.json', json.dumps(config.described(), indent=2) + '\n')
    first_step = int(state.step)
    step = jax.jit(functools.partial(update, parts=config.accumulate), donate_argnums=0, out_shardings=whole(mesh))
    rate, see_signs, see = jax.jit(functools.partial(_rate, schedule)), jax.jit(signs), jax.jit(watch)
    pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

    with (
        checkpoints,
        MetricsLog(workdir / 'metrics.jsonl' if is_first_host() else None, first_step) as log,
        Progress(first_step, last_step, epoch_steps, log.seconds, config.comparable_anchors()) as progress,
        _Signals() as signals,
        contextlib.closing(steps_from(batches, first_step, last_step, workers=config.workers)) as steps,
    ):
        for number, batch in enumerate(steps, start=first_step + 1):
            check_batch(batch, state.num_classes)
            watched = config.watch_every and number % config.watch_every == 0
            before = see_signs(state) if watched else {}  # before the step, which reuses the state's buffers
            spread_batch = spread(batch, mesh)
            state, metrics = step(state, spread_batch)
            metrics['learning_rate'] = rate(number - 1)
            if watched:
                metrics |= see(before, state, spread_batch['image'])
            pending.append((number, metrics))
            ends_epoch = number % epoch_steps == 0
            stops = signals.stop_at(number)
            saves = ends_epoch or number % config.checkpoint_every == 0 or stops
            while len(pending) > (0 if saves else 1):
                record = _finite(checkpoints, *pending.popleft())
                log.write(**record, seconds=progress.seconds())
                progress.step(record)
            if ends_epoch:
                totals = totals_of(model_of(own_copy(state)), test_batches(config, test_source, shard))
                test = means(sum_over_hosts(totals), state.num_classes)
                record = log.epoch(number, epoch_steps, test, progress.seconds(), config.batch_size)
                progress.epoch(record)
            if saves:
                _check_parameters(checkpoints, number, state)
                checkpoints.save(state)
            if stops:
                checkpoints.wait()
                progress.say(f'stopped at step {number} by signal {stops}, saved; start again to go on')
                raise Interrupted(128 + stops)
        checkpoints.wait()
        if signals.received:
            raise Interrupted(128 + signals.received)
    return own_copy(state)


def test_batches(config: Config, source: 'Source', shard: tuple[int, int] = (0, 1)) -> Generator[dict, None, None]:
    """The test images of a run as it sees them, or a host's part of them."""
    from bnn_jax.data import evaluation_batches

    return evaluation_batches(
        source,
        batch_size=config.batch_size,
        standardize=config.standardize,
        augmentations=config.evaluation_augmentations,
        shard=shard,
        workers=config.workers,
    )


def _rate(schedule: optax.Schedule, count: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion('standard'):  # schedules rely on it, where a user forbids it
        return jnp.asarray(schedule(count))


def _finite(checkpoints: Checkpoints, number: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """The metrics of a step as numbers. Raises NonFiniteLoss."""
    record = {'step': number} | {name: float(value) for name, value in metrics.items()}
    if not all(math.isfinite(record[name]) for name in ('loss', 'gradient_norm')):
        raise _diverged(checkpoints, number, f'loss {record["loss"]} and gradient norm {record["gradient_norm"]}')
    return record


def _check_parameters(checkpoints: Checkpoints, number: int, state: TrainState) -> None:
    """Raises NonFiniteLoss for parameters that no good checkpoint holds: an infinite update shows in the next loss only."""
    for leaf in jax.tree.leaves(own_copy((state.params, state.rest))):
        if not np.isfinite(np.asarray(leaf, np.float32)).all():
            raise _diverged(checkpoints, number, 'parameters that are NaN or infinite')


def _diverged(checkpoints: Checkpoints, number: int, got: str) -> NonFiniteLoss:
    last = checkpoints.last()
    kept = 'there is no checkpoint yet' if last is None else f'the last good checkpoint is {last}'
    return NonFiniteLoss(
        f'step {number}: got {got}, expected finite numbers; {kept}. '
        'Try a smaller --learning_rate in another --workdir, and check the images for NaN'
    )


def decisive(config: Config) -> dict[str, Any]:
    """What must not change between two starts of one run: all that decides its parameters or their evaluation."""
    free = ('workdir', 'data_dir', 'checkpoint_every', 'watch_every', 'workers', 'anchors', 'deployed')
    return {k: v for k, v in config.described().items() if k not in free}


def _described(value) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_described(inner) for inner in value]
    if isinstance(value, functools.partial):
        arguments = {str(i): argument for i, argument in enumerate(value.args)} | value.keywords
        return {'function': _described(value.func)} | {k: _described(v) for k, v in arguments.items()}
    if isinstance(value, type) or hasattr(value, '__qualname__'):
        return _named(value)
    kind = _described(type(value))
    if dataclasses.is_dataclass(value):
        return {'kind': kind} | {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return kind


def _named(function) -> Any:
    """Module and name of a function or class; a lambda's line and a closure's variables as well."""
    main = sys.modules['__main__']
    started = main.__spec__.name if main.__spec__ else Path(getattr(main, '__file__', None) or '__main__').stem
    module = started if function.__module__ == '__main__' else function.__module__
    name, code = f'{module}.{function.__qualname__}', getattr(function, '__code__', None)
    if code is not None and '<lambda>' in name:
        name += f', line {code.co_firstlineno}'
    variables = [_described(cell.cell_contents) for cell in getattr(function, '__closure__', None) or ()]
    return {'function': name, 'variables': variables} if variables else name


def prepare_workdir(config: Config) -> Path:
    """The working directory, made if need be. Raises OSError where it cannot be written."""
    if not config.workdir:
        raise ValueError("workdir: got '', expected a folder for everything the run writes")
    workdir = Path(config.workdir).expanduser()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / '.writable'
        probe.write_text('')
        probe.unlink(missing_ok=True)  # Another host may have been here.
    except OSError as error:
        raise OSError(
            error.errno, f'workdir cannot be written ({error.strerror}); choose another --workdir', str(workdir)
        ) from error
    return workdir


class _Signals:
    """While entered, SIGTERM and SIGINT are noted in `received` instead of ending the process; a second one ends it.

    Where there are several hosts, JAX takes SIGTERM on any of them and has all stop at one step; Ctrl-C is not waited for.
    """

    def __enter__(self):
        self.received, self._previous = 0, {}
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # Not the main thread: whoever runs that one handles signals.
                break
        return self

    def stop_at(self, step: int) -> int:
        """The signal after which to stop at this step; 0: go on."""
        if jax.process_count() == 1:
            return self.received
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        return signal.SIGTERM if reached_preemption_sync_point(step) else 0

    def _receive(self, number, frame):
        if self.received:
            self.__exit__()
            signal.raise_signal(number)
        self.received = number

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
