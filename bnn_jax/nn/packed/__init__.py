"""The layers in packed arithmetic, which `convert` and `load` make, and the pieces of a packed layer of your own.

A packed layer subclasses `PackedLayer` under `@packed_layer(name)`. Fields marked `tensor()` are arrays, and fields marked
`child()` are packed layers. No file stores fields marked `derived()` as they are. All other fields are static.
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
