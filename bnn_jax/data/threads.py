"""A function over many items in threads: for work that releases Python's lock, as decoding does."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar('A')
B = TypeVar('B')

WINDOW = 256
"""Items in work at a time: bounds the memory for results that nobody took yet."""


def in_threads(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """function(item) for every item, in order."""
    items = iter(items)
    with ThreadPoolExecutor() as pool:
        while window := list(itertools.islice(items, WINDOW)):
            yield from pool.map(function, window)
