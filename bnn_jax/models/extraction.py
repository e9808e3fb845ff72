"""Darknet's Extraction network. It has no branches; XNOR-Net's paper calls it a variant of GoogLeNet."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import LeakyRelu, MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def extraction(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
) -> Network:
    """Twenty-one convolutions, four 2/2 max poolings, the mean over height and width.

    Each ReLU of the scheme's orders is leaky, with slope 0.1. The last convolution is 1x1 and computes the logits. The
    network has 23,418,048 weights at width 1 and 1000 classes, 22,384,640 of them in the nineteen inner convolutions.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters.
        input_shape: (H, W, C) of one image, at least 31 x 31.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: input_shape is not (H, W, C), its images are too small, num_classes is not a positive integer, or
            width is not positive.

    Source: Darknet's cfg/extraction.cfg; XNOR-Net (arXiv:1603.05279) section 4.2.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.extraction, 1000, scheme=bnn.XNOR)  # what `training.Config` takes
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs, activation=LeakyRelu(0.1))
    pool = MaxPool(Window.of(2, 2))
    builder.conv(64, 7, strides=2, padding=3, pool=pool)
    builder.conv(192, 3, padding=1, pool=pool)
    builder.conv(128, 1)
    builder.conv(256, 3, padding=1)
    builder.conv(256, 1)
    builder.conv(512, 3, padding=1, pool=pool)
    for _ in range(4):
        builder.conv(256, 1)
        builder.conv(512, 3, padding=1)
    builder.conv(512, 1)
    builder.conv(1024, 3, padding=1, pool=pool)
    for _ in range(2):
        builder.conv(512, 1)
        builder.conv(1024, 3, padding=1)
    return builder.conv_network(num_classes)
