"""Arithmetic without layers and schemes: bits, windows, convolution, pooling, normalization, sums in a fixed order.

Your own layer or quantizer gives the same bits in training and in packed arithmetic if it is made of these functions.
"""

from bnn_jax.ops import bits
from bnn_jax.ops.deterministic import normalize, ordered_mean, ordered_sum, rounded, wide
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.windows import Window

__all__ = ['Signs', 'Window', 'bits', 'normalize', 'ordered_mean', 'ordered_sum', 'rounded', 'wide']
