"""The folder of a run: created, tested for writing, and held by one process at a time."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from bnn_jax.training.config import Config
from bnn_jax.training.devices import is_first_host

LOCK = '.lock'
"""The file in a workdir that the process of the run locks. The system unlocks it when the process ends, for any reason."""

_held: dict[Path, int] = {}
"""Workdir -> the thread of this process that holds it."""


@contextlib.contextmanager
def held(config: Config) -> Iterator[Path]:
    """Hold the workdir of a run for this process alone, inside this context. Of several hosts the first one holds it.

    The thread that holds it may enter the context again.

    Args:
        config: the config of the run.

    Yields:
        The folder, which is created if there is none.

    Raises:
        ValueError: another process or thread runs in it, or the config names no workdir.
        OSError: it cannot be written.
    """
    workdir = _made(config)
    folder = workdir.resolve()
    if not is_first_host() or _held.get(folder) == threading.get_ident():
        yield workdir
        return
    if folder in _held:
        raise ValueError(f'{workdir}: another thread of this process runs in this workdir; choose another one')
    with (workdir / LOCK).open('a+') as file:
        _lock(file, workdir)
        _held[folder] = threading.get_ident()
        try:
            yield workdir
        finally:
            del _held[folder]


def _lock(file, workdir: Path) -> None:
    """Lock the file. Raises ValueError if another process has locked it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read(200).strip() or 'another process'
        raise ValueError(
            f'{workdir}: another process ({who}) runs in this workdir; wait until it ends, or choose another --workdir'
        ) from None
    except (ImportError, OSError) as error:  # Windows, and some file systems of clusters.
        print(f'{workdir} cannot be locked ({error}): start no second run in it', file=sys.stderr)
        return
    file.truncate(0)
    file.write(f'pid {os.getpid()} on {socket.gethostname()}\n')
    with contextlib.suppress(OSError):  # On a full disk, another write raises an error that says what to do.
        file.flush()


def _made(config: Config) -> Path:
    """The workdir, created if there is none and tested for writing."""
    if not config.workdir:
        raise ValueError("workdir: got '', expected a folder for everything the run writes")
    try:
        workdir = Path(config.workdir).expanduser()
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / '.writable'
        probe.write_text('')
        probe.unlink(missing_ok=True)  # Another host may have removed it.
    except (OSError, RuntimeError) as error:
        why = getattr(error, 'strerror', None) or error
        number = getattr(error, 'errno', None) or 0
        raise OSError(number, f'workdir cannot be written ({why}); choose another --workdir', config.workdir) from error
    return workdir
