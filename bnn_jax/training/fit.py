"""`fit` trains a network from a config, and can resume at any step. Read this file from top to bottom."""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnn_jax.files import read_object, write
from bnn_jax.training.checkpoint import Checkpoints
from bnn_jax.training.compilation_cache import compilation_cache
from bnn_jax.training.config import Config
from bnn_jax.training.devices import (
    all_devices,
    check_same_on_hosts,
    check_shares,
    is_first_host,
    own_copy,
    replicated,
    sum_over_hosts,
)
from bnn_jax.training.diagnostics import alphas, latent_weights, signs, statistics_record, watch
from bnn_jax.training.evaluation import means
from bnn_jax.training.health import Health
from bnn_jax.training.images import DeviceImages, images_of
from bnn_jax.training.loss import takes_classes
from bnn_jax.training.metrics import MetricsLog, read
from bnn_jax.training.options import LARGEST
from bnn_jax.training.progress import Progress
from bnn_jax.training.records import Call, StepRecords, check_parameters
from bnn_jax.training.scores import Scores
from bnn_jax.training.signals import Deadline, Signals
from bnn_jax.training.start import beginning, check_extension, step_of
from bnn_jax.training.state import TrainState, model_of
from bnn_jax.training.workdir import held

COMPARED = 512
"""How many test images each evaluation also evaluates with batch statistics; see `_compared_batches`."""


class Interrupted(SystemExit):
    """SIGTERM or Ctrl-C stopped a run, after its state was saved. The exit status is 128 + the signal's number.

    Example:
        >>> from bnn_jax.training import Interrupted
        >>> Interrupted(128 + 15).code
        143
    """


class OutOfTime(Interrupted):
    """`Config.max_minutes` stopped a run, after its state was saved. The exit status is `OUT_OF_TIME`.

    Example:
        >>> from bnn_jax.training import OutOfTime, fit
        >>> def fit_or_none(config):
        ...     try:
        ...         return fit(config)
        ...     except OutOfTime:  # Calling fit(config) again goes on.
        ...         return None
    """


OUT_OF_TIME = 75
"""The exit status of a run that should be started again: EX_TEMPFAIL of sysexits.h."""


@compilation_cache()
def fit(config: Config) -> TrainState:
    """Train a network as a config says. If called again after an interruption, go on to the same result.

    It writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and, with `Config.keep_best`, best/ into
    `config.workdir`, which one process at a time may use (`workdir.held`). The parameters depend on the config alone,
    not on where the run was stopped (on CPU to the bit).

    Batches are spread over all devices. If the images lie on the devices (`Config.on_device`), one call of the compiled
    program makes many steps and takes about a second. Its metrics are fetched while the next call runs. Host and devices make
    different batches, so a resumed run makes its batches in the same place as before.

    On several hosts (`devices.Hosts`) each host calls this with the same config and a workdir that all of them see.
    Each makes its part of each batch; the first host writes and reports. A run may resume with another number of
    devices or hosts: its batches stay the same and are summed in another order. It may resume with more epochs if its
    learning rates and quantizers do not depend on the length of the run (`start.check_extension`).

    Compiled programs are kept on disk (`compilation_cache`). The command line also changes how the process allocates
    memory (`memory`); this function does not.

    Args:
        config: what to train and how. Its workdir must be set.

    Returns:
        The trained state, on one device.

    Raises:
        Interrupted: a signal stopped the run; OutOfTime: its minutes are over. The state was saved.
        NonFiniteLoss: a loss, gradient, parameter or statistic is NaN or infinite. The last good checkpoint is kept.
        OSError: the workdir cannot be written.
        ValueError: the workdir is in use, its checkpoint is of another model or config, or config or data do not fit.

    Example:
        >>> from bnn_jax.training import Config, fit, model_of
        >>> def trained(config: Config):  # examples/arrays.py is a whole program.
        ...     return model_of(fit(config))
    """
    config.described()  # Before anything is written, refuse a config that cannot be described.
    check_shares(config.batch_size, all_devices(), config.accumulate)
    with held(config) as workdir:
        return _fitted(config, workdir)


def _fitted(config: Config, workdir: Path) -> TrainState:
    """`fit` in a workdir that this process holds."""
    deadline, mesh = Deadline(config.max_minutes), all_devices()
    images, remark = images_of(dataclasses.replace(config, on_device=_as_begun(config, workdir)), mesh)
    config = dataclasses.replace(config, on_device=isinstance(images, DeviceImages))
    state, schedule, start, checkpoints, best = _begun(config, images, workdir)
    epoch_steps = images.epoch_steps
    first_step, last_step = int(state.step), config.epochs * epoch_steps
    state = replicated(state, mesh)
    # Records after the checkpoint belong to steps that the run makes again.
    before_now = [record for record in read(workdir / 'metrics.jsonl') if record['step'] <= first_step]
    scores = Scores(before_now, config.patience)
    if scores.should_end:
        last_step = first_step  # The patience of this run had ended before it was started again.
    step = functools.partial(_step, step_of(config), schedule)
    see_signs, see = jax.jit(signs), jax.jit(watch)

    with (
        checkpoints,
        best or contextlib.nullcontext(),
        MetricsLog(workdir / 'metrics.jsonl' if is_first_host() else None, first_step) as log,
        Progress(first_step, last_step, epoch_steps, log.seconds, config.comparable_anchors()) as progress,
        Signals() as signals,
        images.trained_by(step, first_step, last_step) as advance,
    ):
        if remark:
            progress.say(remark)
        records = StepRecords(log, progress, Health(before_now), images.pace, checkpoints)
        if config.watch_every:
            log.settings(config.described())
        number, saved_at, shown = first_step, progress.seconds(), False
        while number < last_step:
            watched = config.watch_every and (number + 1) % config.watch_every == 0
            before = see_signs(state) if watched else {}  # Before the step, which overwrites the state's buffers.
            # A watched step is a call of its own; a call never passes a checkpoint or the end of an epoch.
            count = 1 if watched else min(images.pace.steps, _next_stop(config, epoch_steps, number) - number)
            state, metrics, batch_images = advance(state, count)
            if watched:
                metrics |= see(before, state, batch_images()[:: config.accumulate], start)
            records.add(Call(number + 1, count, metrics))
            number += count
            ends, ends_epoch = number == last_step, number % epoch_steps == 0
            evaluates = ends or (ends_epoch and number // epoch_steps % config.evaluate_every == 0)
            stops, late = signals.stop_now(), deadline.stop_now(count)
            at_checkpoint = ends_epoch or number % config.checkpoint_every == 0
            # If an epoch takes only a second, saving at its end would take as long as training.
            rested = progress.seconds() - saved_at >= images.seconds_between_saves
            saves = ends or stops or late or (at_checkpoint and rested)
            # Before a checkpoint, all records are written: a loss that is not finite raises here, before the state is saved.
            records.write(all_calls=bool(saves or evaluates))
            if watched and not shown:
                shown = True
                log.images(number, batch_images().addressable_data(0))
            if evaluates:
                record = _evaluated(config, images, state, number, log, progress)
                records.warn(record)
                if scores.improved_by(record) and best:
                    check_parameters(checkpoints, number, state)
                    best.save(state)
                if scores.should_end and not ends:
                    progress.say(f'ended at step {number}: no better test result in {config.patience} evaluations')
                    ends, saves, last_step = True, True, number
            if saves:
                check_parameters(checkpoints, number, state)
                checkpoints.save(state)
                saved_at = progress.seconds()
            if stops or (late and not ends):
                checkpoints.wait()
                raise _stopped(config, number, int(stops), progress)
            if saves or evaluates:
                records.leave_out()
        checkpoints.wait()
        if best:
            best.wait()
        if signals.received:
            raise Interrupted(128 + signals.received)
    return own_copy(state)


class _Begun(NamedTuple):
    """The start of a run, new or resumed."""

    # The state of the newest checkpoint, or a new one.
    state: TrainState
    # The learning rate of each step.
    schedule: optax.Schedule
    # Layer -> alpha before the first step; empty if nothing is watched.
    start: dict[str, float]
    checkpoints: Checkpoints
    # The folder of the best checkpoint, if the config asks for one.
    best: Checkpoints | None


def _begun(config: Config, images: Any, workdir: Path) -> _Begun:
    """Restore the state or make a new one, open the folders of checkpoints, check all hosts, and write config.json."""
    decisive = config.decisive()
    last_step = config.epochs * images.epoch_steps
    if last_step > LARGEST:
        raise ValueError(
            f'epochs: got {config.epochs} of {images.epoch_steps} steps, expected at most {LARGEST:,} steps in all'
        )
    first, schedule = beginning(config, last_step)
    if first.num_classes is not None:
        images.check(first.num_classes, takes_classes(first.loss))
    start = _start(first) if config.watch_every else {}  # The same in a resumed run.
    checkpoints = Checkpoints(workdir / 'checkpoints', decisive)
    state = checkpoints.restore(
        first, lambda epochs, done: check_extension(config, epochs, images.epoch_steps, done, first)
    )
    if is_first_host() and int(state.step) == 0:  # A new run must not keep the best checkpoint of an earlier one.
        shutil.rmtree(workdir / 'best', ignore_errors=True)
    check_same_on_hosts(int(state.step), config.same_on_hosts())  # Here the other hosts wait for the first one.
    best = Checkpoints(workdir / 'best', decisive, kept=1) if config.keep_best else None
    if is_first_host():
        write(workdir / 'config.json', json.dumps(config.described(), indent=2) + '\n')
    return _Begun(state, schedule, start, checkpoints, best)


def _evaluated(
    config: Config, images: Any, state: TrainState, number: int, log: MetricsLog, progress: Progress
) -> dict:
    """Evaluate the epoch that ends at step `number`; write and show its record."""
    model, epoch_steps = model_of(own_copy(state)), images.epoch_steps
    totals, compared = images.tested(model, _compared_batches(config, epoch_steps), state.loss)
    test = means(sum_over_hosts(totals), state.num_classes)
    compared = statistics_record(sum_over_hosts(compared))
    record = log.epoch(number, epoch_steps, test, progress.seconds(), config.batch_size, compared)
    progress.epoch(record)
    if config.watch_every and is_first_host():
        log.weights(number, latent_weights(model))
    return record


def _stopped(config: Config, number: int, signal: int, progress: Progress) -> Interrupted:
    """The exception that ends a run after its state was saved. Signal 0 stands for the time limit."""
    why = f'by signal {signal}' if signal else f'after {config.max_minutes:.3g} minutes'
    progress.say(f'stopped at step {number} {why}, saved; start again to go on')
    return Interrupted(128 + signal) if signal else OutOfTime(OUT_OF_TIME)


def _step(
    update: Callable, schedule: optax.Schedule, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Make an update, and add its learning rate to the metrics."""
    new, metrics = update(state, batch)
    # Schedules mix dtypes; a user may have forbidden that for all other code.
    with jax.numpy_dtype_promotion('standard'):
        return new, metrics | {'learning_rate': jnp.asarray(schedule(state.step), jnp.float32)}


def _as_begun(config: Config, workdir: Path) -> bool | None:
    """The config's `on_device`; if it is None in a run that has begun, the value in config.json.

    A resumed run must make its batches where it made them before.
    """
    if config.on_device is not None or not any((workdir / 'checkpoints').glob('[0-9]*')):
        return config.on_device
    try:
        return bool(read_object(workdir / 'config.json', '').get('on_device'))
    except ValueError:
        return None


def _next_stop(config: Config, epoch_steps: int, number: int) -> int:
    """The next step after `number` at which a call must end: before a watched step, at a checkpoint, at an epoch's end."""
    stops = [(number // every + 1) * every for every in (epoch_steps, config.checkpoint_every)]
    if config.watch_every:
        stops.append(((number + 1) // config.watch_every + 1) * config.watch_every - 1)
    return min(stops)


def _start(state: TrainState) -> dict[str, float]:
    """Layer -> alpha before the first step, for the layers where it is above 0."""
    return {name: value for name, alpha in jax.jit(alphas)(state).items() if (value := float(alpha)) > 0}


def _compared_batches(config: Config, epoch_steps: int) -> int:
    """How many test batches are also evaluated with batch statistics: enough for COMPARED images, fewer in a short epoch."""
    if not config.watch_every:
        return 0
    # A batch costs two forward passes, about the time of a step. So this takes at most a hundredth of an epoch, or one batch.
    return max(1, min(-(-COMPARED // config.batch_size), epoch_steps // 100))
