"""Write a file whole or not at all."""

import os
import uuid
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Write a file beside its destination, then rename it: after any error the old file is still there, unchanged.

    Args:
        path: the destination. Its folder must exist.
        content: the bytes, or text that is written as UTF-8.

    Raises:
        OSError: the file cannot be written; the message says what to do.

    Example:
        >>> import pathlib, tempfile
        >>> from bnn_jax.files import write
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(pathlib.Path(folder) / 'report.txt', 'written')
        ...     [file.name for file in pathlib.Path(folder).iterdir()]
        ['report.txt']
    """
    content = content.encode() if isinstance(content, str) else content
    # In the same folder, renaming is one step of the file system. The name is random, because two processes may write at once.
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        with temporary.open('xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # Otherwise a power cut after the rename could leave an empty file.
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f'could not write {len(content):,} bytes ({error.strerror}); the old file is unchanged; '
            'free space or choose another place',
            str(path),
        ) from error
    except BaseException:  # An interruption, too, leaves no temporary file.
        temporary.unlink(missing_ok=True)
        raise
