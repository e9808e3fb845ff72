"""JSON read from files that anything may have happened to."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError where there is none, ValueError, which names it, for other bytes."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON ({error})') from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError, which names the file and the remedy, where it has none."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read ({error}); {remedy}') from error
    if not isinstance(found, dict):
        raise ValueError(f'{path} cannot be read (got a {type(found).__name__}, expected an object); {remedy}')
    return found
