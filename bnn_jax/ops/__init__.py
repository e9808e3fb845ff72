"""Arithmetic without policy: bits, windows, convolution, pooling, normalization, sums in a fixed order.

Here is what a layer or quantizer of your own needs for its answers to be the same bits in training and in packed arithmetic.
"""

from bnn_jax.ops import bits
from bnn_jax.ops.deterministic import normalize, ordered_mean, ordered_sum, rounded, wide
from bnn_jax.ops.signs import Signs
from bnn_jax.ops.windows import Window

__all__ = ['Signs', 'Window', 'bits', 'normalize', 'ordered_mean', 'ordered_sum', 'rounded', 'wide']
