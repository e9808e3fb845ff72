"""Rules for the values of a file's fields. A rule annotates the field's type: `Annotated[int, Integer(1, 8)]`.

A rule is a function of the value in the file. It returns the value of the field (`Pairs` makes tuples, `Number` makes floats),
or raises ValueError if the value in the file breaks the rule. `str` of a rule is a cell of the table in docs/format.md.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

LARGEST_FLOAT = float.fromhex('0x1.fffffep+127')
"""The largest float32."""


def shown(value: Any) -> str:
    """Shorten a value for an error message, because a file may hold long values.

    Args:
        value: any value from a file.

    Returns:
        Its `repr`, cut after 80 characters; for a large integer its number of bits.

    Example:
        >>> shown(10**40)
        'an integer of 133 bits'
    """
    if isinstance(value, int) and abs(value) >= 10**30:
        return f'an integer of {value.bit_length()} bits'
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:80]}...'


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Put a place in front of the message of any ValueError raised inside.

    Args:
        place: where in a file, such as 'network.layers[0]'.

    Example:
        >>> with at('network.size'):
        ...     Integer(1, 8)(9)
        Traceback (most recent call last):
        ValueError: network.size: got 9, expected an integer, 1 to 8
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{place}: {error}') from error


@dataclasses.dataclass(frozen=True)
class Integer:
    """The rule of an integer within bounds.

    Example:
        >>> Integer(1, 8)(3), str(Integer(1, 8))
        (3, 'an integer, 1 to 8')
    """

    # Both bounds are allowed values.
    least: int = -(2**31)
    most: int = 2**31 - 1

    def __call__(self, value: Any) -> Any:
        # Python counts True as an int; a file must not.
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return value

    def __str__(self) -> str:
        return f'an integer, {self.least} to {self.most}'


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The rule of two integers within bounds, or of two such pairs.

    Example:
        >>> Pairs(2, 0, 9)([[1, 2], [3, 4]])
        ((1, 2), (3, 4))
    """

    # 1: two integers; 2: two pairs of integers.
    depth: int
    # The bounds of each integer; both are allowed values.
    least: int
    most: int

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError(f'got {shown(value)}, expected {self}')
        inner = Integer(self.least, self.most) if self.depth == 1 else Pairs(self.depth - 1, self.least, self.most)
        return tuple(map(inner, value))

    def __str__(self) -> str:
        return f'{" x ".join("2" * self.depth)} integers, {self.least} to {self.most}'


@dataclasses.dataclass(frozen=True)
class Number:
    """The rule of a number, integer or not, that is finite in float32.

    Example:
        >>> Number()(3)
        3.0
    """

    def __call__(self, value: Any) -> Any:
        if type(value) not in (int, float) or not abs(value) <= LARGEST_FLOAT:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return float(value)

    def __str__(self) -> str:
        return 'a number, finite in float32'


@dataclasses.dataclass(frozen=True)
class Flag:
    """The rule of a boolean.

    Example:
        >>> Flag()(True), str(Flag())
        (True, 'true or false')
    """

    def __call__(self, value: Any) -> Any:
        if type(value) is not bool:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return value

    def __str__(self) -> str:
        return 'true or false'


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The rule of a value that is one of several, or that another rule allows.

    Example:
        >>> str(OneOf((None, 0), Integer(1, 8)))
        'null, 0, or an integer, 1 to 8'
    """

    values: tuple
    # A rule for all other values; None: there are no others.
    other: Any = None

    def __call__(self, value: Any) -> Any:
        if any(type(value) is type(one) and value == one for one in self.values):
            return value
        if self.other is None:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return self.other(value)

    def __str__(self) -> str:
        words = ', '.join('null' if value is None else str(value) for value in self.values)
        return words if self.other is None else f'{words}, or {self.other}'


# A number of channels, filters, classes or features. The limit is 2^24, because float32 holds each integer up to it.
Size = Annotated[int, Integer(1, 2**24)]


def rule_of(hint: Any) -> Any:
    """The rule of a field's type.

    Args:
        hint: the type, as `typing.get_type_hints(..., include_extras=True)` returns it.

    Returns:
        The rule in the annotation, or the default rule of a plain bool, int or float; None for any other type.

    Example:
        >>> str(rule_of(Annotated[int, Integer(1, 8)])), rule_of(str)
        ('an integer, 1 to 8', None)
    """
    for rule in getattr(hint, '__metadata__', ()):
        if callable(rule):
            return rule
    return {bool: Flag(), int: Integer(), float: Number()}.get(hint)
