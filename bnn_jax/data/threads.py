"""Apply a function to many items in threads, for work that releases Python's global lock (GIL), as decoding does."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar('A')
B = TypeVar('B')

WINDOW = 256
"""How many items are in progress at a time. This bounds the memory for results that wait for the caller."""


def in_threads(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield function(item) for each item, in order.

    Args:
        function: called in threads.
        items: its arguments.

    Example:
        >>> list(in_threads(abs, [-1, 2]))
        [1, 2]
    """
    items = iter(items)
    with ThreadPoolExecutor() as pool:
        while window := list(itertools.islice(items, WINDOW)):
            yield from pool.map(function, window)
