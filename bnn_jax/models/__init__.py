"""Architectures. Each works with every scheme: f(num_classes, *, scheme, rngs, width=1.0, input_shape=...).

`small_stem` and `strided_stem` add the first layers of a residual network.
"""

from bnn_jax.models.alexnet import alexnet
from bnn_jax.models.extraction import extraction
from bnn_jax.models.googlenet import googlenet
from bnn_jax.models.lenet5 import lenet5
from bnn_jax.models.mlp import mlp
from bnn_jax.models.nin import nin
from bnn_jax.models.resnet import resnet18, resnet20, resnet34, small_stem, strided_stem
from bnn_jax.models.vgg_small import vgg_small
from bnn_jax.models.vgg_small_one_dense import vgg_small_one_dense

__all__ = [
    'alexnet',
    'extraction',
    'googlenet',
    'lenet5',
    'mlp',
    'nin',
    'resnet18',
    'resnet20',
    'resnet34',
    'small_stem',
    'strided_stem',
    'vgg_small',
    'vgg_small_one_dense',
]
