"""glibc's heaps: one for all threads of a process, which keeps the memory that is freed.

XLA on CPU allocates its temporary memory in every step and frees it at the end. Without these settings glibc gives it back to
the system each time, and the system provides every page again.
"""

import ctypes
import sys

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1
"""Parameters of glibc's mallopt: the most heaps, the most mapped blocks, and the most free bytes kept."""


def one_heap() -> bool:
    """Make all threads that start from now on allocate from one heap.

    Call it before the process starts a thread, so also before JAX is asked for a device. A thread that has allocated before
    has a heap of its own, and glibc shares that heap with later threads, such as XLA's. Such a heap consists of
    pieces of at most 64 MiB, and glibc gives back a piece as soon as all of it is free, in spite of `keep_freed_memory`.

    Returns:
        Whether the C library of this process can do it; glibc can.
    """
    return _set((M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees. For blocks above 64 MiB `one_heap` is needed as well.

    Without it, glibc maps blocks above 32 MiB and unmaps them when they are freed. With it, the process keeps its peak memory
    until it ends.

    Returns:
        Whether the C library of this process can do it; glibc can.
    """
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def _set(*parameters: tuple[int, int]) -> bool:
    if sys.platform != 'linux':
        return False
    # From the C library of this process; musl and others have no mallopt.
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters)
