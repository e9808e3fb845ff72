"""Metrics as people and programs want them: one JSON line a record, one event a record for TensorBoard."""

import contextlib
import errno
import itertools
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bnn_jax.files import write
from bnn_jax.training.events import Events


class MetricsLog:
    """metrics.jsonl, one JSON object a line, and the same numbers for TensorBoard in tensorboard/ beside it.

    A record of every step (what `train_step` measures on its batch, `learning_rate`, `seconds` of training so far; at
    some steps what `watch` sees), one of every epoch (`epoch`, means over it, test results, `images_per_second` by its
    median step, the same test images by running and by batch statistics) and one of every warning (`warning`, a sentence,
    which TensorBoard does not get).
    Opened again at the step a run resumes from, it drops what lies beyond, and damaged lines, of which the whole file is kept
    beside it as metrics.damaged.jsonl; `seconds` is where the run's clock goes on.
    path None: nothing is written, as on all hosts but one.
    """

    def __init__(self, path: Path | None, resumed_at: int):
        self.path = path
        parsed = _parsed(path) if path else []
        self._records = [record for record in parsed if record and record['step'] <= resumed_at]
        self.seconds = self._records[-1]['seconds'] if self._records else 0.0
        self._file, self._events = None, None
        if path:
            if None in parsed[:-1]:  # More than a last line that a kill cut short.
                write(path.with_suffix('.damaged.jsonl'), path.read_bytes())
            # Written anew, whole: what lies beyond the step at which the run resumes is dropped.
            write(path, ''.join(f'{json.dumps(record)}\n' for record in self._records))
            self._file = path.open('ab', buffering=0)
            self._events = Events(path.parent / 'tensorboard', resumed_at)

    def write(self, **record) -> None:
        """Append a record, at once. Raises OSError, with the remedy."""
        self._records.append(record)
        if self._file and self._events:
            with self._writing():
                line = f'{json.dumps(record)}\n'.encode()
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._events.write(record)

    def settings(self, described: dict[str, Any]) -> None:
        """For TensorBoard alone: the settings of the run, as `Config.described` has them."""
        if self._events:
            with self._writing():
                self._events.settings(described)

    def weights(self, step: int, latent: dict[str, np.ndarray]) -> None:
        """For TensorBoard alone: a histogram of the latent weights of every layer."""
        if self._events:
            with self._writing():
                self._events.weights(step, latent)

    def images(self, step: int, images: Any) -> None:
        """For TensorBoard alone: the first images of a batch, (N, H, W, channels)."""
        if self._events:
            with self._writing():
                self._events.images(step, images)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """An error of storage says what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f'could not write a record ({error.strerror}); free space, then start the same command again',
                str(self.path),
            ) from error

    def epoch(
        self,
        step: int,
        epoch_steps: int,
        test: dict[str, float],
        seconds: float,
        batch_size: int,
        compared: dict[str, float] | None = None,
    ) -> dict:
        """Append the record of the epoch that ends at `step`, and return it. compared: `diagnostics.statistics_record`."""
        steps = [r for r in self._records if 'loss' in r and r['step'] > step - epoch_steps]
        record = {'step': step, 'epoch': step // epoch_steps}
        names = [name for name in test if name != 'count']
        # A step that smooths or mixes the labels of a loss of one's own knows no accuracy.
        known = [name for name in names if all(name in r for r in steps)]
        record |= {f'train_{name}': sum(r[name] for r in steps) / len(steps) for name in known}
        record |= {f'test_{name}': test[name] for name in names}
        record |= compared or {}
        if seconds_a_step := seconds_per_step(steps):
            record['images_per_second'] = batch_size / seconds_a_step
        record['seconds'] = seconds
        self.write(**record)
        # Only the records of the next epoch are needed from here on; all others are in the file.
        self._records = [record]
        return record

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._file and self._events:
            self._file.close()
            # After a record that could not be written the rest of it cannot be either.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._events.close()


def read(path: Path) -> list[dict]:
    """The records of a metrics.jsonl; a line that is none, such as a last one cut short by a kill, is left out.

    Empty if there is no file.
    """
    return [record for record in _parsed(path) if record is not None]


def _parsed(path: Path) -> list[dict | None]:
    return list(map(_record, path.read_bytes().splitlines())) if path.exists() else []


def _record(line: bytes) -> dict | None:
    """What a line says; None for a damaged one: a step, the seconds so far, and numbers or, of a warning, a sentence."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get('step')) is not int or 'seconds' not in record:
        return None
    kinds = {'warning': str, 'step': int}
    return record if all(isinstance(value, kinds.get(name, int | float)) for name, value in record.items()) else None


def seconds_per_step(records: list[dict]) -> float | None:
    """Median time between two steps of one epoch: neither compilation nor evaluation is in it. None if there are none."""
    pairs = [
        (a, b) for a, b in itertools.pairwise(records) if 'loss' in a and 'loss' in b and b['step'] == a['step'] + 1
    ]
    return statistics.median(b['seconds'] - a['seconds'] for a, b in pairs) if pairs else None
