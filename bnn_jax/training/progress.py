"""Progress of a run for people: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bnn_jax.training.devices import is_first_host

LINE_EVERY = 10.0
"""Seconds between plain lines."""


class Progress:
    """Shows step, steps a second, loss, accuracy and time left; keeps the run's clock, which `before` seconds precede.

    anchors: (epoch, published test accuracy), shown beside the epoch's own.
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
        self._counted_from: tuple[int, float] | None = None
        self._console = Console(stderr=True, quiet=not is_first_host())
        self._bar = Bar(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[text]}'),
            TimeRemainingColumn(),
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
            self.say(f'going on from step {self.first_step} of {self.last_step}')
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def seconds(self) -> float:
        """Training time so far, interruptions left out."""
        return round(self._before + time.monotonic() - self._started, 6)

    def step(self, record: dict) -> None:
        """Show a step's record."""
        now = time.monotonic()
        if self._counted_from is None:  # the first step compiles: it says nothing about the others
            self._counted_from = record['step'], now
        first, began = self._counted_from
        rate = (record['step'] - first) / (now - began) if record['step'] > first else 0.0
        speed = f'{rate:.1f} steps/s' if rate else 'compiled'
        text = f'{speed}  loss {record["loss"]:.3f}  accuracy {record["accuracy"]:.1%}'
        self._bar.update(self._task, completed=record['step'], text=text)
        if not self._console.is_terminal and now - self._line_at >= LINE_EVERY:
            self._line_at = now
            left = f'  {(self.last_step - record["step"]) / rate / 60:.1f} min left' if rate else ''
            self.say(f'step {record["step"]}/{self.last_step}  {text}{left}')

    def epoch(self, record: dict) -> None:
        """Show an epoch's record, and the published accuracy where there is an anchor."""
        published = self._published.get(record['epoch'])
        beside = ''
        if published is not None:
            points = 100 * (record['test_accuracy'] - published)
            beside = f'  published {published:.2%} ({points:+.2f} points here)'
        self.say(
            f'epoch {record["epoch"]}/{self.last_step // self.epoch_steps}  '
            f'train loss {record["train_loss"]:.4f} accuracy {record["train_accuracy"]:.2%}  '
            f'test loss {record["test_loss"]:.4f} accuracy {record["test_accuracy"]:.2%}{beside}'
        )

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
