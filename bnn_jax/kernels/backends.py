"""The backends by name, and the one that 'auto' chooses."""

from functools import partial

import jax.numpy as jnp

from bnn_jax.kernels import native, pallas_gpu, pallas_tpu
from bnn_jax.kernels.backend import Backend
from bnn_jax.kernels.dense import EXACT, Dense
from bnn_jax.kernels.dispatch import ByPlatform
from bnn_jax.kernels.from_matmul import FromMatmul
from bnn_jax.kernels.reference import Reference
from bnn_jax.kernels.xla import Xla

BACKENDS: dict[str, Backend] = {
    'reference': Reference(),
    'native': native.Native(),
    'xla': Xla(),
    'dense': Dense(),
    'pallas_tpu': FromMatmul(partial(pallas_tpu.matrix, operand=jnp.int8)),
    'pallas_tpu_bfloat16': FromMatmul(partial(pallas_tpu.matrix, operand=jnp.bfloat16)),
    'pallas_tpu_popcount': FromMatmul(pallas_tpu.popcount),
    'pallas_gpu': FromMatmul(pallas_gpu.matrix),
    'pallas_gpu_popcount': FromMatmul(pallas_gpu.popcount),
}
"""All give the same integers as `Reference`, but `dense` refuses sums of more than 2^24 products. All run on every
platform, except `native`, which needs a CPU and its compiled C++. On a device of another kind than its own, a Pallas
backend is interpreted, which is slow. On a TPU, `pallas_tpu` needs 8-bit integer products (v5 or later)."""

AUTO: Backend = ByPlatform(
    cpu=lambda: BACKENDS['native' if native.missing() is None else 'xla'],
    default=BACKENDS['dense'],
    largest=EXACT,
    beyond=BACKENDS['xla'],
)
"""What 'auto' means on the platform that a function is compiled for.

CPU: `native`, or `xla` where the C++ cannot run (`native.missing` says why). `native` was faster than `xla` in every measured
convolution except one: with AVX2, it is no faster for windows of 20 x 20 x 256 (docs/performance.md). Other platforms:
`dense`, because it uses XLA's own product, and `xla` for sums of more than 2^24 products. Nothing was measured there.
"""


def named(backend: str | Backend) -> Backend:
    """The backend with this name; a `Backend` is returned as it is.

    Args:
        backend: a key of BACKENDS, 'auto', or a `Backend`.

    Returns:
        The backend.

    Raises:
        ValueError: no backend has that name.

    Example:
        >>> from bnn_jax.kernels.backends import BACKENDS, named
        >>> named('xla') is BACKENDS['xla']
        True
    """
    if isinstance(backend, Backend):
        return backend
    if backend == 'auto':
        return AUTO
    if backend not in BACKENDS:
        expected = ', '.join(map(repr, ['auto', *BACKENDS]))
        raise ValueError(f'backend: got {backend!r}, expected one of {expected}, or a Backend')
    return BACKENDS[backend]
