"""Two networks for CIFAR-10 that are known as VGG-small: BinaryNet's, and the one with a single dense layer."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def vgg_small(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (32, 32, 3),
) -> Network:
    """(2 x 128 C3) MP2 (2 x 256 C3) MP2 (2 x 512 C3) MP2 (2 x 1024 FC), dense head.

    width: factor on all filters and units. input_shape: (H, W, C) of one image, at least 8 x 8.
    Source: BinaryNet (arXiv:1602.02830) section 2.2, after BinaryConnect.
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    _six_convolutions(builder)
    builder.dense(1024)
    builder.dense(1024)
    return builder.network(num_classes)


def vgg_small_one_dense(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (32, 32, 3),
) -> Network:
    """(2 x 128 C3) MP2 (2 x 256 C3) MP2 (2 x 512 C3) MP2, dense head: what most papers since 2018 call VGG-small.

    width: factor on all filters. input_shape: (H, W, C) of one image, at least 8 x 8.
    Source: LQ-Nets (arXiv:1807.10029); the codes of IR-Net (htqin/IR-Net) and ReCU (z-hXu/ReCU).
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    _six_convolutions(builder)
    return builder.network(num_classes)


def _six_convolutions(builder: NetworkBuilder) -> None:
    """Three pairs of 3x3 convolutions, the second of each pooled."""
    pool = MaxPool(Window.of(2, 2))
    for filters in (128, 256, 512):
        builder.conv(filters, 3, padding=1)
        builder.conv(filters, 3, padding=1, pool=pool)
