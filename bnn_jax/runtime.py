"""Run a packed network on NumPy arrays, without JAX. The C++ library (native/cpp/bnn_runtime.h) does the work.

This module imports NumPy and the standard library alone. `python -m bnn_jax.runtime` compiles the library again and says
whether it runs.
"""

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bnn_jax.native import build
from bnn_jax.native.opened import opened

if TYPE_CHECKING:  # Importing it takes longer than all the rest of this module.
    from jaxtyping import Float, Float32, UInt8

ERROR = 512
"""The size of the buffer for an error message, BNN_ERROR in bnn_runtime.h."""


class Network:
    """A packed network, from images (N, H, W, channels) to logits (N, num_classes) float32. `load` makes it.

    Several threads may call one network at the same time. The logits of an image depend neither on the other images of the
    batch nor on the number of threads. They equal those of `bnn_jax.load(path)(images)` on CPU to the bit, if the C++
    kernels run there. The two exceptions are convolutions of real numbers that are dilated or grouped, and networks whose
    binary weights multiply only real inputs (docs/format.md).

    Example:
        >>> import io, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
        >>> file = bnn.save(bnn.convert(model), io.BytesIO())
        >>> network = bnn.runtime.load(io.BytesIO(file.getvalue()))
        >>> network.channels, network.num_classes, network.input_shape
        (1, 3, None)
    """

    def __init__(self, pointer: '_Pointer'):
        self._pointer, self._library = pointer, _library()
        shape = (ctypes.c_int64 * 3)()
        self._library.bnn_input_shape(pointer, shape)
        # The channels of an image, and the number of its logits.
        self.channels: int = self._library.bnn_channels(pointer)
        self.num_classes: int = self._library.bnn_classes(pointer)
        # (height, width, channels) of an image after its preprocessing; None if the file does not say.
        self.input_shape: tuple[int, int, int] | None = (shape[0], shape[1], shape[2]) if shape[0] else None
        # The instruction set whose kernels it uses.
        self.instructions: str = self._library.bnn_instructions(pointer).decode()

    def __call__(
        self,
        images: "Float[np.ndarray, 'N H W channels'] | UInt8[np.ndarray, 'N H W channels']",
        *,
        threads: int = 1,
    ) -> "Float32[np.ndarray, 'N num_classes']":
        """The logits of a batch of images.

        Args:
            images: floating and prepared as in training; or uint8, which are normalized as the file says.
            threads: how many threads compute, the caller's included; 0: one for each processor.

        Returns:
            The logits; NaN for an image that has a NaN or an infinity.

        Raises:
            TypeError: images have another dtype, or threads is not an integer.
            ValueError: images have another shape, there are none, or they are uint8 and the file states no
                normalization; or threads is below 0 or above 1024.

        Example:
            >>> import io, bnn_jax as bnn, numpy as np
            >>> from flax import nnx
            >>> model = bnn.models.mlp(3, scheme=bnn.BNN, rngs=nnx.Rngs(0), hidden=(), input_shape=(2, 2, 1))
            >>> file = bnn.save(bnn.convert(model), io.BytesIO())
            >>> network = bnn.runtime.load(io.BytesIO(file.getvalue()))
            >>> network(np.ones((5, 2, 2, 1), np.float32), threads=2).shape
            (5, 3)
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise TypeError(
                f'images: got dtype {images.dtype}, expected floating numbers prepared as in training, or uint8'
            )
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(f'images: got shape {images.shape}, expected (N, H, W, {self.channels})')
        if not isinstance(threads, int | np.integer):
            raise TypeError(f'threads: got {threads!r}, expected an integer from 0 to 1024')
        if ctypes.c_int(threads).value != threads:  # ctypes would drop the upper bits.
            raise ValueError(f'threads: got {threads}, expected from 0 to 1024')
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
        """How an image is prepared (docs/format.md); None if the file does not say.

        Raises:
            ValueError: the file states it in something other than JSON.
        """
        import json  # Not above: a process that only asks for logits starts sooner.

        text = self._library.bnn_preprocessing(self._pointer)
        try:
            return None if text is None else json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'bnn_jax.runtime: the preprocessing in the file is not JSON ({error})') from error

    def __repr__(self) -> str:
        return f'Network(channels={self.channels}, num_classes={self.num_classes}, instructions={self.instructions!r})'


def load(source: str | os.PathLike | BinaryIO, *, instructions: str = '') -> Network:
    """Read a packed network that `bnn_jax.save` wrote; nothing in the file is executed.

    Args:
        source: the path of the file, where `~` is your home; or the file itself, opened in binary mode.
        instructions: one of `instruction_sets()`; empty: $BNN_INSTRUCTIONS, or the best set.

    Returns:
        The network.

    Raises:
        FileNotFoundError: there is no file.
        OSError: the file cannot be read; the message has the reason.
        TypeError: source is neither a path nor a file, or the file is open in text mode.
        ValueError: the file is truncated or altered, was written by another program, or has a layer that this library lacks;
            or instructions is not one of `instruction_sets()`.
        RuntimeError: the C++ library is missing or cannot run here.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.runtime.load('nowhere.safetensors')
        Traceback (most recent call last):
        FileNotFoundError: load: there is no file nowhere.safetensors
    """
    library, pointer, error = _library(), _Pointer(), ctypes.create_string_buffer(ERROR)
    chosen = instructions.encode()
    if isinstance(source, str | os.PathLike):
        path = os.path.expanduser(source)
        if not os.path.exists(path):
            raise FileNotFoundError(f'load: there is no file {path}')
        status = library.bnn_open(os.fsencode(path), chosen, ctypes.byref(pointer), error)
    else:
        if not hasattr(source, 'read'):
            raise TypeError(f'load: got a {type(source).__name__}, expected a path, or a file open in binary mode')
        content = source.read()
        if not isinstance(content, bytes):
            raise TypeError(
                f'load: got a file that gives {type(content).__name__}, expected bytes; open it in binary mode'
            )
        status = library.bnn_open_memory(content, len(content), chosen, ctypes.byref(pointer), error)
    _check(status, error)
    return Network(pointer)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets of this processor for which there are kernels, best first.

    Raises:
        RuntimeError: the C++ library is missing or cannot run here.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.runtime.instruction_sets()[-1]  # The last one runs everywhere.
        'portable'
    """
    return tuple(_library().bnn_instruction_sets().decode().split())


def missing() -> str | None:
    """Why the C++ library cannot run here; None if it can.

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.runtime.missing()  # None: it can run.
    """
    try:
        _library()
    except RuntimeError as error:
        return str(error)
    return None


class _Pointer(ctypes.c_void_p):
    """The pointer to a network of the C++ library. Copies of a `Network` share it, so the network is closed only once."""

    def __init__(self):
        super().__init__()
        self._close = _library().bnn_close  # At exit the module's names may be gone before `__del__` runs.

    def __del__(self):
        self._close(self)


def _check(status: int, error: ctypes.Array) -> None:
    """Raise the error for a bnn_status that the C++ library returned, unless it is BNN_OK."""
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
    import importlib.util

    jaxlib = importlib.util.find_spec('jaxlib')
    try:
        # If JAX is installed, the functions that XLA calls are compiled too. `missing` loads the library, and a process keeps
        # what it has loaded, so build first.
        origin = None if jaxlib is None else jaxlib.origin
        build.build(None if origin is None else os.path.join(os.path.dirname(origin), 'include'))
    except RuntimeError as error:
        print(f'The C++ library was not built: {error}')
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    print(f'It runs: {build.LIBRARY}, instruction sets {", ".join(instruction_sets())}')


if __name__ == '__main__':
    _main()
