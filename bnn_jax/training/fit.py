"""fit: a config to a trained state, resumable at any step; read from top to bottom."""

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
"""Test images that are evaluated by batch statistics too, at the end of every epoch."""


class Interrupted(SystemExit):
    """SIGTERM or Ctrl-C arrived; the state was saved first. The exit status is 128 + the signal's number."""


class OutOfTime(Interrupted):
    """`Config.max_minutes` are over; the state was saved first. The exit status is `OUT_OF_TIME`."""


OUT_OF_TIME = 75
"""The exit status of a run to be started again: EX_TEMPFAIL of sysexits.h."""


@compilation_cache()
def fit(config: Config) -> TrainState:
    """Train as config says, in config.workdir; started again after any interruption it goes on, to the same result.

    Writes config.json, metrics.jsonl, tensorboard/ and checkpoints/ there. The parameters depend on the config alone, not
    on where a run was stopped (on CPU bit for bit). Where the images lie on the devices (`Config.on_device`; by itself on an
    accelerator where they fit), up to a second of steps is one call; the metrics of a call are fetched while the next one runs.
    A run goes on in the way in which it began, for that decides its batches.
    Batches are spread over all devices. On several hosts (`devices.Hosts`), every one calls this with the same config and a
    workdir that all see; each reads its part of the images, the first one writes and reports. A run may go on with another
    number of devices or hosts: the same batches, summed in another order; and with more epochs, where its rates do not
    depend on these (`start.check_extension`). Returns the state as one device holds it.
    One process at a time may do so in a workdir (`workdir.held`).
    Raises Interrupted or OutOfTime where it was stopped, with the state saved; NonFiniteLoss at a NaN or infinite loss or
    gradient, the last good checkpoint being kept; OSError for a working directory that cannot be written; ValueError for a
    checkpoint of another model or config and for bad data. The process's
    allocator is left as it is; the command line sets it (`memory`). While it runs, compiled programs are kept on disk
    (`compilation_cache`).
    """
    config.described()  # A config that cannot be described is refused before anything is written.
    check_shares(config.batch_size, all_devices(), config.accumulate)
    with held(config) as workdir:
        return _fitted(config, workdir)


def _fitted(config: Config, workdir: Path) -> TrainState:
    deadline, mesh = Deadline(config.max_minutes), all_devices()
    images, remark = images_of(dataclasses.replace(config, on_device=_as_begun(config, workdir)), mesh)
    config = dataclasses.replace(config, on_device=isinstance(images, DeviceImages))
    state, schedule, start, checkpoints, best = _begun(config, images, workdir)
    epoch_steps = images.epoch_steps
    first_step, last_step = int(state.step), config.epochs * epoch_steps
    state = replicated(state, mesh)
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
        before_now = [record for record in read(workdir / 'metrics.jsonl') if record['step'] <= first_step]
        records = StepRecords(log, progress, Health(before_now), images.pace, checkpoints)
        scores = Scores(before_now, config.patience)
        if scores.ended:
            last_step = first_step
        if config.watch_every:
            log.settings(config.described())
        number, saved_at, shown = first_step, progress.seconds(), False
        while number < last_step:
            watched = config.watch_every and (number + 1) % config.watch_every == 0
            before = see_signs(state) if watched else {}  # before the step, which reuses the state's buffers
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
            rested = progress.seconds() - saved_at >= images.seconds_between_saves
            saves = ends or stops or late or (at_checkpoint and rested)
            # Nothing is pending when a checkpoint is made.
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
                if scores.ended and not ends:
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
    """Where a run begins, or goes on."""

    # of the newest checkpoint
    state: TrainState
    schedule: optax.Schedule
    # Alpha of every layer before the first step, where it is watched.
    start: dict[str, float]
    checkpoints: Checkpoints
    # where the best one is kept
    best: Checkpoints | None


def _begun(config: Config, images: Any, workdir: Path) -> _Begun:
    """The state to go on from, on every host the same, and the folders of checkpoints; writes config.json."""
    decisive = config.decisive()
    last_step = config.epochs * images.epoch_steps
    if last_step > LARGEST:
        raise ValueError(
            f'epochs: got {config.epochs} of {images.epoch_steps} steps, expected at most {LARGEST:,} steps in all'
        )
    first, schedule = beginning(config, last_step)
    if first.num_classes is not None:
        images.check(first.num_classes, takes_classes(first.loss))
    start = _start(first) if config.watch_every else {}  # From the config alone, so the same in a resumed run.
    checkpoints = Checkpoints(workdir / 'checkpoints', decisive)
    state = checkpoints.restore(
        first, lambda epochs, done: check_extension(config, epochs, images.epoch_steps, done, first)
    )
    if is_first_host() and int(state.step) == 0:  # Anew: the best of the run before is none of this one's.
        shutil.rmtree(workdir / 'best', ignore_errors=True)
    check_same_on_hosts(int(state.step), decisive)  # Here the others wait for the first one.
    best = Checkpoints(workdir / 'best', decisive, kept=1) if config.keep_best else None
    if is_first_host():
        write(workdir / 'config.json', json.dumps(config.described(), indent=2) + '\n')
    return _Begun(state, schedule, start, checkpoints, best)


def _evaluated(
    config: Config, images: Any, state: TrainState, number: int, log: MetricsLog, progress: Progress
) -> dict:
    """The record of the epoch that ends at step `number`, written and shown."""
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
    """What ends a run that was stopped by a signal, or for 0 by the end of its time, after its state was saved."""
    why = f'by signal {signal}' if signal else f'after {config.max_minutes:.3g} minutes'
    progress.say(f'stopped at step {number} {why}, saved; start again to go on')
    return Interrupted(128 + signal) if signal else OutOfTime(OUT_OF_TIME)


def _step(
    update: Callable, schedule: optax.Schedule, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An update, its metrics and its learning rate."""
    new, metrics = update(state, batch)
    with jax.numpy_dtype_promotion('standard'):  # schedules rely on it, where a user forbids it
        return new, metrics | {'learning_rate': jnp.asarray(schedule(state.step), jnp.float32)}


def _as_begun(config: Config, workdir: Path) -> bool | None:
    """`on_device`, or where that is None the way in which the run in workdir began: it decides the batches."""
    if config.on_device is not None or not any((workdir / 'checkpoints').glob('[0-9]*')):
        return config.on_device
    try:
        return bool(read_object(workdir / 'config.json', '').get('on_device'))
    except ValueError:
        return None


def _next_stop(config: Config, epoch_steps: int, number: int) -> int:
    """The next step after `number` at which a call must end: before a watched one, at a checkpoint, at an epoch's end."""
    stops = [(number // every + 1) * every for every in (epoch_steps, config.checkpoint_every)]
    if config.watch_every:
        stops.append(((number + 1) // config.watch_every + 1) * config.watch_every - 1)
    return min(stops)


def _start(state: TrainState) -> dict[str, float]:
    """Alpha of every layer before the first step, for the layers where it is not 0."""
    return {name: value for name, alpha in jax.jit(alphas)(state).items() if (value := float(alpha)) > 0}


def _compared_batches(config: Config, epoch_steps: int) -> int:
    """Test batches that are also evaluated by batch statistics: COMPARED images, or fewer in a short epoch."""
    if not config.watch_every:
        return 0
    # A batch costs two forward passes, about the time of a step: this is a hundredth of an epoch, or one batch.
    return max(1, min(-(-COMPARED // config.batch_size), epoch_steps // 100))
