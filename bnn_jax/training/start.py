"""How a run begins, from its config: the state, the learning rate of every step, and the step itself."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnn_jax.nn.variables import Progress
from bnn_jax.training.batch import are_classes
from bnn_jax.training.config import Config
from bnn_jax.training.loss import takes_classes
from bnn_jax.training.mixing import Mixing
from bnn_jax.training.schedules import warmed_up
from bnn_jax.training.state import TrainState, init
from bnn_jax.training.step import update

COMPARED_RATES = 64
"""Steps at which the rates of two lengths of one run are compared."""


def rates(config: Config, steps: int) -> optax.Schedule:
    """The learning rate of every step of a run: the config's schedule after its warm-up."""
    first = round(config.warmup_epochs / config.epochs * steps)
    return warmed_up(config.schedule, config.learning_rate, steps, first)


def beginning(config: Config, steps: int) -> tuple[TrainState, optax.Schedule]:
    """The state before the first step, and the learning rates.

    Args:
        config: of the run.
        steps: how many it has.

    Raises:
        ValueError: for labels that are to be mixed of a network that does not say how many classes it has.
    """
    schedule = rates(config, steps)
    tx = config.optimizer(schedule)
    if config.clip_gradient:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_gradient), tx)
    state = init(config.network(), tx, config.objective(), operands=config.operands(), steps=steps)
    if (config.mixup or config.label_smoothing) and state.num_classes is None:
        raise ValueError(
            'mixup, label_smoothing: the network does not say how many classes it has; set self.num_classes in its __init__'
        )
    if config.ema:
        state = dataclasses.replace(state, average=jax.tree.map(jnp.copy, (state.params, state.rest)))
    return state, schedule


def step_of(config: Config) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, jax.Array]]]:
    """One update of a run, not yet compiled: the batch changed as the config says, and the average moved after it."""
    change = Mixing(config.cutout, config.mixup, config.label_smoothing, config.seed)
    one = functools.partial(update, parts=config.accumulate)
    if change == Mixing(seed=config.seed) and not config.ema:
        return one

    def step(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, jax.Array]]:
        if change.mixup or change.label_smoothing:
            _check_classes(state, batch['label'])
        new, metrics = one(state, change(batch, state.step, state.num_classes))
        return _averaged(new, config.ema), metrics

    return step


def _check_classes(state: TrainState, labels: Any) -> None:
    """Raises ValueError for labels that cannot be mixed or smoothed, as they are no classes."""
    if takes_classes(state.loss) or (are_classes(labels) and (state.num_classes or 1) > 1):
        return
    got = jax.tree.map(lambda label: f'{label.dtype}{list(label.shape)}', labels)
    raise ValueError(
        f'mixup, label_smoothing: got labels {got} for {state.num_classes} logits and a loss of your own, expected classes, '
        'integers (N,), of at least two; leave both out'
    )


def _averaged(state: TrainState, decay: float) -> TrainState:
    """average <- decay average + (1 - decay) numbers, of parameters and statistics; progress and integers are copied."""
    if state.average is None:
        return state

    def moved(average: Any, number: Any) -> Any:
        if isinstance(number, Progress) or not jnp.issubdtype(number.dtype, jnp.floating):
            return number
        return average + jnp.asarray(1 - decay, number.dtype) * (number - average)

    average = jax.tree.map(moved, state.average, (state.params, state.rest), is_leaf=lambda v: isinstance(v, Progress))
    return dataclasses.replace(state, average=average)


def check_extension(config: Config, epochs: int, epoch_steps: int, done: int, state: TrainState) -> None:
    """Raises ValueError unless a run of `epochs`, of which `done` steps are made, is the beginning of this longer one.

    Args:
        config: of the longer run.
        epochs: those of the run that is there.
        epoch_steps: steps of an epoch.
        done: steps that were made.
        state: of the longer run.
    """
    shorter = dataclasses.replace(config, epochs=epochs)
    old, new = (rates(each, each.epochs * epoch_steps) for each in (shorter, config))
    remedy = 'use another --workdir, or delete the checkpoints to start anew'
    with jax.numpy_dtype_promotion('standard'):
        for i in sorted({i * max(0, done - 1) // COMPARED_RATES for i in range(COMPARED_RATES + 1)}):
            if (before := float(np.asarray(old(i)))) != (now := float(np.asarray(new(i)))):
                raise ValueError(
                    f'epochs: this run was begun with {epochs}, whose learning rate at step {i + 1} is {before:g}, with '
                    f'{config.epochs} it would have been {now:g}; only a schedule that is the same for every length, '
                    f'such as training.constant, lets it go on. To train longer, {remedy}'
                )
    if any(
        isinstance(leaf, Progress) for leaf in jax.tree.leaves(state.rest, is_leaf=lambda v: isinstance(v, Progress))
    ):
        raise ValueError(
            f'epochs: this run was begun with {epochs}, and its quantizers follow the progress of the whole run; {remedy}'
        )
