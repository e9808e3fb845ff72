"""Packed networks without JAX: a file to a function of NumPy arrays, in C++; native/cpp/bnn_runtime.h is the same in C.

Importing this imports NumPy and the standard library. `python -m bnn_jax.runtime` compiles the library anew and says whether
it runs.
"""

import ctypes
import importlib.util
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bnn_jax.native import build
from bnn_jax.native.opened import opened

ERROR = 512
"""Characters of a reason, at most: BNN_ERROR in bnn_runtime.h."""


class Network:
    """A packed network: images (N, H, W, channels) to logits (N, num_classes) float32. Made by `load`.

    Any number of threads may call one network at a time. An image's logits depend neither on the batch nor on the threads.
    They are those of `bnn_jax.load(path)(images)` on CPU to the bit, but where a product adds up real numbers in an order that
    docs/format.md leaves open.
    """

    def __init__(self, pointer: ctypes.c_void_p):
        self._pointer, self._library = pointer, _library()
        shape = (ctypes.c_int64 * 3)()
        self._library.bnn_input_shape(pointer, shape)
        # Channels of an image; numbers of a row of logits.
        self.channels: int = self._library.bnn_channels(pointer)
        self.num_classes: int = self._library.bnn_classes(pointer)
        # (height, width, channels) after the preprocessing; None where the file does not say.
        self.input_shape: tuple[int, int, int] | None = (shape[0], shape[1], shape[2]) if shape[0] else None
        # Which instruction set it runs with.
        self.instructions: str = self._library.bnn_instructions(pointer).decode()

    def __call__(self, images: np.ndarray, *, threads: int = 1) -> np.ndarray:
        """Logits.

        Args:
            images: (N, H, W, channels), floating and prepared as in training; or uint8, which are normalized as the file
                states.
            threads: how many compute, the calling one counted in; 0: as many as the processor has.

        Returns:
            (N, num_classes) float32; NaN for an image that is not finite.

        Raises:
            TypeError: for images of another dtype.
            ValueError: for images of a shape that does not fit, for uint8 where the file states no normalization.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise TypeError(
                f'images: got dtype {images.dtype}, expected floating numbers prepared as in training, or uint8'
            )
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(f'images: got shape {images.shape}, expected (N, H, W, {self.channels})')
        is_bytes = images.dtype == np.uint8
        images = np.ascontiguousarray(images, None if is_bytes else np.float32)
        logits = np.empty((len(images), self.num_classes), np.float32)
        run = self._library.bnn_run_bytes if is_bytes else self._library.bnn_run
        error = ctypes.create_string_buffer(ERROR)
        shape = images.shape[:3]
        _check(run(self._pointer, images.ctypes.data, *shape, threads, logits.ctypes.data, error), error)
        return logits

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How images are prepared (docs/format.md); None where the file does not say. Raises ValueError where it is no JSON."""
        text = self._library.bnn_preprocessing(self._pointer)
        try:
            return None if text is None else json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'bnn_jax.runtime: the preprocessing of the file is not JSON ({error})') from error

    def __del__(self):
        self._library.bnn_close(self._pointer)

    def __repr__(self) -> str:
        return f'Network(channels={self.channels}, num_classes={self.num_classes}, instructions={self.instructions!r})'


def load(source: str | os.PathLike | BinaryIO, *, instructions: str = '') -> Network:
    """Read a packed network that `bnn_jax.save` wrote; nothing in the file is executed.

    Args:
        source: the file's path, in which `~` is your home, or the file itself, opened in binary mode.
        instructions: one of `instruction_sets()`; empty: the first, or $BNN_INSTRUCTIONS.

    Raises:
        FileNotFoundError: if there is no file. OSError, with its reason, for one that cannot be read.
        ValueError: for a file that is truncated, altered, of another program, or holds a layer that this library lacks.
        RuntimeError: if the C++ library is not there.
    """
    library, pointer, error = _library(), ctypes.c_void_p(), ctypes.create_string_buffer(ERROR)
    chosen = instructions.encode()
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f'load: there is no file {path}')
        status = library.bnn_open(os.fsencode(path), chosen, ctypes.byref(pointer), error)
    else:
        content = source.read()
        if not isinstance(content, bytes):
            raise TypeError(
                f'load: got a file that gives {type(content).__name__}, expected bytes; open it in binary mode'
            )
        status = library.bnn_open_memory(content, len(content), chosen, ctypes.byref(pointer), error)
    _check(status, error)
    return Network(pointer)


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets that this processor has kernels for, best first. Raises RuntimeError as `load`."""
    return tuple(_library().bnn_instruction_sets().decode().split())


def missing() -> str | None:
    """Why the library cannot run here, or None where it can."""
    try:
        _library()
    except RuntimeError as error:
        return str(error)
    return None


def _check(status: int, error: ctypes.Array) -> None:
    """Raises what a bnn_status means."""
    kinds = {1: ValueError, 2: OSError, 3: MemoryError}
    if status != 0:
        raise kinds[status](f'bnn_jax.runtime: {error.value.decode(errors="replace")}')


@cache
def _library() -> ctypes.CDLL:
    try:
        library = opened(build.LIBRARY, build.digest())
    except RuntimeError as error:
        raise RuntimeError(f'bnn_jax.runtime: its C++ kernels cannot run here: {error}') from error
    pointer, number, text, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t
    images = [pointer, pointer, number, number, number, ctypes.c_int, pointer, text]
    declared = {
        'bnn_open': (ctypes.c_int, [text, text, pointer, text]),
        'bnn_open_memory': (ctypes.c_int, [text, size, text, pointer, text]),
        'bnn_close': (None, [pointer]),
        'bnn_channels': (number, [pointer]),
        'bnn_classes': (number, [pointer]),
        'bnn_input_shape': (None, [pointer, pointer]),
        'bnn_preprocessing': (text, [pointer]),
        'bnn_instructions': (text, [pointer]),
        'bnn_instruction_sets': (text, []),
        'bnn_run': (ctypes.c_int, images),
        'bnn_run_bytes': (ctypes.c_int, images),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _main() -> None:
    jaxlib = importlib.util.find_spec('jaxlib')
    try:
        # With what XLA calls as well, where JAX is installed. First, for a process keeps the library that it has loaded.
        build.build(None if jaxlib is None or jaxlib.origin is None else Path(jaxlib.origin).parent / 'include')
    except RuntimeError as error:
        print(f'The C++ library was not built: {error}')
    reason = missing()
    if reason is not None:
        sys.exit(f'It cannot run here: {reason}')
    print(f'It runs: {build.LIBRARY}, instruction sets {", ".join(instruction_sets())}')


if __name__ == '__main__':
    _main()
