"""The records of a run's steps: their metrics and warnings, and the errors of a run that diverged."""

import collections
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from bnn_jax.training.checkpoint import Checkpoints
from bnn_jax.training.devices import own_copy
from bnn_jax.training.health import Health
from bnn_jax.training.metrics import MetricsLog
from bnn_jax.training.progress import Progress
from bnn_jax.training.state import TrainState


class NonFiniteLoss(ArithmeticError):
    """Training diverged: a loss, a gradient, a parameter or a statistic is NaN or infinite.

    Example:
        >>> from bnn_jax.training import NonFiniteLoss, fit
        >>> def diverges(config):
        ...     try:
        ...         fit(config)
        ...     except NonFiniteLoss:
        ...         return True
        ...     return False
    """


class Call(NamedTuple):
    """The result of one call of the compiled step, not yet read from the devices."""

    # The number of its first step, from 1, and how many steps it made.
    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # it hides the method of tuples
    # The metrics of one step; or arrays, whose first `count` numbers are those of the steps.
    metrics: dict[str, jax.Array]

    def read(self) -> list[dict[str, float]]:
        """Wait for the devices, and return a record of each step."""
        values = {name: np.atleast_1d(np.asarray(value)) for name, value in self.metrics.items()}
        return [
            {'step': self.first + i} | {name: float(value[i]) for name, value in values.items()}
            for i in range(self.count)
        ]


class StepRecords:
    """Writes the records of steps, one call behind, so that the devices need not wait for the host.

    Args:
        log, progress: where the records go.
        health: finds what to warn of.
        pace: learns how long a call takes.
        checkpoints: the newest is named in the error of a run that diverged.
    """

    def __init__(self, log: MetricsLog, progress: Progress, health: Health, pace: Any, checkpoints: Checkpoints):
        self._log, self._progress, self._health, self._pace = log, progress, health, pace
        self._checkpoints = checkpoints
        self._pending: collections.deque[Call] = collections.deque()
        self._read_at = progress.seconds()

    def add(self, call: Call) -> None:
        """Note a call, which may still be running."""
        self._pending.append(call)

    def write(self, *, all_calls: bool) -> None:
        """Write the records of all calls, or of all but the last one. Raises NonFiniteLoss if a step has diverged."""
        ready = [self._pending.popleft() for _ in range(len(self._pending) - (0 if all_calls else 1))]
        if not ready:
            return
        records = [record for call in ready for record in call.read()]
        # The time of a single step is unknown, so the time of all calls is divided evenly among their steps.
        took, began_at = (self._progress.seconds() - self._read_at) / len(records), self._read_at
        for i, record in enumerate(records, start=1):
            _check_finite(self._checkpoints, record)
            self._read_at = began_at + i * took
            self._log.write(**record, seconds=round(self._read_at, 6))
            self.warn(record)
        for call in ready:
            self._pace.took(call.count, call.count * took)
        self._progress.step(records[-1])

    def warn(self, record: dict[str, float]) -> None:
        """Write a warning for each value of a record that is not healthy."""
        for warning in self._health.warnings(record):
            self._log.write(step=record['step'], warning=warning, seconds=self._progress.seconds())
            self._progress.say(f'step {record["step"]}: warning: {warning}')

    def leave_out(self) -> None:
        """Do not count the time since the last record for the next steps, because it was spent on saving or evaluating."""
        self._read_at = self._progress.seconds()


def _check_finite(checkpoints: Checkpoints, record: dict[str, float]) -> None:
    """Raises NonFiniteLoss for the record of a step whose loss or gradient is not finite."""
    if not all(math.isfinite(record[name]) for name in ('loss', 'gradient_norm')):
        got = f'loss {record["loss"]} and gradient norm {record["gradient_norm"]}'
        raise _diverged(checkpoints, int(record['step']), got)


def check_parameters(checkpoints: Checkpoints, number: int, state: TrainState) -> None:
    """Raises NonFiniteLoss for parameters or statistics that are not finite, which must not be saved.

    The loss of a step does not reveal them: an infinite update shows only in the loss of the next step.

    Args:
        checkpoints: the newest is named in the error.
        number: the number of the step.
        state: after the step.
    """
    for leaf in jax.tree.leaves(own_copy((state.params, state.rest))):
        if not np.isfinite(np.asarray(leaf, np.float32)).all():
            raise _diverged(checkpoints, number, 'parameters or statistics that are NaN or infinite')


def _diverged(checkpoints: Checkpoints, number: int, got: str) -> NonFiniteLoss:
    last = checkpoints.last()
    kept = 'there is no checkpoint yet' if last is None else f'the last good checkpoint is {last}'
    return NonFiniteLoss(
        f'step {number}: got {got}, expected finite numbers; {kept}. '
        'Try a smaller --learning_rate in another --workdir, and check the images for NaN'
    )
