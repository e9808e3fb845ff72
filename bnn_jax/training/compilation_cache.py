"""Keep compiled programs on disk, so that a run that is started again need not compile them again.

The command line and `fit` do so while they run, and restore JAX's configuration afterward. If you have configured a
cache (JAX_COMPILATION_CACHE_DIR, or jax_compilation_cache_dir), yours is used.
JAX_ENABLE_COMPILATION_CACHE=false switches off either cache.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

LARGEST = 4 * 10**9
"""The size in bytes above which the oldest programs are deleted, until at most half of this size is left."""


@contextlib.contextmanager
def compilation_cache() -> Iterator[None]:
    """Inside this context, keep on disk the programs that take a second or more to compile.

    The folder is ~/.cache/bnn_jax/compiled, or $XDG_CACHE_HOME/bnn_jax/compiled.
    JAX identifies a program by its code, the versions of the libraries and the device, so it never confuses two programs. The
    setting holds for the whole process: other threads that compile meanwhile use the cache too.

    Example:
        >>> from bnn_jax.training.compilation_cache import compilation_cache
        >>> with compilation_cache():
        ...     logits = jax.jit(lambda x: x + 1)(1.0)
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        yield
        return
    folder = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'bnn_jax' / 'compiled'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prune(folder, LARGEST)
    except OSError as error:
        print(f'compiled programs are not kept: {error}', file=sys.stderr)
        yield
        return
    _use(str(folder))
    try:
        yield
    finally:
        _use(None)


def prune(folder: Path, largest: int) -> None:
    """If a folder has more than `largest` bytes, delete its oldest files until at most half of `largest` is left.

    Args:
        folder: the folder; all its files may be deleted.
        largest: a size in bytes.
    """
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.iterdir() if path.is_file()]
    total = sum(size for _, size, _ in files)
    if total <= largest:
        return
    for _, size, path in sorted(files):
        path.unlink(missing_ok=True)
        total -= size
        if total <= largest / 2:
            return


def _use(folder: str | None) -> None:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax_cache.reset_cache()  # JAX reads the folder's name once, when it first compiles.
