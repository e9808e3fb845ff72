"""TensorBoard event files of a run: its records, settings, latent weights and images."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Real

MOST_WEIGHTS = 2**20
"""A histogram counts every k-th weight of a layer, with k = max(1, weights // MOST_WEIGHTS), so it counts fewer than
2 MOST_WEIGHTS."""

IMAGES = 8
"""How many images are shown side by side."""


class Events:
    """An event file, created by the first write and complete after each one. Each method may raise OSError.

    Args:
        directory: where to write it.
        resumed_at: the step from which the run goes on. TensorBoard drops the records of later steps that earlier starts of
            this run wrote.
    """

    def __init__(self, directory: Path, resumed_at: int):
        self.directory, self._purge_step = directory, resumed_at + 1
        self._file = None

    def write(self, record: dict[str, float | str]) -> None:
        """Write each number of a record as a scalar at the record's `step`."""
        numbers = {name: value for name, value in record.items() if name != 'step' and not isinstance(value, str)}
        scalars = [{'tag': name, 'simple_value': value} for name, value in numbers.items()]
        self._write(step=record['step'], summary={'value': scalars})

    def settings(self, described: dict[str, Any]) -> None:
        """Write the settings of a run, as `Config.described` returns them; TensorBoard shows the test results beside them."""
        from tensorboardX.summary import hparams

        plain = (bool, int, float, str, type(None))
        values = {name: v if isinstance(v, plain) else json.dumps(v) for name, v in described.items()}
        for summary in hparams(values, {'test_accuracy': 0, 'test_loss': 0}):
            self._write(summary=summary)

    def weights(self, step: int, latent: dict[str, Real[np.ndarray, '*kernel']]) -> None:
        """Write a histogram of the latent weights of each layer."""
        from tensorboardX.summary import histogram

        for layer, array in latent.items():
            some = np.ravel(array)[:: max(1, array.size // MOST_WEIGHTS)]
            self._write(step=step, summary=histogram(f'latent/{layer}', some, 64))

    def images(self, step: int, images: Real[np.ndarray, 'N H W C']) -> None:
        """Write the first images of a batch side by side, each scaled so that its numbers range from 0 to 1.

        Images that have neither 1 nor 3 channels are shown as the mean of their channels.
        """
        from tensorboardX.summary import image

        some = np.asarray(images[:IMAGES], np.float32)
        if some.shape[-1] not in (1, 3):
            some = some.mean(-1, keepdims=True)
        lowest, highest = (end(some, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
        shown = (some - lowest) / np.maximum(highest - lowest, 1e-12)
        self._write(step=step, summary=image('images', np.concatenate([*shown], axis=1), dataformats='HWC'))

    def _write(self, **fields: Any) -> None:
        file = self._file or self._begin()
        file.write(_event(**fields))
        file.flush()

    def _begin(self):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self.directory.mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names, so the time comes first, with a fixed number of digits.
        name = f'events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}'
        self._file = RecordWriter(str(self.directory / name))
        self._file.write(_event(file_version='brain.Event:2'))
        self._file.write(_event(step=self._purge_step, session_log={'status': SessionLog.START}))
        return self._file

    def close(self) -> None:
        """Close the file, if one was begun."""
        if self._file is not None:
            self._file.close()


def _event(**fields) -> bytes:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    return Event(wall_time=time.time(), **fields).SerializeToString()
