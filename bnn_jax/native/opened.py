"""Open the compiled library, after checking it. This imports no JAX: the runtime uses it, and so does `library`."""

import ctypes
from pathlib import Path

from bnn_jax.native import build


def opened(path: Path, sources: str) -> ctypes.CDLL:
    """Open a compiled library.

    Args:
        path: the library.
        sources: the digest of the sources that it must have been compiled from.

    Returns:
        The library, through which its functions can be called.

    Raises:
        RuntimeError: the library cannot run here; the message has the reason.

    Example:
        >>> from pathlib import Path
        >>> opened(Path('nowhere.so'), '')
        Traceback (most recent call last):
        RuntimeError: they are not built; `python -m bnn_jax.runtime` builds them, or says why not
    """
    if not path.exists():
        raise RuntimeError('they are not built; `python -m bnn_jax.runtime` builds them, or says why not')
    try:
        # Checked first: where a file is cut short, reading a missing page would end the process with a signal.
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
