"""LeNet-5 as the PyTorch implementation of XNOR-Net has it for MNIST."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def lenet5(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (28, 28, 1),
) -> Network:
    """20 and 50 filters of 5x5, each pooled 2/2, 500 hidden units, dense head.

    width: factor on 20, 50 and 500. input_shape: (H, W, C) of one image, at least 16 x 16.
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    pool = MaxPool(Window.of(2, 2))
    builder.conv(20, 5, pool=pool)
    builder.conv(50, 5, pool=pool)
    builder.dense(500)
    return builder.network(num_classes)
