"""Strict JAX for every test: no implicit promotion of dtypes or ranks, warnings are errors, compilations are cached."""

import os
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax  # noqa: E402
import pytest  # noqa: E402

CACHE = Path(os.environ.get('JAX_COMPILATION_CACHE_DIR', Path(__file__).parent.parent / '.jax_cache'))

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


# XLA leaves out what only makes code fast: compiling is most of the suite's work.
jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='module')
def compiled_as_shipped():
    """With all of XLA's optimizations: for the kernels, and for proofs that no optimization changes a bit."""
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='module', autouse=True)
def _forget_compilations():
    """Compiled functions hold mappings of memory, of which a process may have 65,530: with all of them it would crash."""
    yield
    jax.clear_caches()
