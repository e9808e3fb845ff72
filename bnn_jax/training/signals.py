"""What asks a run to stop, signals and its limit of time: noted, and obeyed where it can go on later."""

import itertools
import signal
import time

import jax
import numpy as np

HOSTS_ASK_EVERY = 16
"""Steps after which several hosts ask the first one whether the time is over."""


class Signals:
    """While entered, SIGTERM and SIGINT are noted in `received` instead of ending the process; a second one ends it.

    Where there are several hosts, JAX takes SIGTERM on any of them and has all stop at one step; Ctrl-C is not waited for.
    """

    # JAX stops at one more than the largest number that it was asked about: these go up by 1, on all hosts alike, where the
    # steps of a run may go up by more. They go on from one run of a process to the next.
    _calls = itertools.count(1)

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

    def stop_now(self) -> int:
        """The signal after which to stop; 0: go on. Of several hosts all ask equally often."""
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
    """The end of the minutes that a run may take, from now; 0: none. Of several hosts the first one's clock decides."""

    def __init__(self, minutes: float):
        self._steps = 0
        self._at = time.monotonic() + 60 * minutes if minutes else None

    def stop_now(self, steps: int = 1) -> bool:
        """Whether to stop. steps: so many since it was asked last; of several hosts all say the same."""
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
