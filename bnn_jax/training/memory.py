"""Makes a process that trains on CPU keep the memory that it frees, because the next step needs this memory again.

This changes the whole process, so the command line does it (`allocate_for_training`) and `fit` does not. Your own program that
trains on CPU may call it first.
"""

import ctypes
import os
import sys
from pathlib import Path

import jax

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1
"""Parameters of glibc's mallopt: the most heaps, the most mapped blocks, and the most free bytes kept."""


def one_heap() -> bool:
    """Make all threads that start from now on allocate from one heap.

    Call it before JAX is asked for a device. XLA's threads start then, and each would get a heap of its own, whose blocks have
    at most 64 MiB. Larger blocks would be mapped, and given back when freed, in spite of `keep_freed_memory`.

    Returns:
        Whether the C library of this process can do it; glibc can.
    """
    return _set((M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees. For blocks above 64 MiB `one_heap` is needed as well.

    XLA on CPU allocates its temporary memory in each step. Blocks above 32 MiB would be mapped and given back each time, and
    the system would have to provide all their pages again. In exchange the process keeps its peak memory until it ends.

    Returns:
        Whether the C library of this process can do it; glibc can.
    """
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def allocate_for_training() -> None:
    """Make this process allocate from one heap, and where JAX computes on CPU keep the memory that it frees.

    Call it before JAX is asked for a device; on several hosts, after JAX's distributed initialization.
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


def _set(*parameters: tuple[int, int]) -> bool:
    if sys.platform != 'linux':
        return False
    # From the C library of this process; musl and others have no mallopt.
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters)
