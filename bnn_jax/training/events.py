"""TensorBoard: the records of a run as event files."""

import socket
import time
from pathlib import Path


class Events:
    """An event file in `directory`, begun at the first record and whole after each one.

    Records beyond resumed_at in the files of earlier starts are marked as superseded: TensorBoard drops them.
    """

    def __init__(self, directory: Path, resumed_at: int):
        self.directory, self._purge_step = directory, resumed_at + 1
        self._file = None

    def write(self, record: dict[str, float | str]) -> None:
        """One scalar for every number of a record but its `step`, which is where they stand. Raises OSError."""
        file = self._file or self._begin()
        numbers = {name: value for name, value in record.items() if name != 'step' and not isinstance(value, str)}
        scalars = [{'tag': name, 'simple_value': value} for name, value in numbers.items()]
        file.write(_event(step=record['step'], summary={'value': scalars}))
        file.flush()

    def _begin(self):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self.directory.mkdir(exist_ok=True)
        # Files are read in the order of their names: fixed digits of time first.
        name = f'events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}'
        self._file = RecordWriter(str(self.directory / name))
        self._file.write(_event(file_version='brain.Event:2'))
        self._file.write(_event(step=self._purge_step, session_log={'status': SessionLog.START}))
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _event(**fields) -> bytes:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    return Event(wall_time=time.time(), **fields).SerializeToString()
