"""`python -m bnn_jax.kernels`: compile the C++ kernels anew, with the headers of the installed jaxlib, and say what runs."""

import sys
from pathlib import Path

import jax.ffi

from bnn_jax.kernels import build, native

try:
    print(build.build(Path(jax.ffi.include_dir())))
except RuntimeError as error:
    sys.exit(f'The C++ kernels were not built; `xla` runs without them. {error}')
print(native.missing() or f'instruction sets: {", ".join(native.instruction_sets())}')
