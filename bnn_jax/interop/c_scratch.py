"""Where in the scratch memory of a C library every map lies."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """A map, or its signs, in the scratch memory from cell `start` on; not `owned` where another still reads it."""

    shape: tuple[int, ...]
    start: int
    signs: bool = False
    owned: bool = True

    @property
    def place(self) -> str:
        return f'(scratch + {self.start})' if self.start else 'scratch'

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape[:-1]))

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def numbers(self) -> int:
        return int(np.prod(self.shape))

    @property
    def cells(self) -> int:
        return self.pixels * -(-self.channels // 32) if self.signs else self.numbers

    def borrowed(self) -> 'Value':
        return dataclasses.replace(self, owned=False)


class Scratch:
    """Memory from which maps take the first gap that is large enough."""

    def __init__(self):
        self.peak = 0
        # (start, end) of what is in use, in order.
        self._held: list[tuple[int, int]] = []

    def new(self, shape: tuple[int, ...], signs: bool = False) -> Value:
        """Room for a map in the first gap that is large enough."""
        value, start = Value(tuple(shape), 0, signs), 0
        for begin, end in self._held:
            if begin - start >= value.cells:
                break
            start = end
        self._held = sorted([*self._held, (start, start + value.cells)])
        self.peak = max(self.peak, start + value.cells)
        return dataclasses.replace(value, start=start)

    def room(self, cells: int) -> Value:
        return self.new((1, cells))

    def free(self, *values: Value) -> None:
        for value in values:
            if value.owned:
                self._held.remove((value.start, value.start + value.cells))
