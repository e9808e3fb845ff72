"""Strict JAX for every test: no implicit promotion of dtypes or ranks, warnings are errors, compilations are cached.

Settings are environment variables, so that the processes that tests start have them too.
"""

import gc
import os
from pathlib import Path

COMPILE_QUICKLY = 'JAX_DISABLE_MOST_OPTIMIZATIONS'

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parents[1] / '.jax_cache'))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
# XLA leaves out what only makes code fast: compiling is most of the suite's work.
os.environ[COMPILE_QUICKLY] = 'true'

import jax  # noqa: E402
import pytest  # noqa: E402

# Tracing makes many objects and few cycles: looking for them every 700 objects takes a seventh of the suite's time.
gc.set_threshold(200_000, 20, 100)

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
    """XLA reads its flags once a process: they are set where none of the tests marked as_shipped will run."""
    if config.getoption('-m') == 'not as_shipped' and jax.__version_info__ < (0, 11):  # Later releases dropped it.
        # The older emitters of fused loops compile twice as quickly, and small programs more quickly in one piece.
        flags = ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
        os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + flags


@pytest.fixture(scope='module', autouse=True)
def _compiled_as_shipped(request):
    """Modules with selected tests marked as_shipped run with all of XLA's optimizations: for proofs to the bit."""
    tests = (item for item in request.session.items if item.path == request.node.path)
    if not any(item.get_closest_marker('as_shipped') for item in tests):
        yield
        return
    os.environ[COMPILE_QUICKLY] = 'false'
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    os.environ[COMPILE_QUICKLY] = 'true'
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='module', autouse=True)
def _forget_compilations():
    """Compiled functions hold mappings of memory, of which a process may have 65,530: with all of them it would crash."""
    yield
    jax.clear_caches()
