"""Layers, containers and the network builder, in training arithmetic."""

from bnn_jax.nn import operations
from bnn_jax.nn.builder import RELU, NetworkBuilder, Part, Pool
from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential, check_images, nan_unless_finite
from bnn_jax.nn.layers import (
    AvgPool,
    Fixed,
    Flatten,
    GlobalAveragePool,
    Latent,
    LeakyRelu,
    MaxPool,
    Noise,
    Norm,
    Product,
    Relu,
    binary_product,
    epilogue,
    scaled,
)
from bnn_jax.nn.summary import Layer, Summary, summarize

__all__ = [
    'Auxiliary',
    'AvgPool',
    'Branches',
    'Fixed',
    'Flatten',
    'GlobalAveragePool',
    'Latent',
    'Layer',
    'LeakyRelu',
    'MaxPool',
    'Network',
    'Noise',
    'Norm',
    'Part',
    'Pool',
    'Product',
    'RELU',
    'Relu',
    'Residual',
    'Sequential',
    'NetworkBuilder',
    'Summary',
    'binary_product',
    'check_images',
    'epilogue',
    'nan_unless_finite',
    'operations',
    'scaled',
    'summarize',
]
