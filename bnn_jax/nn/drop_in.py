"""Binary layers that replace Flax's, with the same argument names."""

from collections.abc import Sequence

import numpy as np
from flax import nnx

from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.product import Product
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.schemes.scheme import Scheme


class Conv(Product):
    """A binary convolution with the argument names of `flax.nnx.Conv`, and a scheme.

    It works in any `nnx.Module`, and `bnn_jax.convert` replaces it by its packed twin. A call maps (N, H, W, in_features) to
    (N, H', W', out_features).

    Args:
        in_features: channels of the input.
        out_features: filters.
        kernel_size: the window: one integer for a square, or two integers.
        strides: one or two integers.
        padding: 'SAME', 'VALID', an integer for all sides, or ((top, bottom), (left, right)).
        kernel_dilation: one or two integers.
        feature_group_count: the number of groups of channels; each group has filters of its own.
        use_bias: whether a trained bias is added.
        scheme: says what is binary, and with which gradients. With `FLOAT` the layer is an ordinary convolution.
        rngs: random keys for the initial weights.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> layer = bnn.nn.Conv(3, 8, (3, 3), scheme=bnn.XNOR, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 5, 5, 3))).shape
        (1, 5, 5, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        padding: Padding | int = 'SAME',
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        scheme: Scheme,
        rngs: nnx.Rngs,
    ):
        # Flax takes one integer for all four sides, but `Window` does not.
        if isinstance(padding, int | np.integer):
            padding = ((padding, padding), (padding, padding))
        window = Window.of(kernel_size, strides, padding, kernel_dilation)
        operation = Convolution(window, groups=feature_group_count)
        super().__init__(operation, in_features, out_features, scheme=scheme, use_bias=use_bias, rngs=rngs)


class Linear(Product):
    """A binary dense layer with the argument names of `flax.nnx.Linear`, and a scheme.

    It works in any `nnx.Module`, and `bnn_jax.convert` replaces it by its packed twin. A call maps
    (N, ..., in_features) to (N, ..., out_features); unlike `nnx.Linear`, it needs the batch axis.

    Args:
        in_features: how many numbers the input has.
        out_features: how many numbers the output has.
        use_bias: whether a trained bias is added.
        scheme: says what is binary, and with which gradients. With `FLOAT` the layer is an ordinary dense layer.
        rngs: random keys for the initial weights.

    Example:
        >>> import jax.numpy as jnp, bnn_jax as bnn
        >>> from flax import nnx
        >>> bnn.nn.Linear(3, 8, scheme=bnn.XNOR, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3))).shape
        (2, 5, 8)
    """

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True, scheme: Scheme, rngs: nnx.Rngs):
        super().__init__(Dense(), in_features, out_features, scheme=scheme, use_bias=use_bias, rngs=rngs)
