"""Schedules of the learning rate for a Config: functions (learning_rate, steps) -> an Optax schedule."""

from collections.abc import Callable

import optax


def constant(learning_rate: float, steps: int) -> optax.Schedule:
    """The same rate at each step, whatever the length of the run; so a run with it can be extended.

    Args:
        learning_rate: the rate.
        steps: the number of steps of the run; not used.

    Returns:
        An Optax schedule.

    Example:
        >>> constant(0.1, 100)(7)
        0.1
    """
    return optax.constant_schedule(learning_rate)


def warmed_up(schedule: Callable[[float, int], optax.Schedule], learning_rate: float, steps: int, first: int):
    """A schedule after a linear warm-up: step i of the warm-up has the rate learning_rate (i + 1) / (first + 1).

    Args:
        schedule: makes the schedule of the remaining steps.
        learning_rate: the largest rate.
        steps: the number of steps of the whole run.
        first: how many of them are the warm-up; 0: none.

    Raises:
        ValueError: the warm-up takes the whole run.

    Example:
        >>> rate = warmed_up(constant, 0.4, 10, 3)
        >>> [round(float(rate(i)), 3) for i in (0, 1, 2, 3, 9)]
        [0.1, 0.2, 0.3, 0.4, 0.4]
    """
    if not 0 <= first < steps:
        raise ValueError(f'warmup: got {first} steps of {steps}, expected fewer than the whole run')
    after = schedule(learning_rate, steps - first)
    if first == 0:
        return after
    rising = optax.linear_schedule(learning_rate / (first + 1), learning_rate, first)
    return optax.join_schedules([rising, after], [first])
