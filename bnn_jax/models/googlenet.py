"""GoogLeNet (Inception v1) with batch normalization."""

from collections.abc import Sequence
from functools import partial

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import AvgPool, MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme

# Filters of each module, in the order of the arguments of `inception`.
STAGE_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
STAGE_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
STAGE_5 = ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


def googlenet(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
    auxiliary: Sequence[float] = (),
    dropout: float | None = None,
    auxiliary_dropout: float | None = None,
) -> Network:
    """Three convolutions, nine Inception modules in stages of 2, 5 and 2, the mean over the map, a dense head.

    It has 6,990,272 weights at width 1 and 1000 classes. As in Caffe, a pooling of stride 2 also covers the last row and
    column of an image of even size. Batch normalization takes the place of local response normalization.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on all filters and units.
        input_shape: (H, W, C) of one image, at least 31 x 31.
        auxiliary: weights of the losses of the two auxiliary heads, after modules 4a and 4d; the paper has (0.3, 0.3). Only
            training uses the heads (`Network.with_auxiliary`), and they need images of at least 79 x 79. (): no such heads.
        dropout: the rate at which training drops inputs of the last dense layer; the paper has 0.4. None: as the scheme
            says.
        auxiliary_dropout: the same in the auxiliary heads; only with `auxiliary`. The paper has 0.7.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: input_shape is not (H, W, C), its images are too small, num_classes is not a positive integer, width
            is not positive, auxiliary has neither 0 nor 2 weights, a dropout is not a rate from 0 to below 1, or
            auxiliary_dropout is given without auxiliary.

    Source: arXiv:1409.4842 table 1; section 5 for the auxiliary heads.

    Example:
        >>> import functools, bnn_jax as bnn
        >>> model = functools.partial(  # what `training.Config` takes
        ...     bnn.models.googlenet, 1000, scheme=bnn.XNOR, auxiliary=(0.3, 0.3), dropout=0.4, auxiliary_dropout=0.7
        ... )
    """
    if auxiliary_dropout is not None and len(auxiliary) == 0:
        raise ValueError(
            f'auxiliary_dropout: got {auxiliary_dropout!r} without auxiliary heads, expected None; or give auxiliary, such as '
            '(0.3, 0.3)'
        )
    if len(auxiliary) not in (0, 2):
        raise ValueError(
            f'auxiliary: got {auxiliary!r}, expected the weights of two losses, or () for no auxiliary heads'
        )
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    # Caffe rounds the size after a pooling up. One row and one column of padding at the end have the same effect.
    pool = MaxPool(Window.of(3, 2, ((0, 1), (0, 1))))
    builder.conv(64, 7, strides=2, padding=3, pool=pool)
    builder.conv(64, 1)
    builder.conv(192, 3, padding=1, pool=pool)
    for filters in STAGE_3:
        inception(builder, *filters)
    builder.pool(pool)
    # The auxiliary heads come after the first and the fourth module of this stage.
    weights = dict(zip((0, 3), auxiliary, strict=False))
    for module, filters in enumerate(STAGE_4):
        inception(builder, *filters)
        if module in weights:
            builder.auxiliary(weights[module], num_classes, _auxiliary_body, dropout=auxiliary_dropout)
    builder.pool(pool)
    for filters in STAGE_5:
        inception(builder, *filters)
    return builder.network(num_classes, average=True, dropout=dropout)


def inception(
    builder: NetworkBuilder, one: int, before_3: int, three: int, before_5: int, five: int, pooled: int
) -> None:
    """Adds an Inception module: four branches, concatenated along the channels.

    The branches: a 1x1 convolution; 1x1, then 3x3; 1x1, then 5x5; 3x3 max pooling, then 1x1.

    Args:
        builder: the network so far; the module is added to it.
        one: filters of the 1x1 branch.
        before_3: filters of the 1x1 convolution before the 3x3 one.
        three: filters of the 3x3 convolution.
        before_5: filters of the 1x1 convolution before the 5x5 one.
        five: filters of the 5x5 convolution.
        pooled: filters of the 1x1 convolution after the pooling.
    """
    builder.branches(
        partial(_convs, filters=((one, 1),)),
        partial(_convs, filters=((before_3, 1), (three, 3))),
        partial(_convs, filters=((before_5, 1), (five, 5))),
        partial(_pooled, filters=pooled),
    )


def _convs(builder: NetworkBuilder, filters: Sequence[tuple[int, int]]) -> None:
    for count, size in filters:
        builder.conv(count, size, padding=size // 2)


def _pooled(builder: NetworkBuilder, filters: int) -> None:
    builder.pool(MaxPool(Window.of(3, 1, ((1, 1), (1, 1)))))
    builder.conv(filters, 1)


def _auxiliary_body(builder: NetworkBuilder) -> None:
    builder.pool(AvgPool(Window.of(5, 3)))
    builder.conv(128, 1)
    builder.dense(1024)
