"""BinaryNet's network for CIFAR-10, known as VGG-small."""

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

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters and units.
        input_shape: (H, W, C) of one image, at least 8 x 8.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: num_classes is not a positive integer, input_shape is not (H, W, C), its images are too small, or
            width is not positive.

    Source: BinaryNet (arXiv:1602.02830) section 2.2, after BinaryConnect.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.vgg_small, 10, scheme=bnn.BNN)  # what `training.Config` takes
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    six_convolutions(builder)
    builder.dense(1024)
    builder.dense(1024)
    return builder.network(num_classes)


def six_convolutions(builder: NetworkBuilder) -> None:
    """Adds three pairs of 3x3 convolutions. A 2/2 max pooling follows each pair."""
    pool = MaxPool(Window.of(2, 2))
    for filters in (128, 256, 512):
        builder.conv(filters, 3, padding=1)
        builder.conv(filters, 3, padding=1, pool=pool)
