"""What a field of a file may hold: rules that stand in the field's type, `Annotated[int, Integer(1, 8)]`.

A rule is called with what a file gives, returns it, and raises ValueError unless it fits; as text it is a cell of the table in
docs/format.md.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

LARGEST_FLOAT = float.fromhex('0x1.fffffep+127')
"""The largest float32."""


def shown(value: Any) -> str:
    """A value as an error shows it: what a file gives may be long."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f'an integer of {value.bit_length()} bits'
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:80]}...'


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Names the place in a ValueError that is raised within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{place}: {error}') from error


@dataclasses.dataclass(frozen=True)
class Integer:
    """An integer from least to most, both included."""

    least: int = -(2**31)
    most: int = 2**31 - 1

    def __call__(self, value: Any) -> Any:
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return value

    def __str__(self) -> str:
        return f'an integer, {self.least} to {self.most}'


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Two integers, or two such pairs, each from least to most."""

    depth: int
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
    """A finite number within float32, with or without a fraction."""

    def __call__(self, value: Any) -> Any:
        if type(value) not in (int, float) or not abs(value) <= LARGEST_FLOAT:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return float(value)

    def __str__(self) -> str:
        return 'a number, finite in float32'


@dataclasses.dataclass(frozen=True)
class Flag:
    """true or false."""

    def __call__(self, value: Any) -> Any:
        if type(value) is not bool:
            raise ValueError(f'got {shown(value)}, expected {self}')
        return value

    def __str__(self) -> str:
        return 'true or false'


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of these values, or else what `other` takes."""

    values: tuple
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


# Channels, filters, classes, features: float32 counts as far without a gap.
Size = Annotated[int, Integer(1, 2**24)]


def rule_of(hint: Any) -> Any:
    """The rule of an annotated type, or that of a plain bool, int or float; None where a type states none."""
    for rule in getattr(hint, '__metadata__', ()):
        if callable(rule):
            return rule
    return {bool: Flag(), int: Integer(), float: Number()}.get(hint)
