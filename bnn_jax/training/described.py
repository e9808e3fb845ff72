"""The values of a config as JSON, the same in every process."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from types import CodeType
from typing import Any

from bnn_jax.training.names import name_of, public_name


def _code(code: CodeType) -> int:
    """A checksum of a function's bytecode, which does not depend on its place in a file."""
    inner = [_code(constant) if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return zlib.crc32(repr((code.co_code, code.co_names, inner)).encode())


def described(value: Any) -> Any:
    """A value as JSON.

    Args:
        value: the value of a field of a config.

    Returns:
        Python's numbers, text and None stay as they are. Functions and classes become their names (`names.name_of`), with the
        variables of a closure and the bytecode of a lambda. Partials, dataclasses, tuples, lists and dictionaries become
        their parts. An object with a method `described` becomes what this method returns. Any other object becomes
        the name of its class.

    Raises:
        ValueError: a class that was defined inside a lambda is part of the value (`names.name_of`).

    Example:
        >>> import functools, optax
        >>> described(functools.partial(optax.sgd, momentum=0.9))
        {'function': 'optax.sgd', 'momentum': 0.9}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [described(inner) for inner in value]
    if isinstance(value, functools.partial):
        arguments = {str(i): argument for i, argument in enumerate(value.args)} | value.keywords
        return {'function': described(value.func)} | {k: described(v) for k, v in arguments.items()}
    if isinstance(value, type) or hasattr(value, '__qualname__'):
        declared = public_name(value)
        anonymous = declared is None and '<lambda>' in value.__qualname__ and hasattr(value, '__code__')
        name = declared or (f'{value.__module__}.{value.__qualname__}' if anonymous else name_of(value))
        # A public name identifies a function. Any other function also depends on the variables in its closure.
        cells = getattr(value, '__closure__', None) if public_name(value) is None else None
        variables = [described(cell.cell_contents) for cell in cells or ()]
        if anonymous:  # All lambdas of a function have the same name; their bytecode tells them apart.
            defaults = [described(default) for default in (value.__defaults__ or ())]
            return {'function': name, 'code': _code(value.__code__), 'variables': variables + defaults}
        return {'function': name, 'variables': variables} if variables else name
    if isinstance(own := getattr(value, 'described', None), Callable):
        return described(own())
    if isinstance(value, dict):
        return {str(key): described(inner) for key, inner in value.items()}
    kind = name_of(type(value))
    if dataclasses.is_dataclass(value):
        return {'kind': kind} | {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return kind
