"""Memory: what a process frees it gets again, without new pages of the system."""

import subprocess
import sys
from pathlib import Path

COUNT = """
import resource
import numpy as np
from bnn_jax.training.memory import keep_freed_memory

def pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        np.ones(2**24, np.float32).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = pages(4)
kept = keep_freed_memory()
pages(1)
print(kept, fresh, pages(4))
"""
"""Four times 64 MiB, which are 4 x 16,384 pages of 4 KiB, or 4 x 32 of 2 MiB."""


def test_large_blocks_are_kept():
    done = subprocess.run(
        [sys.executable, '-c', COUNT], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    kept, fresh, again = done.stdout.split()
    assert kept == str(sys.platform == 'linux')
    assert kept == 'False' or int(again) < int(fresh) / 4
