"""The beginning of a run, from its config: the state, the learning rate of each step, and the step itself."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bnn_jax.nn.variables import Progress
from bnn_jax.training.batch import are_classes
from bnn_jax.training.config import Config
from bnn_jax.training.loss import takes_classes
from bnn_jax.training.mixing import Mixing
from bnn_jax.training.schedules import warmed_up
from bnn_jax.training.state import TrainState, init
from bnn_jax.training.step import update

COMPARED_RATES = 64
"""The learning rates of a run and its extension are compared at the first step and at this many more, up to the last one."""


def rates(config: Config, steps: int) -> optax.Schedule:
    """The learning rate of each step of a run: a warm-up, then the schedule of the config.

    Args:
        config: the config of the run.
        steps: the number of steps of the run.
    """
    first = round(config.warmup_epochs / config.epochs * steps)
    return warmed_up(config.schedule, config.learning_rate, steps, first)


def beginning(config: Config, steps: int) -> tuple[TrainState, optax.Schedule]:
    """The state before the first step, and the learning rates.

    Args:
        config: the config of the run.
        steps: the number of steps of the run.

    Raises:
        ValueError: labels are to be mixed or smoothed, but the network has no `num_classes`; the warm-up takes the
            whole run; or as `init`.
    """
    schedule = rates(config, steps)
    tx = config.optimizer(schedule)
    if config.clip_gradient:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_gradient), tx)
    state = init(config.network(), tx, config.objective(), operands=config.operands(), steps=steps)
    if (config.mixup or config.label_smoothing) and state.num_classes is None:
        raise ValueError(
            'mixup, label_smoothing: got a network without num_classes, expected one that states it; set self.num_classes in '
            'its __init__'
        )
    if config.ema:
        state = dataclasses.replace(state, average=jax.tree.map(jnp.copy, (state.params, state.rest)))
    return state, schedule


def step_of(config: Config) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Float[Array, '']]]]:
    """One step of a run, not yet compiled: change the batch, update the parameters, update the moving average."""
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
    """Raises ValueError if labels of a user's own loss cannot be mixed or smoothed: not classes, or for a single logit."""
    if takes_classes(state.loss) or (are_classes(labels) and (state.num_classes or 1) > 1):
        return
    got = jax.tree.map(lambda label: f'{label.dtype}{list(label.shape)}', labels)
    raise ValueError(
        f'mixup, label_smoothing: got labels {got} for {state.num_classes} logits and a loss of your own, expected classes '
        'as integers (N,) and at least two logits; for other labels, leave out mixup and label_smoothing'
    )


def _averaged(state: TrainState, decay: float) -> TrainState:
    """average <- decay average + (1 - decay) numbers, for parameters and statistics; progress and integers are copied."""
    if state.average is None:
        return state

    def moved(average: Any, number: Any) -> Any:
        if isinstance(number, Progress) or not jnp.issubdtype(number.dtype, jnp.floating):
            return number
        return average + jnp.asarray(1 - decay, number.dtype) * (number - average)

    average = jax.tree.map(moved, state.average, (state.params, state.rest), is_leaf=lambda v: isinstance(v, Progress))
    return dataclasses.replace(state, average=average)


def check_extension(config: Config, epochs: int, epoch_steps: int, done: int, state: TrainState) -> None:
    """Raises ValueError unless a shorter run is the beginning of a longer one.

    Args:
        config: the config of the longer run.
        epochs: the number of epochs of the shorter run.
        epoch_steps: the number of steps of an epoch.
        done: the number of steps that the shorter run has made.
        state: the state of the longer run.
    """
    shorter = dataclasses.replace(config, epochs=epochs)
    old, new = (rates(each, each.epochs * epoch_steps) for each in (shorter, config))
    remedy = 'use another --workdir, or delete the checkpoints to start again'
    with jax.numpy_dtype_promotion('standard'):
        for i in sorted({i * max(0, done - 1) // COMPARED_RATES for i in range(COMPARED_RATES + 1)}):
            if (before := float(np.asarray(old(i)))) != (now := float(np.asarray(new(i)))):
                raise ValueError(
                    f'epochs: this run began with {epochs} and had the learning rate {before:g} at step {i + 1}; with '
                    f'{config.epochs} it would have been {now:g}. Only a schedule that does not depend on the length of the '
                    f'run, such as training.constant, can be extended. To train longer, {remedy}'
                )
    if any(
        isinstance(leaf, Progress) for leaf in jax.tree.leaves(state.rest, is_leaf=lambda v: isinstance(v, Progress))
    ):
        raise ValueError(
            f'epochs: this run began with {epochs}, and its quantizers depend on the progress of the whole run; {remedy}'
        )
