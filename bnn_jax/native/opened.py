"""Open the compiled library, after checking it. This module imports no JAX, because the runtime uses it too."""

import ctypes
import os

from bnn_jax.native import build


def opened(path: str | os.PathLike, sources: str) -> ctypes.CDLL:
    """Open a compiled library.

    Args:
        path: the library.
        sources: the digest of the sources that it must have been compiled from.

    Returns:
        The loaded library.

    Raises:
        RuntimeError: the library cannot run here. The message is the end of a sentence about the C++ kernels: "they are not
            built".

    Example:
        >>> opened('nowhere.so', '')
        Traceback (most recent call last):
        RuntimeError: they are not built; `python -m bnn_jax.runtime` builds them, or says why not
    """
    name = os.path.basename(path)
    if not os.path.exists(path):
        raise RuntimeError('they are not built; `python -m bnn_jax.runtime` builds them, or says why not')
    try:
        # Checked first: if the file is cut short, reading a missing page would end the process with a signal.
        with open(build.record(path)) as record:
            stated = record.read().strip()
        found = build.sha256(path)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f'{name} cannot be compared with its record ({error}); run `python -m bnn_jax.runtime`'
        ) from error
    if stated != found:
        raise RuntimeError(f'{name} is not as it was built: cut short or altered; run `python -m bnn_jax.runtime`')
    try:
        library = ctypes.CDLL(os.fspath(path))
        library.bnn_sources.restype = ctypes.c_char_p
        compiled = library.bnn_sources().decode()
    except (OSError, AttributeError) as error:
        raise RuntimeError(f'{name} cannot be loaded: {error}; run `python -m bnn_jax.runtime`') from error
    if compiled != sources:
        raise RuntimeError('they were built from other sources than those here; run `python -m bnn_jax.runtime`')
    return library
