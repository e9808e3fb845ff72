"""XNOR-Net's AlexNet: batch normalization in place of local response normalization, and no groups."""

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
    """Five convolutions, three max poolings (3x3, stride 2), two dense layers of 4096, dense head.

    It has 62,367,776 weights at width 1, 224 x 224 pixels and 1000 classes.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters and units.
        input_shape: (H, W, C) of one image.
        padding: the padding of the first convolution: 2 for 224 x 224 (the published code), 0 for 227 x 227 (the PyTorch
            implementation). Both give 55 x 55 pixels.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: input_shape is not (H, W, C), its images are too small, num_classes is not a positive integer, or
            width is not positive.

    Source: XNOR-Net (arXiv:1603.05279) section 4.2 and its published code.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.alexnet, 1000, scheme=bnn.XNOR)  # what `training.Config` takes
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
