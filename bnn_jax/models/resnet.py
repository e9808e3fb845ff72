"""ResNet-18 and -34."""

from collections.abc import Sequence
from functools import partial

from flax import nnx

from bnn_jax.layers import MaxPool, Network
from bnn_jax.parts import Stack
from bnn_jax.schemes import Scheme
from bnn_jax.windows import Window


def resnet(
    num_classes: int,
    *,
    blocks: Sequence[int],
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
) -> Network:
    """7x7/2 stem, 3/2 pooling, four stages of 64, 128, 256, 512 filters with `blocks` residual blocks, mean, dense.

    width: factor on all filters. input_shape: (H, W, C) of one image; other sizes work with the same weights.
    The scheme's `residual` says whether one shortcut spans both convolutions of a block (`schemes.residual_...`) or each
    has its own (`schemes.residuals_...`), `downsample` and `shortcut` what it is where the shape changes: a strided 1x1
    convolution with normalisation by default, real unless the scheme says otherwise. Source: arXiv:1512.03385; for
    XNOR-Net, whose paper does not give its block, norm - sign - product twice; arXiv:1808.00278 for Bi-Real Net.
    """
    stack = Stack(input_shape, scheme=scheme, width=width, rngs=rngs)
    stack.conv(64, 7, strides=2, padding=3, pool=MaxPool(Window.of(3, 2, ((1, 1), (1, 1)))))
    for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for block in range(count):
            stack.residual(filters, strides=2 if stage > 0 and block == 0 else 1)
    return stack.network(num_classes, average=True)


resnet18 = partial(resnet, blocks=(2, 2, 2, 2))
"""ResNet-18: 11,678,912 weights at width 1 and 1000 classes, 10,985,472 of them in its sixteen 3x3 convolutions."""

resnet34 = partial(resnet, blocks=(3, 4, 6, 3))
"""ResNet-34."""
