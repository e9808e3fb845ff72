"""Processes that share a GPU until their time is up."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bnn_jax.training.fit import OUT_OF_TIME
from experiments import print_help


@dataclasses.dataclass(frozen=True)
class Job:
    """One process."""

    name: str
    # The minutes that it may take -> its command.
    command: Callable[[float], Sequence[str]]
    # Whether there is nothing left to do. It is called before and after the job.
    done: Callable[[], bool]
    # The share of the GPU that it takes.
    share: float = 1.0
    # Called with its exit status when it ends.
    after: Callable[[int], None] = lambda status: None


class Day:
    """Runs jobs until the time is over, and says in a log what became of them."""

    def __init__(self, output: Path):
        self._output = output
        self._running: dict[subprocess.Popen, tuple[Job, float]] = {}
        self._environment = {
            'PYTHONUNBUFFERED': '1',
            'JAX_COMPILATION_CACHE_DIR': os.environ.get('JAX_COMPILATION_CACHE_DIR', f'{output}.work/compiled'),
        }
        (output / 'logs').mkdir(parents=True, exist_ok=True)
        self._stopped = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def say(self, text: str) -> None:
        """A line to the log and to people."""
        line = f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}'
        print(line, flush=True)
        with (self._output / 'log.txt').open('a') as log:
            log.write(f'{line}\n')

    def run(self, jobs: Sequence[Job], end: float, finish: float = 0.0) -> None:
        """Run what is not done, in order, as much at once as fits on the card, until the time `end` (`time.monotonic`).

        Args:
            jobs: the most important first.
            end: when what still runs is asked to save and end; twenty seconds later it is killed.
            finish: the seconds between the time limit of a job, which it gets when it starts, and `end`: time to finish.
        """
        waiting = [job for job in jobs if not job.done()]
        while (waiting or self._running) and not self._stopped:
            left = end - time.monotonic() - finish
            while (
                waiting
                and left > 0
                and sum(job.share for job, _ in self._running.values()) + waiting[0].share <= 1.0001
            ):
                self._start(waiting.pop(0), left / 60)
            if left <= 0:
                waiting = []
            if time.monotonic() > end:
                break
            self._collect()
            time.sleep(0.05)
        self._end()

    def _start(self, job: Job, minutes: float) -> None:
        environment = os.environ | self._environment | {'XLA_CLIENT_MEM_FRACTION': f'{0.9 * job.share:.2f}'}
        with (self._output / 'logs' / f'{job.name}.txt').open('a') as log:
            # The job gets a session of its own. Otherwise a terminal's Ctrl-C would reach it in addition to the SIGTERM of
            # `_end`, and a second signal ends a run without saving.
            process = subprocess.Popen(
                job.command(minutes), env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self._running[process] = job, time.monotonic()
        self.say(f'{job.name}: started, {minutes:.1f} minutes left')

    def _collect(self) -> None:
        for process in [process for process in self._running if process.poll() is not None]:
            job, started = self._running.pop(process)
            try:
                job.after(process.returncode)
            except OSError as error:
                self.say(f'{job.name}: what it left could not be copied ({error})')
            minutes = (time.monotonic() - started) / 60
            state = 'done' if job.done() else 'not finished' if process.returncode == OUT_OF_TIME else 'failed'
            self.say(
                f'{job.name}: {state} after {minutes:.1f} minutes, status {process.returncode}; see logs/{job.name}.txt'
            )

    def _end(self) -> None:
        """Have what still runs save and end."""
        for process in self._running:
            process.terminate()
        patience = time.monotonic() + 20
        while self._running:
            self._collect()
            if time.monotonic() > patience:
                for process in self._running:
                    process.kill()
            time.sleep(0.05)
        if self._stopped:
            self.say(f'stopped by signal {self._stopped}; run the same command again to continue')
            raise SystemExit(128 + self._stopped)

    def _stop(self, number, frame) -> None:
        self._stopped = number


if __name__ == '__main__':
    print_help(__doc__)
