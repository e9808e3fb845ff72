"""Products of packed signs. They return exact integers, or the signs of these integers against thresholds, in words.

`reference.py` defines the result, and all backends return the same. Also here: `packed_signs`, which packs the signs of
real numbers, and products of real numbers with packed signs, whose sums are rounded.
"""

from bnn_jax.kernels.backend import Backend
from bnn_jax.kernels.backends import AUTO, BACKENDS
from bnn_jax.kernels.packed import packed_conv2d, packed_conv2d_signs, packed_matmul
from bnn_jax.kernels.real import packed_signs, signed_conv2d, signed_matmul

__all__ = [
    'AUTO',
    'BACKENDS',
    'Backend',
    'packed_conv2d',
    'packed_conv2d_signs',
    'packed_matmul',
    'packed_signs',
    'signed_conv2d',
    'signed_matmul',
]
