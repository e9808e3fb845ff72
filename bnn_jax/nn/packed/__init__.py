"""The layers in packed arithmetic, made by `convert` and `load`.

Fields marked `tensor()` hold what a file stores, `derived()` what is computed from it once, when the layer is made; all
other fields are static.
"""

from bnn_jax.nn.packed.floats import FloatProduct, PackedNorm, SignProduct, UnpackedProduct
from bnn_jax.nn.packed.network import PackedBranches, PackedNetwork, PackedResidual, PackedSequential
from bnn_jax.nn.packed.product import PackedProduct

__all__ = [
    'FloatProduct',
    'PackedBranches',
    'PackedNetwork',
    'PackedNorm',
    'PackedProduct',
    'PackedResidual',
    'PackedSequential',
    'SignProduct',
    'UnpackedProduct',
]
