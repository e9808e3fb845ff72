"""Options of the command line: scalar fields of a dataclass, with the words that --help says."""

import dataclasses
from typing import Any


def option(default, text: str) -> Any:
    """A scalar field that the command line can set."""
    return dataclasses.field(default=default, metadata={'help': text})
