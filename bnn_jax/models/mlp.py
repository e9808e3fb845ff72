"""Multi-layer perceptron: BinaryConnect's and BinaryNet's network for MNIST."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.schemes.scheme import Scheme


def mlp(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (28, 28, 1),
    hidden: Sequence[int] = (4096, 4096, 4096),
) -> Network:
    """Flattened image, hidden dense blocks, dense head.

    width: factor on `hidden`. input_shape: (H, W, C) of one image. Default sizes: BinaryNet (arXiv:1602.02830) section
    2.1 (MNIST); its dropout is `presets.BNN_THEANO_MNIST`'s.
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    for features in hidden:
        builder.dense(features)
    return builder.network(num_classes)
