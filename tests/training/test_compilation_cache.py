"""Compiled programs are kept while the command line or fit runs, and JAX's configuration is left as it was."""

import os

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from bnn_jax.training.compilation_cache import compilation_cache, prune


@pytest.fixture
def unconfigured(tmp_path, monkeypatch):
    """A process in which nobody chose a cache."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    jax.config.update('jax_compilation_cache_dir', None)
    reset_cache()
    yield tmp_path / 'bnn_jax' / 'compiled'
    jax.config.update('jax_compilation_cache_dir', before)
    reset_cache()


def kept(folder) -> int:
    return len(list(folder.glob('*-cache')))


def test_programs_are_kept_while_it_is_entered(unconfigured):
    with compilation_cache(), compilation_cache():
        jax.jit(lambda x: x * 3)(np.float32(1))
    assert kept(unconfigured) == 1 and jax.config.jax_compilation_cache_dir is None
    jax.jit(lambda x: x * 5)(np.float32(1))
    assert kept(unconfigured) == 1


def test_it_can_be_switched_off(unconfigured):
    jax.config.update('jax_enable_compilation_cache', False)
    try:
        with compilation_cache():
            jax.jit(lambda x: x * 7)(np.float32(1))
    finally:
        jax.config.update('jax_enable_compilation_cache', True)
    assert not unconfigured.exists()


def test_a_folder_that_cannot_be_made_gives_a_warning(unconfigured, capsys):
    unconfigured.parent.write_text('')
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err.startswith('compiled programs are not kept: ')


def test_the_oldest_are_deleted(tmp_path):
    for age in range(10):
        path = tmp_path / f'{age}-cache'
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    prune(tmp_path, 100)
    assert kept(tmp_path) == 10
    prune(tmp_path, 99)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{age}-cache' for age in range(4)]
