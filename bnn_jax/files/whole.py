"""Files written whole or not at all."""

import os
import uuid
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it at the end: after any error what was there before is untouched.

    Raises OSError, with the remedy.
    """
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        with temporary.open('xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f'could not write {len(content):,} bytes ({error.strerror}); nothing that was there is changed; '
            'free space or choose another place',
            str(path),
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
