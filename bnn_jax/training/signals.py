"""Requests to stop a run, by a signal or its time limit. They are noted at once, and obeyed after the state is saved."""

import itertools
import signal
import time

import jax
import numpy as np

HOSTS_ASK_EVERY = 16
"""How many steps several hosts make before they ask the first one whether the time is over."""


class Signals:
    """Inside this context the first SIGTERM or SIGINT is only noted in `received`.

    A second one has the effect that it has outside the context.

    If there are several hosts, JAX notes SIGTERM on any of them and chooses the step at which all of them stop. Ctrl-C
    ends a process at once.
    """

    # `stop_now` gives JAX a number in each call. JAX stops all hosts at the number after the largest that any of them
    # gave. So every host must give 1, 2, 3, ..., not numbers of steps, some of which may be skipped. A second run in a
    # process goes on counting.
    _calls = itertools.count(1)

    def __enter__(self):
        self.received, self._previous = 0, {}
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:
                # Only the main thread may set signal handlers. A run in another thread leaves signals to its program.
                break
        return self

    def stop_now(self) -> int:
        """The signal that asks to stop, or 0. Several hosts must all call this equally often."""
        if jax.process_count() == 1:
            return self.received
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        return signal.SIGTERM if reached_preemption_sync_point(next(self._calls)) else 0

    def _receive(self, number, frame):
        if self.received:
            self.__exit__()
            signal.raise_signal(number)
        self.received = number

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Deadline:
    """The time limit of a run. The clock of the first host decides for all hosts.

    Args:
        minutes: from now on; 0: no limit.

    Example:
        >>> Deadline(0).stop_now(), Deadline(1e-9).stop_now()
        (False, True)
    """

    def __init__(self, minutes: float):
        self._steps = 0
        self._at = time.monotonic() + 60 * minutes if minutes else None

    def stop_now(self, steps: int = 1) -> bool:
        """Whether to stop; `steps` were made since the last call, the same number on each host."""
        if self._at is None:
            return False
        over = time.monotonic() >= self._at
        if jax.process_count() == 1:
            return over
        self._steps += steps
        if self._steps < HOSTS_ASK_EVERY:
            return False
        self._steps = 0
        from jax.experimental.multihost_utils import broadcast_one_to_all

        return bool(broadcast_one_to_all(np.array(over)))
