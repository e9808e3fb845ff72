"""Network in network for CIFAR-10, as the PyTorch implementation of XNOR-Net has it."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import AvgPool, MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def nin(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (32, 32, 3),
) -> Network:
    """Eight convolutions, one max and one average pooling of 3/2, a 1x1 convolution to the classes and the mean.

    width: factor on all filters. input_shape: (H, W, C) of one image. The average counts the zeros of its padding.
    Source: arXiv:1312.4400, in the PyTorch implementation of XNOR-Net, whose dropout is `presets.XNOR_PYTORCH_CIFAR`'s.
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    window = Window.of(3, 2, ((1, 1), (1, 1)))
    builder.conv(192, 5, padding=2)
    builder.conv(160, 1)
    builder.conv(96, 1, pool=MaxPool(window))
    builder.conv(192, 5, padding=2)
    builder.conv(192, 1)
    builder.conv(192, 1, pool=AvgPool(window))
    builder.conv(192, 3, padding=1)
    builder.conv(192, 1)
    return builder.conv_network(num_classes)
