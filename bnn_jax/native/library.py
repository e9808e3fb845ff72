"""The C++ kernels as custom calls of XLA: checks whether they can run here, registers them and calls them.

XLA does not look into a custom call. So `vmap` calls it once for each example, and if an operand is spread over devices, each
device gathers the whole operand.
"""

import ctypes
import os
import re
from functools import cache
from pathlib import Path

import jax
import jax.export

from bnn_jax.native import build
from bnn_jax.native.opened import opened

HANDLERS = (
    'bnn_jax_convolution',
    'bnn_jax_convolution_signs',
    'bnn_jax_convolution_floats',
    'bnn_jax_narrow',
    'bnn_jax_narrow_signs',
    'bnn_jax_product',
    'bnn_jax_product_floats',
    'bnn_jax_pack',
    'bnn_jax_float_convolution',
    'bnn_jax_float_product',
    'bnn_jax_float_input_gradient',
    'bnn_jax_float_kernel_gradient',
)
DISABLED_CHECKS = tuple(jax.export.DisabledSafetyCheck.custom_call(name) for name in HANDLERS)
"""For `jax.export.export`, which otherwise refuses a function that calls the kernels. A process that runs such an
export must first call `missing`, which registers the kernels."""


def missing() -> str | None:
    """Why the kernels cannot run here, or None if they can. The first call registers them with XLA.

    Before that, it checks that the kernels were compiled from these sources, and for a version of XLA's FFI that the
    installed jaxlib has reached. If XLA refused a single handler, the whole CPU backend would fail. (XLA may one day
    refuse old versions; so far it accepts all.)
    """
    return _register()


@cache
def _register() -> str | None:
    reason = why_not(build.LIBRARY, build.digest(), _interface())
    if reason is None:
        # XLA keeps the handlers as long as the process lives. This function is cached, so they are registered once.
        library = ctypes.CDLL(build.LIBRARY)
        for name in HANDLERS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform='cpu')
    return reason


def why_not(path: str | os.PathLike, sources: str, interface: int | None) -> str | None:
    """Why a compiled library cannot run, or None if it can. Nothing is registered with XLA.

    Args:
        path: the library.
        sources: the digest of the sources that it must have been compiled from.
        interface: the version of XLA's FFI in the installed jaxlib, 65536 major + minor; None if it is unknown.
    """
    try:
        built = opened(path, sources).bnn_interface()
    except RuntimeError as error:
        return str(error)
    except AttributeError:
        return 'they were built without the functions that XLA calls; run `python -m bnn_jax.kernels`'
    # The same major version, and a minor one that the installed jaxlib has reached.
    if interface is None or built >> 16 != interface >> 16 or built > interface:
        has = 'unknown' if interface is None else hex(interface)
        return (
            f'they were built for another interface of XLA ({built:#x}) than the installed jaxlib has ({has}); run '
            '`python -m bnn_jax.kernels`'
        )
    return None


def _interface() -> int | None:
    """The version of XLA's FFI in the installed jaxlib's header, as 65536 major + minor."""
    header = Path(jax.ffi.include_dir()) / 'xla' / 'ffi' / 'api' / 'c_api.h'
    if not header.exists():
        return None
    numbers = re.findall(r'#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)', header.read_text())
    return int(numbers[0]) << 16 | int(numbers[1]) if len(numbers) == 2 else None


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets of this CPU for which there are kernels, best first.

    By default the kernels use the one that $BNN_INSTRUCTIONS names, or the first if that is not set.
    """
    expect_there()
    function = ctypes.CDLL(build.LIBRARY).bnn_instruction_sets
    function.restype = ctypes.c_char_p
    return tuple(function().decode().split())


def limit(times: int, instructions: str = '') -> int:
    """Count bits of words that stay in the first-level cache, in `times` rounds on this thread, and discard the counts.

    Returns the number of products of signs. This number divided by the time of the call is the highest rate that one
    core can reach with these kernels. Raises ValueError if the CPU lacks the instruction set.
    """
    expect_there()
    function = ctypes.CDLL(build.LIBRARY).bnn_limit
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_char_p, ctypes.c_int64]
    products = function(instructions.encode(), times)
    if products < 0:
        named = instructions or os.environ.get('BNN_INSTRUCTIONS', '')
        raise ValueError(f'instruction set: got {named!r}, expected one of {", ".join(instruction_sets())}')
    return products


def expect_there() -> None:
    """Raises RuntimeError if the kernels cannot run."""
    reason = missing()
    if reason is not None:
        raise RuntimeError(
            f"backend 'native': its C++ kernels cannot run here: {reason}; use backend 'xla' (an export: native=False)"
        )


def usable() -> bool:
    """Whether a whole program may use the kernels: they can run, and all hosts together have at most one CPU device.

    If a batch were spread over several CPU devices, each device would gather and compute the whole batch.
    """
    return missing() is None and _cpu_devices() <= 1


def _cpu_devices() -> int:
    """The number of CPU devices on all hosts; 0 if JAX was told to use no CPU."""
    try:
        return jax.device_count('cpu')
    except RuntimeError:
        return 0


def call(name: str, shape: tuple[int, ...], dtype, *operands: jax.Array, **attributes) -> jax.Array:
    """Call a handler. Returns its result, of this shape and dtype. Raises RuntimeError if the kernels cannot run."""
    expect_there()
    result = jax.ShapeDtypeStruct(shape, dtype)
    # Sequential, because JAX cannot turn a custom call into a batched one.
    return varying_as(jax.ffi.ffi_call(name, result, vmap_method='sequential')(*operands, **attributes), *operands)


def varying_as(x: jax.Array, *operands: jax.Array) -> jax.Array:
    """x, marked as varying over the mesh axes of a `jax.shard_map` over which any operand varies."""
    axes = {axis for operand in operands for axis in jax.typeof(operand).manual_axis_type.varying}
    missing = axes - set(jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, tuple(sorted(missing)), to='varying') if missing else x
