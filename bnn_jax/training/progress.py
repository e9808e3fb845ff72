"""The progress of a run for people: a bar on a terminal, plain lines elsewhere."""

import collections
import datetime
import statistics
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from bnn_jax.training.devices import is_first_host

RECENT = 101
"""The speed shown is a median over at most this many calls of `Progress.step`. A call may follow several steps."""

LINE_EVERY = 10.0
"""Seconds between plain lines."""


class Progress:
    """Shows step, steps per second, loss, accuracy and time left, and keeps the clock of the run.

    Speed and time left are computed from the last steps, without compilation and evaluation.

    Args:
        first_step: the number of steps that are done already.
        last_step: the number of steps of the run.
        epoch_steps: the number of steps of an epoch.
        before: the seconds that all earlier starts of the run took.
        anchors: (epoch, published test accuracy), shown beside the results of that epoch.
    """

    def __init__(
        self,
        first_step: int,
        last_step: int,
        epoch_steps: int,
        before: float,
        anchors: Iterable[tuple[int, float]] = (),
    ):
        self.first_step, self.last_step, self.epoch_steps = first_step, last_step, epoch_steps
        self._published = dict(anchors)
        self._started, self._before, self._line_at = time.monotonic(), before, 0.0
        self._last: tuple[int, float] | None = None
        self._seconds_a_step: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._console = Console(stderr=True, quiet=not is_first_host())
        self._bar = Bar(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[text]}'),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )

    def __enter__(self):
        self._bar.start()
        self._task = self._bar.add_task('training', total=self.last_step, completed=self.first_step, text='')
        if self.first_step == self.last_step:
            self.say(f'this run is finished ({self.last_step} steps); delete its workdir to train again')
        elif self.first_step:
            self.say(f'resuming from step {self.first_step} of {self.last_step}')
        if self.first_step < self.last_step:
            self.say('compiling the first step; this takes seconds to minutes, once')
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def seconds(self) -> float:
        """Seconds of all starts of the run so far, compilation and evaluation included."""
        return round(self._before + time.monotonic() - self._started, 6)

    def step(self, record: dict) -> None:
        """Show a step's record."""
        now = time.monotonic()
        if self._last is not None and record['step'] > self._last[0]:  # The first step compiles, so it does not count.
            self._seconds_a_step.append((now - self._last[1]) / (record['step'] - self._last[0]))
        self._last = record['step'], now
        seconds = statistics.median(self._seconds_a_step) if self._seconds_a_step else 0.0
        speed = f'{1 / seconds:.1f} steps/s' if seconds else 'compiled'
        text = f'{speed}  loss {record["loss"]:.3f}'
        text += f'  accuracy {record["accuracy"]:.1%}' if 'accuracy' in record else ''
        if seconds:
            left = datetime.timedelta(seconds=round((self.last_step - record['step']) * seconds))
            text += f'  {left} left'
        self._bar.update(self._task, completed=record['step'], text=text)
        if not self._console.is_terminal and now - self._line_at >= LINE_EVERY:
            self._line_at = now
            self.say(f'step {record["step"]}/{self.last_step}  {text}')

    def epoch(self, record: dict) -> None:
        """Show an epoch's record, and the published accuracy if there is an anchor."""
        self._last = record['step'], time.monotonic()
        published = self._published.get(record['epoch'])
        beside = ''
        if published is not None and 'test_accuracy' in record:  # A loss of the user's may give no accuracy.
            points = 100 * (record['test_accuracy'] - published)
            beside = f'  published {published:.2%} ({points:+.2f} points here)'
        parts = [
            f'{split} loss {record[f"{split}_loss"]:.4f}'
            + (f' accuracy {record[f"{split}_accuracy"]:.2%}' if f'{split}_accuracy' in record else '')
            for split in ('train', 'test')
        ]
        self.say(f'epoch {record["epoch"]}/{self.last_step // self.epoch_steps}  {"  ".join(parts)}{beside}')

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
