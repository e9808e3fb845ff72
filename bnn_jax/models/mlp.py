"""The multi-layer perceptron of BinaryConnect and BinaryNet for MNIST."""

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
    """A network of dense blocks on the flattened image, with a dense head.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on `hidden`.
        input_shape: (H, W, C) of one image.
        hidden: the number of units of each dense block.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: num_classes is not a positive integer, input_shape is not (H, W, C), or width is not positive.

    Source: BinaryNet (arXiv:1602.02830) section 2.1 (MNIST) for the default sizes; its dropout is part of
    `presets.BNN_THEANO_MNIST`.

    Example:
        >>> import bnn_jax as bnn, numpy as np
        >>> from flax import nnx
        >>> def logits():
        ...     model = bnn.models.mlp(3, scheme=bnn.XNOR, rngs=nnx.Rngs(0), hidden=(4,), input_shape=(2, 2, 1))
        ...     return model(np.ones((5, 2, 2, 1), np.float32))
        >>> nnx.eval_shape(logits).shape  # computes no numbers
        (5, 3)
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    for features in hidden:
        builder.dense(features)
    return builder.network(num_classes)
