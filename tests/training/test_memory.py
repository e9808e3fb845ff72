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
        [sys.executable, '-c', COUNT], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    kept, fresh, again = done.stdout.split()
    assert kept == str(sys.platform == 'linux')
    assert kept == 'False' or int(again) < int(fresh) / 4


COMPUTE = """
import resource
import jax
from bnn_jax.training.memory import keep_freed_memory, one_heap

jax.config.update('jax_platforms', 'cpu')
one = 'one' in __import__('sys').argv and one_heap()
kept = keep_freed_memory()
x = jax.numpy.ones(2**25)
grow = jax.jit(lambda x: x + 1)

def pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        grow(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages(8)
print(one, pages(16))
"""
"""Sixteen results of 128 MiB, made by the threads of XLA."""


def test_from_one_heap_the_results_of_xla_are_kept_too():
    def pages(*arguments):
        command = [sys.executable, '-c', COMPUTE, *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        return done.stdout.split()

    one, few = pages('one')
    assert one == str(sys.platform == 'linux')
    assert one == 'False' or int(few) < int(pages()[1]) / 2
