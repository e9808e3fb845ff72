"""Memory of a training process on CPU: what is freed is kept, for the next step wants it again."""

import ctypes
import sys

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
"""glibc's parameters of mallopt: how many blocks may be mapped one by one; above what size free memory is given back."""


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; whether its C library can (glibc's can).

    XLA on CPU asks for its temporary memory anew in every step. Blocks above 32 MiB would be mapped and given back each
    time, and the system would have to make every one of their pages again: a third of a LeNet-5 step (docs/performance.md).
    The process then holds the most that it ever needed, until it ends.
    """
    if sys.platform != 'linux':
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
