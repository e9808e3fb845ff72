"""Layers, containers, the network builder, and what a layer of your own needs.

Names that need Flax are imported at their first use, so that a packed network can be loaded without Flax.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from bnn_jax.nn import packed  # noqa: F401  # Registers the layers that a file may name.
from bnn_jax.nn.affine import affine_product, affine_sum
from bnn_jax.nn.epilogue import binary_product, epilogue, scaled
from bnn_jax.nn.layer import BinaryWeights, Cost, Layer
from bnn_jax.nn.names import register
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed_layer import PackedLayer
from bnn_jax.nn.report import Report, Row
from bnn_jax.nn.stateless import (
    AvgPool,
    Flatten,
    GlobalAveragePool,
    HardTanh,
    LeakyRelu,
    MaxPool,
    PadChannels,
    Relu,
)
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

if TYPE_CHECKING:
    from bnn_jax.nn.builder import NetworkBuilder
    from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential
    from bnn_jax.nn.drop_in import Conv, Linear
    from bnn_jax.nn.head import with_classes
    from bnn_jax.nn.norm import Norm
    from bnn_jax.nn.places import Place, observe, walk
    from bnn_jax.nn.prelu import PRelu
    from bnn_jax.nn.product import Product
    from bnn_jax.nn.slots import Container, Slot
    from bnn_jax.nn.summary import Summary, summarize
    from bnn_jax.nn.variables import Fixed, Latent, Noise, Progress
else:
    _PLACES = {
        'NetworkBuilder': 'builder',
        **dict.fromkeys(('Auxiliary', 'Branches', 'Network', 'Residual', 'Sequential'), 'containers'),
        **dict.fromkeys(('Conv', 'Linear'), 'drop_in'),
        'with_classes': 'head',
        'Norm': 'norm',
        **dict.fromkeys(('Place', 'observe', 'walk'), 'places'),
        'PRelu': 'prelu',
        'Product': 'product',
        **dict.fromkeys(('Container', 'Slot'), 'slots'),
        **dict.fromkeys(('Summary', 'summarize'), 'summary'),
        **dict.fromkeys(('Fixed', 'Latent', 'Noise', 'Progress'), 'variables'),
    }

    def __getattr__(name: str):
        if name not in _PLACES:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        value = globals()[name] = getattr(import_module(f'bnn_jax.nn.{_PLACES[name]}'), name)
        return value


def __dir__() -> list[str]:
    return __all__
