"""The memory of a process that trains: how it is allocated on CPU, and whether data fits into it.

The allocator is changed for the whole process, so the command line does it (`allocate_for_training`) and `fit` does not. Your
own program that trains on CPU may call it first.
"""

import os
from pathlib import Path

import jax

from bnn_jax.command.heap import keep_freed_memory, one_heap


def allocate_for_training() -> None:
    """Make this process allocate from one heap. If JAX computes on CPU, the process also keeps the memory that it frees.

    Call it before the process starts a thread and before JAX is asked for a device. On several hosts call
    `command.heap.one_heap` then, and this function after JAX's distributed initialization. (A command of this library
    allocates from one heap from its start: `command.begin`.)
    """
    one_heap()
    if jax.devices()[0].platform == 'cpu':
        keep_freed_memory()


def check_fits(what: str, needed: int) -> None:
    """Raises ValueError if `needed` exceeds this machine's memory. Without the check the system would kill the process.

    Args:
        what: what needs the memory; the message begins with it.
        needed: the memory in bytes.
    """
    there = _bytes_of_memory()
    if there is not None and needed > there:
        raise ValueError(
            f'{what} takes {needed / 1e9:,.1f} GB or more, expected at most the {there / 1e9:,.1f} GB of this machine'
        )


def _bytes_of_memory() -> int | None:
    """The bytes of memory of this machine, or those that this container may use; None if they are unknown."""
    try:
        there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(there, int(Path('/sys/fs/cgroup/memory.max').read_text()))
    except (OSError, ValueError):  # There is no container, or it has no limit.
        return there
