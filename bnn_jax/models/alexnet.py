"""AlexNet without groups and local response normalization, with batch normalization: XNOR-Net's."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def alexnet(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
    padding: int = 2,
) -> Network:
    """Five convolutions, three 3/2 poolings, two dense layers of 4096, dense head.

    62,367,776 weights at width 1, 224 x 224 and 1000 classes. width: factor on all filters and units.
    input_shape: (H, W, C) of one image. padding: of the first convolution: 2 for 224 x 224 (the published code), 0 for
    227 x 227 (the PyTorch implementation); both see 55 x 55 pixels after it.
    Source: XNOR-Net (arXiv:1603.05279) section 4.1 and its published code.
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    pool = MaxPool(Window.of(3, 2))
    builder.conv(96, 11, strides=4, padding=padding, pool=pool)
    builder.conv(256, 5, padding=2, pool=pool)
    builder.conv(384, 3, padding=1)
    builder.conv(384, 3, padding=1)
    builder.conv(256, 3, padding=1, pool=pool)
    builder.dense(4096)
    builder.dense(4096)
    return builder.network(num_classes)
