"""`python -m bnn_jax.kernels`: compile the C++ kernels, with the headers of the installed jaxlib, and say what runs."""

import sys
from pathlib import Path

import jax.ffi

from bnn_jax.kernels import native
from bnn_jax.native import build

try:
    build.build(Path(jax.ffi.include_dir()))
except RuntimeError as error:
    print(f'The C++ kernels were not built: {error}')
reason = native.missing()
if reason is not None:
    sys.exit(f'`native` cannot run here, so on CPU `auto` chooses `xla`: {reason}')
print(f'`native` runs: {build.LIBRARY}, instruction sets {", ".join(native.instruction_sets())}')
