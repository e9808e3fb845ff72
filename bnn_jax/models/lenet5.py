"""LeNet-5 as the PyTorch implementation of XNOR-Net has it for MNIST."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.layers import MaxPool
from bnn_jax.network import Network
from bnn_jax.parts import Stack
from bnn_jax.schemes import Scheme
from bnn_jax.windows import Window


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
    stack = Stack(input_shape, scheme=scheme, width=width, rngs=rngs)
    pool = MaxPool(Window.of(2, 2))
    stack.conv(20, 5, pool=pool)
    stack.conv(50, 5, pool=pool)
    stack.dense(500)
    return stack.network(num_classes)
