"""fit: a config to a trained state, resumable at any step; read from top to bottom."""

import collections
import contextlib
import functools
import itertools
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bnn_jax.files import write
from bnn_jax.training.batch import check_batch
from bnn_jax.training.checkpoint import Checkpoints
from bnn_jax.training.config import Config
from bnn_jax.training.devices import (
    all_devices,
    check_same_on_hosts,
    check_shares,
    is_first_host,
    own_copy,
    replicated,
    spread,
    sum_over_hosts,
    whole,
)
from bnn_jax.training.diagnostics import alphas, by_statistics, signs, statistics_record, watch
from bnn_jax.training.health import Health
from bnn_jax.training.metrics import MetricsLog, read
from bnn_jax.training.progress import Progress
from bnn_jax.training.signals import Signals
from bnn_jax.training.state import TrainState, init, model_of
from bnn_jax.training.step import means, totals_of, update

if TYPE_CHECKING:
    from bnn_jax.data import Source


COMPARED = 512
"""Test images that are evaluated by batch statistics too, at the end of every epoch."""


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
    directory that cannot be written; ValueError for a checkpoint of another model or config, for a config that holds a lambda
    (`names.named`), and for bad data. The process's allocator is left as it is; the command line sets it (`memory`).
    """
    from bnn_jax.data import check_labels, training_batches
    from bnn_jax.data.pipeline import steps_from

    described, decisive = config.described(), config.decisive()
    mesh, shard = all_devices(), (jax.process_index(), jax.process_count())
    check_shares(config.batch_size, mesh, config.accumulate)
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
    state = init(model, tx, config.loss(), operands=config.operands(), steps=last_step)
    if state.num_classes is not None:
        check_labels(test_source, state.num_classes)
    checkpoints = Checkpoints(workdir / 'checkpoints', decisive)
    start = _start(state) if config.watch_every else {}  # From the config alone, so the same in a resumed run.
    state = checkpoints.restore(state)
    check_same_on_hosts(int(state.step), decisive)
    state = replicated(state, mesh)
    if is_first_host():
        write(workdir / 'config.json', json.dumps(described, indent=2) + '\n')
    first_step = int(state.step)
    step = jax.jit(functools.partial(update, parts=config.accumulate), donate_argnums=0, out_shardings=whole(mesh))
    rate, see_signs, see = jax.jit(functools.partial(_rate, schedule)), jax.jit(signs), jax.jit(watch)
    pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

    with (
        checkpoints,
        MetricsLog(workdir / 'metrics.jsonl' if is_first_host() else None, first_step) as log,
        Progress(first_step, last_step, epoch_steps, log.seconds, config.comparable_anchors()) as progress,
        Signals() as signals,
        contextlib.closing(steps_from(batches, first_step, last_step, workers=config.workers)) as steps,
    ):
        health = Health(read(workdir / 'metrics.jsonl'))
        for number, batch in enumerate(steps, start=first_step + 1):
            check_batch(batch, state.num_classes)
            watched = config.watch_every and number % config.watch_every == 0
            before = see_signs(state) if watched else {}  # before the step, which reuses the state's buffers
            spread_batch = spread(batch, mesh)
            state, metrics = step(state, spread_batch)
            metrics['learning_rate'] = rate(number - 1)
            if watched:
                metrics |= see(before, state, spread_batch['image'][:: config.accumulate], start)
            pending.append((number, metrics))
            ends_epoch = number % epoch_steps == 0
            stops = signals.stop_at(number)
            saves = ends_epoch or number % config.checkpoint_every == 0 or stops
            while len(pending) > (0 if saves else 1):
                record = _finite(checkpoints, *pending.popleft())
                log.write(**record, seconds=progress.seconds())
                progress.step(record)
                _warn(health, record, log, progress)
            if ends_epoch:
                model, tested = model_of(own_copy(state)), test_batches(config, test_source, shard)
                first = list(itertools.islice(tested, _compared_batches(config, epoch_steps)))
                test = means(sum_over_hosts(totals_of(model, itertools.chain(first, tested))), state.num_classes)
                compared = statistics_record(sum_over_hosts(by_statistics(model, first)))
                record = log.epoch(number, epoch_steps, test, progress.seconds(), config.batch_size, compared)
                progress.epoch(record)
                _warn(health, record, log, progress)
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


def _start(state: TrainState) -> dict[str, float]:
    """Alpha of every layer before the first step, for the layers where it is not 0."""
    return {name: value for name, alpha in jax.jit(alphas)(state).items() if (value := float(alpha)) > 0}


def _compared_batches(config: Config, epoch_steps: int) -> int:
    """Test batches that are also evaluated by batch statistics: COMPARED images, or fewer in a short epoch."""
    if not config.watch_every:
        return 0
    # A batch costs two forward passes, about the time of a step: this is a hundredth of an epoch, or one batch.
    return max(1, min(-(-COMPARED // config.batch_size), epoch_steps // 100))


def _warn(health: Health, record: dict, log: MetricsLog, progress: Progress) -> None:
    for warning in health.warnings(record):
        log.write(step=record['step'], warning=warning, seconds=progress.seconds())
        progress.say(f'step {record["step"]}: warning: {warning}')


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
