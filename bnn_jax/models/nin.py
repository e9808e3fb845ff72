"""Network in network for CIFAR-10, as in the PyTorch implementation of XNOR-Net."""

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
    """Eight convolutions, a 1x1 convolution to the classes, and the mean over height and width.

    A max pooling follows the third convolution, and an average pooling the sixth. Both have a 3x3 window and stride 2.
    The average pooling counts the zeros of its padding.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on the numbers of filters of the first eight convolutions.
        input_shape: (H, W, C) of one image.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: num_classes is not a positive integer, input_shape is not (H, W, C), or width is not positive.

    Source: arXiv:1312.4400, as in the PyTorch implementation of XNOR-Net; its dropout is part of
    `presets.XNOR_PYTORCH_CIFAR`.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: bnn.models.nin(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0)))  # shapes alone
        >>> model.channels, model.num_classes
        (3, 10)
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
