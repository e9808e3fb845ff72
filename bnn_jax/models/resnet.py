"""ResNet-18 and -34 for ImageNet, ResNet-20 for CIFAR; each stem also for the other."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def strided_stem(builder: NetworkBuilder, filters: int) -> None:
    """A 7x7 convolution and a 3/2 max pooling, each of stride 2: for large images."""
    builder.conv(filters, 7, strides=2, padding=3, pool=MaxPool(Window.of(3, 2, ((1, 1), (1, 1)))))


def small_stem(builder: NetworkBuilder, filters: int) -> None:
    """A 3x3 convolution of stride 1: for images of about 32 x 32."""
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
    """Stem, one stage for each of `filters` with as many residual blocks as `blocks` says, mean, dense head.

    width: factor on all filters. input_shape: (H, W, C) of one image; other sizes work with the same weights. stem:
    `strided_stem` (7x7/2, pooling 3/2) or `small_stem` (3x3); it is given the filters of the first stage. Stages after the
    first begin with stride 2. Raises ValueError if `blocks` and `filters` differ in length.
    The scheme's `residual` says whether one shortcut spans both convolutions of a block (`schemes.residual_...`) or each
    has its own (`schemes.residuals_...`), `downsample` and `shortcut` what it is where the shape changes: a strided 1x1
    convolution with normalization by default, real unless the scheme says otherwise. Source: arXiv:1512.03385; for
    XNOR-Net, whose paper does not give its block, norm - sign - product twice; arXiv:1808.00278 for Bi-Real Net.
    """
    if len(blocks) != len(filters):
        raise ValueError(f'blocks: got {blocks!r} for filters {filters!r}, expected one number a stage in each')
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    stem(builder, filters[0])
    for stage, (features, count) in enumerate(zip(filters, blocks, strict=True)):
        for block in range(count):
            builder.residual(features, strides=2 if stage > 0 and block == 0 else 1)
    return builder.network(num_classes, average=True)


def resnet18(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-18: 11,678,912 weights at width 1 and 1000 classes, 10,985,472 of them in its sixteen 3x3 convolutions.

    sizes: arguments of `resnet`, such as width and input_shape. For CIFAR: stem=models.small_stem, input_shape=(32, 32, 3).
    """
    own: dict[str, Any] = {'blocks': (2, 2, 2, 2)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)


def resnet34(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-34. sizes: arguments of `resnet`, such as width and input_shape."""
    own: dict[str, Any] = {'blocks': (3, 4, 6, 3)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)


def resnet20(num_classes: int, *, scheme: Scheme, rngs: nnx.Rngs, **sizes: Any) -> Network:
    """ResNet-20 for CIFAR (arXiv:1512.03385 section 4.2): 270,896 weights at 10 classes.

    1x1 convolutions are the shortcuts where the shape changes, in place of the paper's padded identity, unless the scheme's
    `downsample` is that (`schemes.subsample_pad`, as in `IRNET`).
    sizes: arguments of `resnet`, such as width and input_shape, which is (32, 32, 3) here.
    """
    own: dict[str, Any] = {'blocks': (3, 3, 3), 'filters': (16, 32, 64), 'stem': small_stem, 'input_shape': (32, 32, 3)}
    return resnet(num_classes, scheme=scheme, rngs=rngs, **own | sizes)
