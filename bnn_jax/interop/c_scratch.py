"""Places the maps of a network in the scratch memory of its C library."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """A map, or its signs, in the scratch memory."""

    shape: tuple[int, ...]
    # The first cell.
    start: int
    # Whether the cells hold words of signs.
    signs: bool = False
    # False if another layer still reads the map: it must not be freed or overwritten.
    owned: bool = True

    @property
    def place(self) -> str:
        """The first cell as a C expression."""
        return f'(scratch + {self.start})' if self.start else 'scratch'

    @property
    def pixels(self) -> int:
        """Height times width."""
        return int(np.prod(self.shape[:-1]))

    @property
    def channels(self) -> int:
        """The last extent of the shape."""
        return self.shape[-1]

    @property
    def numbers(self) -> int:
        """How many numbers the map has."""
        return int(np.prod(self.shape))

    @property
    def cells(self) -> int:
        """How many cells of 4 bytes the map takes."""
        return self.pixels * -(-self.channels // 32) if self.signs else self.numbers

    def borrowed(self) -> 'Value':
        """The same map, for a layer that reads it but must not free it."""
        return dataclasses.replace(self, owned=False)


class Scratch:
    """Scratch memory, in which each map takes the first gap that is large enough."""

    def __init__(self):
        # How many cells the scratch memory needs: the largest end of a map so far.
        self.peak = 0
        # (start, end) of all maps in use, in order.
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
        """Temporary room for a kernel."""
        return self.new((1, cells))

    def free(self, *values: Value) -> None:
        """Free the maps that are owned."""
        for value in values:
            if value.owned:
                self._held.remove((value.start, value.start + value.cells))
