"""The records of a run: each is a line of JSON and a TensorBoard event."""

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
from jaxtyping import Float

from bnn_jax.files import write
from bnn_jax.training.events import Events


class MetricsLog:
    """Writes metrics.jsonl, one JSON object per line, and the same numbers for TensorBoard in tensorboard/ beside it.

    All records have `step` and `seconds`, the time of the run so far. There are three kinds. A step has the metrics of
    `train_step` and `learning_rate`, and a watched step also those of `diagnostics.watch`. An epoch has `epoch`, means
    over its steps, test results, `images_per_second` from its median step, and in a watched run the results with
    running and with batch statistics. A warning has `warning`, a sentence, which TensorBoard does not get.

    A resumed run drops damaged lines and the records of the steps that it makes again. If a line before the last is
    damaged, the whole old file is kept as metrics.damaged.jsonl.

    Args:
        path: the path of metrics.jsonl; None: nothing is written, as on all hosts but the first.
        resumed_at: the step from which the run goes on.
    """

    def __init__(self, path: Path | None, resumed_at: int):
        self.path = path
        parsed = _parsed(path) if path else []
        self._records = [record for record in parsed if record and record['step'] <= resumed_at]
        # The time of the run so far, from which its clock goes on.
        self.seconds = self._records[-1]['seconds'] if self._records else 0.0
        self._file, self._events = None, None
        if path:
            if None in parsed[:-1]:  # The last line alone does not count: a kill may have cut it short.
                write(path.with_suffix('.damaged.jsonl'), path.read_bytes())
            # This drops the records of steps that the resumed run makes again.
            write(path, ''.join(f'{json.dumps(record)}\n' for record in self._records))
            self._file = path.open('ab', buffering=0)
            self._events = Events(path.parent / 'tensorboard', resumed_at)

    def write(self, **record) -> None:
        """Append a record and write it at once. If that fails, raises OSError, whose message says what to do."""
        self._records.append(record)
        if self._file and self._events:
            with self._writing():
                line = f'{json.dumps(record)}\n'.encode()
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._events.write(record)

    def settings(self, described: dict[str, Any]) -> None:
        """Write the settings of the run, as `Config.described` returns them, for TensorBoard alone."""
        if self._events:
            with self._writing():
                self._events.settings(described)

    def weights(self, step: int, latent: dict[str, Float[np.ndarray, '*kernel']]) -> None:
        """Write a histogram of the latent weights of each layer, for TensorBoard alone."""
        if self._events:
            with self._writing():
                self._events.weights(step, latent)

    def images(self, step: int, images: Any) -> None:
        """Write the first images of a batch, for TensorBoard alone."""
        if self._events:
            with self._writing():
                self._events.images(step, images)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Add advice to the message of an OSError."""
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f'could not write a record ({error.strerror}); free space or give permission to write, then start the same '
                'command again',
                str(error.filename or self.path),
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
        """Append and return the record of an epoch.

        Args:
            step: the last step of the epoch.
            epoch_steps: the number of steps of an epoch.
            test: the result of `evaluate`.
            seconds: the seconds of training so far.
            batch_size: the batch size of a step.
            compared: from `diagnostics.statistics_record`.
        """
        steps = [r for r in self._records if 'loss' in r and r['step'] > step - epoch_steps]
        record = {'step': step, 'epoch': step // epoch_steps}
        names = [name for name in test if name != 'count']
        # With a user's own loss, a step with smoothed or mixed labels has no accuracy.
        known = [name for name in names if all(name in r for r in steps)]
        record |= {f'train_{name}': sum(r[name] for r in steps) / len(steps) for name in known}
        record |= {f'test_{name}': test[name] for name in names}
        record |= compared or {}
        if seconds_a_step := seconds_per_step(steps):
            record['images_per_second'] = batch_size / seconds_a_step
        record['seconds'] = seconds
        self.write(**record)
        # From here on only records of the next epoch are needed; all records are in the file.
        self._records = [record]
        return record

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._file and self._events:
            self._file.close()
            # Where a record could not be written, closing fails too, and its error would hide the first one.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._events.close()


def read(path: Path) -> list[dict]:
    """The records in a metrics.jsonl, without damaged lines, such as a last one that a kill cut short.

    Args:
        path: the path of the file. If it does not exist, there are no records.
    """
    return [record for record in _parsed(path) if record is not None]


def _parsed(path: Path) -> list[dict | None]:
    return list(map(_record, path.read_bytes().splitlines())) if path.exists() else []


def _record(line: bytes) -> dict | None:
    """The record in a line; None for a damaged line. A record has a step, seconds, and numbers or a warning's sentence."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get('step')) is not int or 'seconds' not in record:
        return None
    kinds = {'warning': str, 'step': int}
    return record if all(isinstance(value, kinds.get(name, int | float)) for name, value in record.items()) else None


def seconds_per_step(records: list[dict]) -> float | None:
    """The median time between two neighboring steps, which leaves out compilation and evaluation.

    Args:
        records: the records of a run, in order.

    Returns:
        Seconds; None if no two neighboring steps are among the records.

    Example:
        >>> seconds_per_step([{'step': i, 'loss': 1.0, 'seconds': 0.5 * i} for i in (1, 2, 3)])
        0.5
    """
    pairs = [
        (a, b) for a, b in itertools.pairwise(records) if 'loss' in a and 'loss' in b and b['step'] == a['step'] + 1
    ]
    return statistics.median(b['seconds'] - a['seconds'] for a, b in pairs) if pairs else None
