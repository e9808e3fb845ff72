"""The two operations of a product, convolution and dense, as values."""

from bnn_jax.nn.operations.convolution import Convolution
from bnn_jax.nn.operations.dense import Dense

__all__ = ['Convolution', 'Dense']
