"""The VGG-small of most papers since 2018: BinaryNet's convolutions and a single dense layer."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.models.vgg_small import six_convolutions
from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.schemes.scheme import Scheme


def vgg_small_one_dense(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (32, 32, 3),
) -> Network:
    """(2 x 128 C3) MP2 (2 x 256 C3) MP2 (2 x 512 C3) MP2, dense head.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters.
        input_shape: (H, W, C) of one image, at least 8 x 8.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: num_classes is not a positive integer, input_shape is not (H, W, C), its images are too small, or
            width is not positive.

    Source: LQ-Nets (arXiv:1807.10029); the published implementations of IR-Net (htqin/IR-Net) and ReCU (z-hXu/ReCU).

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.vgg_small_one_dense, 10, scheme=bnn.IRNET)  # what `training.Config` takes
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    six_convolutions(builder)
    return builder.network(num_classes)
