"""ResNet-18 and -34 for ImageNet, ResNet-20 for CIFAR. The argument `stem` chooses the first layers of each."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def strided_stem(builder: NetworkBuilder, filters: int) -> None:
    """Adds a 7x7 convolution and a 3x3 max pooling, each of stride 2, for large images.

    Args:
        builder: the network so far; the stem is added to it.
        filters: the number of filters of the convolution.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> from bnn_jax.models import resnet20, strided_stem
        >>> model = functools.partial(resnet20, 10, scheme=bnn.XNOR, stem=strided_stem, input_shape=(224, 224, 3))
    """
    builder.conv(filters, 7, strides=2, padding=3, pool=MaxPool(Window.of(3, 2, ((1, 1), (1, 1)))))


def small_stem(builder: NetworkBuilder, filters: int) -> None:
    """Adds a 3x3 convolution of stride 1, for images of about 32 x 32.

    Args:
        builder: the network so far; the stem is added to it.
        filters: the number of filters of the convolution.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> from bnn_jax.models import resnet18, small_stem
        >>> model = functools.partial(resnet18, 10, scheme=bnn.XNOR, stem=small_stem, input_shape=(32, 32, 3))
    """
    builder.conv(filters, 3, padding=1)


def resnet(
    num_classes: int,
    *,
    blocks: Sequence[int],
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
    filters: Sequence[int] = (64, 128, 256, 512),
    stem: Callable[[NetworkBuilder, int], None] = strided_stem,
) -> Network:
    """A stem, stages of residual blocks, the mean over height and width, and a dense head.

    The scheme decides the block. Its `residual` says whether one shortcut spans both convolutions (`schemes.residual_...`) or
    each convolution has its own (`schemes.residuals_...`). Its `downsample` and `shortcut` say what a shortcut is where the
    shape changes: by default a strided 1x1 convolution with normalization, which most schemes keep real.

    Args:
        num_classes: the number of classes, and so of logits.
        blocks: how many residual blocks each stage has.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters.
        input_shape: (H, W, C) of one image; other sizes work with the same weights.
        filters: how many filters the convolutions of each stage have. Every stage but the first begins with stride 2.
        stem: the function that adds the layers before the stages: `strided_stem`, `small_stem` or your own. It gets the
            builder and `filters[0]`.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: num_classes is not a positive integer, input_shape is not (H, W, C), its images are too small,
            width is not positive, or `blocks` and `filters` differ in length or are empty.

    Source: arXiv:1512.03385; arXiv:1808.00278 for Bi-Real Net. XNOR-Net's paper does not define its residual block.
    Under the scheme `XNOR` the block is norm - sign - product, twice.
    """
    if len(blocks) != len(filters) or len(blocks) == 0:
        raise ValueError(
            f'blocks: got {blocks!r} for filters {filters!r}, expected one number for each stage in both, at least one stage'
        )
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    stem(builder, filters[0])
    for stage, (features, count) in enumerate(zip(filters, blocks, strict=True)):
        for block in range(count):
            builder.residual(features, strides=2 if stage > 0 and block == 0 else 1)
    return builder.network(num_classes, average=True)


def resnet18(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-18: 11,678,912 weights at width 1 and 1000 classes, 10,985,472 of them in its sixteen 3x3 convolutions.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        sizes: further arguments of `resnet.resnet`, such as `width`, `input_shape` and `stem`.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Source: arXiv:1512.03385 table 1.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.resnet18, 1000, scheme=bnn.BIREAL)  # what `training.Config` takes
    """
    own: dict[str, Any] = {'blocks': (2, 2, 2, 2)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)


def resnet34(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-34: stages of 3, 4, 6 and 3 blocks.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        sizes: further arguments of `resnet.resnet`, such as `width`, `input_shape` and `stem`.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Source: arXiv:1512.03385 table 1.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.resnet34, 1000, scheme=bnn.BIREAL)  # what `training.Config` takes
    """
    own: dict[str, Any] = {'blocks': (3, 4, 6, 3)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)


def resnet20(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-20 for CIFAR: 270,896 weights at width 1 and 10 classes, 2,560 of them in 1x1 shortcuts.

    Where the shape changes, the paper's shortcut is the padded identity. Here it is a 1x1 convolution, unless the scheme's
    `downsample` pads the channels with zeros (`schemes.subsample_pad` in `IRNET`, `schemes.average_pad` in `RECU`).

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        sizes: further arguments of `resnet.resnet`, such as `width`; the default `input_shape` is (32, 32, 3).

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Source: arXiv:1512.03385 section 4.2.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(bnn.models.resnet20, 10, scheme=bnn.IRNET)  # what `training.Config` takes
    """
    own: dict[str, Any] = {'blocks': (3, 3, 3), 'filters': (16, 32, 64), 'stem': small_stem, 'input_shape': (32, 32, 3)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)
