"""Options of the command line: scalar fields of a dataclass, each with its text for --help."""

import dataclasses
import math
import typing
from typing import Any


def option(default, text: str) -> Any:
    """A field of a dataclass that the command line can set.

    Args:
        default: the value of the field if the option is not given.
        text: for --help.

    Example:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     epochs: int = option(10, 'times that the run sees each training image')
        >>> Options().epochs
        10
    """
    return dataclasses.field(default=default, metadata={'help': text})


LARGEST = 2**31 - 1
"""The largest integer of an option, because JAX counts steps in 32 bits. A seed may have 63 bits."""


def check_types(options: Any) -> None:
    """Raises ValueError for an option whose value has another type than its field, is too large or is not finite.

    Values may come from a file. A field of floats also takes an integer.

    Args:
        options: a dataclass with fields made by `option`.
    """
    for field in dataclasses.fields(options):
        if 'help' in field.metadata:
            _check_type(field.name, getattr(options, field.name), field.type)


def _check_type(name: str, value: Any, kind: Any) -> None:
    kinds = typing.get_args(kind) or (kind,)
    if float in kinds:
        kinds = (*kinds, int)
    if type(value) not in kinds:
        words = ' or '.join(getattr(each, '__name__', str(each)) for each in typing.get_args(kind) or (kind,))
        raise ValueError(f'{name}: got {value!r} ({type(value).__name__}), expected {words}')
    largest = 2**63 - 1 if name == 'seed' else LARGEST
    if type(value) is int and abs(value) > largest:
        raise ValueError(f'{name}: got {value:,}, expected a number from -{largest:,} to {largest:,}')
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f'{name}: got {value}, expected a finite number')
