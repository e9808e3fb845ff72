"""Packed products: signs in words in, exact integers out. One definition (reference.py), interchangeable backends."""

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
