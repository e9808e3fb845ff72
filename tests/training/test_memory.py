"""Memory: what a process frees it gets again, without new pages of the system."""

import ctypes
import subprocess
import sys
from pathlib import Path

GLIBC = hasattr(ctypes.CDLL(None), 'mallopt')
"""Other C libraries have no such settings; `heap` then returns False."""


def output(program, *arguments):
    command = [sys.executable, '-c', program, *arguments]
    return subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    ).stdout.split()


COUNT = """
import resource
import numpy as np
from bnn_jax.command.heap import keep_freed_memory

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
    kept, fresh, again = output(COUNT)
    assert kept == str(GLIBC)
    assert kept == 'False' or int(again) < int(fresh) / 4


COMPUTE = """
import resource
import jax
from bnn_jax.command.heap import keep_freed_memory, one_heap

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

pages(32)  # The heap grows in some of the first rounds.
print(one, pages(16))
"""
"""Sixteen results of 128 MiB, made by the threads of XLA."""


def test_from_one_heap_the_results_of_xla_are_kept_too():
    one, few = output(COMPUTE, 'one')
    assert one == str(GLIBC)
    assert one == 'False' or int(few) < int(output(COMPUTE)[1]) / 2


HEAPS = """
import ctypes
import sys
import tempfile
from bnn_jax import command
from bnn_jax.training.memory import allocate_for_training

command.begin()  # starts a thread
allocate_for_training()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b'w'))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(file.read().count(b'<heap nr='))
"""
"""The number of heaps of a command that trains, after XLA's threads have started."""


def test_a_command_that_trains_has_one_heap():
    if GLIBC:
        assert output(HEAPS) == ['1']
