"""Memory of a training process on CPU: what is freed is kept, for the next step wants it again.

This changes the whole process, so the command line does it (`allocate_for_training`), and `fit` does not. A program of your own
that trains on CPU may call it first.
"""

import ctypes
import os
import sys
from pathlib import Path

import jax

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1
"""glibc's parameters of mallopt: how many heaps; how many blocks may be mapped one by one; how much free memory stays."""


def one_heap() -> bool:
    """Have all threads of this process that are yet to start allocate from one heap; whether its C library can.

    To be called before JAX is asked for a device: the threads that XLA computes in start then, and each would get a heap
    whose blocks end at 64 MiB. What is larger would be mapped, and given back when freed, whatever `keep_freed_memory` says.
    """
    return _set((M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; whether its C library can (glibc's can). For blocks above 64 MiB: `one_heap`.

    XLA on CPU asks for its temporary memory anew in every step. Blocks above 32 MiB would be mapped and given back each
    time, and the system would have to make every one of their pages again: a third of a LeNet-5 step (docs/performance.md).
    The process then holds the most that it ever needed, until it ends.
    """
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def allocate_for_training() -> None:
    """Have this process allocate as training wants it: from one heap, and where JAX computes on CPU, keeping what it frees.

    To be called before JAX is asked for a device, and after `devices.Hosts.join`.
    """
    one_heap()
    if jax.devices()[0].platform == 'cpu':
        keep_freed_memory()


def check_fits(what: str, needed: int) -> None:
    """Raises ValueError where so many bytes are more than this machine has: the system would kill the process.

    Args:
        what: needs them, for the message.
        needed: how many.
    """
    there = _bytes_of_memory()
    if there is not None and needed > there:
        raise ValueError(f'{what} takes {needed / 1e9:,.1f} GB or more, this machine has {there / 1e9:,.1f}')


def _bytes_of_memory() -> int | None:
    """What this machine has, or this container may use; None where the system does not say."""
    try:
        there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(there, int(Path('/sys/fs/cgroup/memory.max').read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return there


def _set(*parameters: tuple[int, int]) -> bool:
    if sys.platform != 'linux':
        return False
    # Of the C library that this process has loaded; musl and others have no mallopt.
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters)
