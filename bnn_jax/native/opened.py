"""The compiled library, verified before it is mapped. Imports no JAX: the runtime opens it here, and so does `library`."""

import ctypes
from pathlib import Path

from bnn_jax.native import build


def opened(path: Path, sources: str) -> ctypes.CDLL:
    """A compiled library.

    Args:
        path: the library.
        sources: the digest of the sources that it must have been compiled from.

    Raises:
        RuntimeError: why it cannot run.
    """
    if not path.exists():
        raise RuntimeError('they are not built; `python -m bnn_jax.runtime` builds them, or says why not')
    try:
        # Before it is mapped: of one cut short, pages that are not there would end the process with a signal.
        stated, found = build.record(path).read_text().strip(), build.sha256(path)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f'{path.name} cannot be compared with its record ({error}); run `python -m bnn_jax.runtime`'
        ) from error
    if stated != found:
        raise RuntimeError(f'{path.name} is not as it was built: cut short or altered; run `python -m bnn_jax.runtime`')
    try:
        library = ctypes.CDLL(str(path))
        library.bnn_sources.restype = ctypes.c_char_p
        compiled = library.bnn_sources().decode()
    except (OSError, AttributeError) as error:
        raise RuntimeError(f'{path.name} cannot be loaded: {error}') from error
    if compiled != sources:
        raise RuntimeError('they were built from other sources than those here; run `python -m bnn_jax.runtime`')
    return library
