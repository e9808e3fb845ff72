"""Read JSON files that may be missing, damaged or altered."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Read the value in a JSON file.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON; the message names the file.

    Example:
        >>> import pathlib, tempfile
        >>> from bnn_jax.files import read_json
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / 'sizes.json'
        ...     _ = path.write_text('[1, 2]')
        ...     read_json(path)
        [1, 2]
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # Deeply nested lists exhaust Python's stack.
        raise ValueError(f'{path} is not JSON ({error})') from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        path: the file.
        remedy: what to do if the file cannot be read, for the error message.

    Raises:
        ValueError: the file cannot be read or holds no object; the message names the file and the remedy.

    Example:
        >>> import pathlib, tempfile
        >>> from bnn_jax.files import read_object
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / 'config.json'
        ...     _ = path.write_text('{"epochs": 10}')
        ...     read_object(path, 'start the run again')
        {'epochs': 10}
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read ({error}); {remedy}') from error
    if not isinstance(found, dict):
        raise ValueError(f'{path} cannot be read (got a {type(found).__name__}, expected an object); {remedy}')
    return found
