"""The layers in packed arithmetic, made by `convert` and `load`, and what one of your own is made of.

A packed layer subclasses `PackedLayer` under `@packed_layer(name)`. Fields marked `tensor()` hold what a file stores,
`derived()` what is computed from it once, when the layer is made; all other fields are static.
"""

from bnn_jax.nn.packed.branches import PackedBranches, PackedResidual
from bnn_jax.nn.packed.floats import FloatProduct, PackedNorm, SignProduct, UnpackedProduct
from bnn_jax.nn.packed.network import PackedNetwork, PackedSequential
from bnn_jax.nn.packed.product import PackedProduct
from bnn_jax.nn.packed_layer import IntegerForm, PackedLayer, child, derived, named_in_files, packed_layer, tensor

__all__ = [
    'FloatProduct',
    'IntegerForm',
    'PackedBranches',
    'PackedLayer',
    'PackedNetwork',
    'PackedNorm',
    'PackedProduct',
    'PackedResidual',
    'PackedSequential',
    'SignProduct',
    'UnpackedProduct',
    'child',
    'derived',
    'named_in_files',
    'packed_layer',
    'tensor',
]
