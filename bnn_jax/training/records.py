"""What a run writes of its steps: metrics, read one call behind, and warnings; and the errors of a run that diverged."""

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
    """Training diverged: the loss or its gradient is NaN or infinite."""


class Call(NamedTuple):
    """What one call of the compiled step gives, not yet read."""

    # number of its first step, from 1; how many steps it took
    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # it hides the method of tuples
    # of one step, or arrays that begin with those of each
    metrics: dict[str, jax.Array]

    def read(self) -> list[dict[str, float]]:
        """A record of each step, once the devices are done with it."""
        values = {name: np.atleast_1d(np.asarray(value)) for name, value in self.metrics.items()}
        return [
            {'step': self.first + i} | {name: float(value[i]) for name, value in values.items()}
            for i in range(self.count)
        ]


class StepRecords:
    """The records of steps, in the log and in what people see.

    Args:
        log, progress: where they go.
        health: what warns of them.
        pace: which learns how long a call takes.
        checkpoints: which an error names the last of.
    """

    def __init__(self, log: MetricsLog, progress: Progress, health: Health, pace: Any, checkpoints: Checkpoints):
        self._log, self._progress, self._health, self._pace = log, progress, health, pace
        self._checkpoints = checkpoints
        self._pending: collections.deque[Call] = collections.deque()
        self._read_at = progress.seconds()

    def add(self, call: Call) -> None:
        """A call, which may still run."""
        self._pending.append(call)

    def write(self, *, all_calls: bool) -> None:
        """Records of all calls, or of all but the last, so that the host waits for no step. Raises NonFiniteLoss."""
        ready = [self._pending.popleft() for _ in range(len(self._pending) - (0 if all_calls else 1))]
        if not ready:
            return
        records = [record for call in ready for record in call.read()]
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
        """Write what is not healthy in a record."""
        for warning in self._health.warnings(record):
            self._log.write(step=record['step'], warning=warning, seconds=self._progress.seconds())
            self._progress.say(f'step {record["step"]}: warning: {warning}')

    def leave_out(self) -> None:
        """What has passed since the last record was no step."""
        self._read_at = self._progress.seconds()


def _check_finite(checkpoints: Checkpoints, record: dict[str, float]) -> None:
    """Raises NonFiniteLoss."""
    if not all(math.isfinite(record[name]) for name in ('loss', 'gradient_norm')):
        got = f'loss {record["loss"]} and gradient norm {record["gradient_norm"]}'
        raise _diverged(checkpoints, int(record['step']), got)


def check_parameters(checkpoints: Checkpoints, number: int, state: TrainState) -> None:
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
