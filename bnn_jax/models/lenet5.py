"""LeNet-5, as in the PyTorch implementation of XNOR-Net for MNIST."""

from collections.abc import Sequence

from flax import nnx

from bnn_jax.nn.builder import NetworkBuilder
from bnn_jax.nn.containers import Network
from bnn_jax.nn.stateless import MaxPool
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.scheme import Scheme


def lenet5(
    num_classes: int,
    *,
    scheme: Scheme,
    rngs: nnx.Rngs,
    width: float = 1.0,
    input_shape: Sequence[int] = (28, 28, 1),
) -> Network:
    """Two 5x5 convolutions of 20 and 50 filters, each followed by 2x2 pooling; a dense layer of 500; a dense head.

    Args:
        num_classes: the number of classes, and so of logits.
        scheme: how the layers are binarized, such as `bnn_jax.XNOR`.
        rngs: the random keys of the initial weights.
        width: a factor on 20, 50 and 500.
        input_shape: (H, W, C) of one image, at least 16 x 16.

    Returns:
        A network from images (N, H, W, C) to logits (N, num_classes).

    Raises:
        TypeError: scheme is not a `Scheme`, or rngs is not an `nnx.Rngs`.
        ValueError: input_shape is not (H, W, C), its images are too small, num_classes is not a positive integer, or
            width is not positive.

    Source: the PyTorch implementation of XNOR-Net (jiecaoyu/XNOR-Net-PyTorch).

    Example:
        >>> import jax, bnn_jax as bnn
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: bnn.models.lenet5(10, scheme=bnn.XNOR, rngs=nnx.Rngs(0)))  # shapes alone
        >>> sum(array.size for array in jax.tree.leaves(nnx.state(model, nnx.Param)))
        431690
    """
    builder = NetworkBuilder(input_shape, scheme=scheme, width=width, rngs=rngs)
    pool = MaxPool(Window.of(2, 2))
    builder.conv(20, 5, pool=pool)
    builder.conv(50, 5, pool=pool)
    builder.dense(500)
    return builder.network(num_classes)
