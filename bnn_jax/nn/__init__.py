"""Layers, containers, the network builder, and what a layer of your own needs."""

from bnn_jax.nn.affine import affine_product, affine_sum
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential
from bnn_jax.nn.drop_in import Conv, Linear
from bnn_jax.nn.epilogue import binary_product, epilogue, scaled
from bnn_jax.nn.head import with_classes
from bnn_jax.nn.layer import BinaryWeights, Cost, Layer
from bnn_jax.nn.names import register
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.nn.product import Product
from bnn_jax.nn.report import Report, Row
from bnn_jax.nn.slots import Container, Slot
from bnn_jax.nn.stateless import (
    AvgPool,
    Flatten,
    GlobalAveragePool,
    HardTanh,
    LeakyRelu,
    MaxPool,
    PadChannels,
    PRelu,
    Relu,
)
from bnn_jax.nn.summary import Summary, summarize
from bnn_jax.nn.variables import Fixed, Latent, Noise, Progress
from bnn_jax.nn.walk import Place, observe, walk
from bnn_jax.ops.windows import Window

__all__ = [
    'AvgPool',
    'Auxiliary',
    'BinaryWeights',
    'Branches',
    'Container',
    'Conv',
    'Convolution',
    'Cost',
    'Dense',
    'Fixed',
    'Flatten',
    'GlobalAveragePool',
    'HardTanh',
    'Latent',
    'Layer',
    'LeakyRelu',
    'Linear',
    'MaxPool',
    'Network',
    'NetworkBuilder',
    'Noise',
    'Norm',
    'PRelu',
    'PackedLayer',
    'PadChannels',
    'Place',
    'Product',
    'Progress',
    'Relu',
    'Report',
    'Residual',
    'Row',
    'Sequential',
    'Slot',
    'Summary',
    'Window',
    'affine_product',
    'affine_sum',
    'binary_product',
    'epilogue',
    'observe',
    'register',
    'scaled',
    'summarize',
    'walk',
    'with_classes',
]
