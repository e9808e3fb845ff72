"""A conv or dense layer and its optional neighbors, which the scheme's order arranges into a block."""

import dataclasses
import math

from flax import nnx

from bnn_jax.nn.containers import Residual, Sequential
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import AvgPool, Flatten, HardTanh, LeakyRelu, MaxPool, PadChannels, Relu
from bnn_jax.ops.windows import Window
from bnn_jax.schemes.dropout import ProductInput, elements
from bnn_jax.schemes.ordering import arrange
from bnn_jax.schemes.scheme import Scheme

RELU = Relu()


@dataclasses.dataclass(frozen=True)
class Part:
    """Makes the layers of one product and its neighbors. It implements `schemes.ordering.Parts`.

    Args:
        operation: the product.
        shape: the shape of the input, (H, W, C) or (C,).
        out_features: channels of the output.
        scheme: the scheme of the product.
        rngs: random keys for the initial weights.
        pooling: the pooling of the block, one layer or none.
        use_bias: whether the product has a bias even if the scheme gives it none.
        activation: the layer for `relu`.
        pooled: whether the input comes from a pooling.
    """

    operation: Convolution | Dense
    shape: tuple[int, ...]
    out_features: int
    scheme: Scheme
    rngs: nnx.Rngs
    pooling: tuple = ()
    use_bias: bool = False
    activation: Relu | LeakyRelu = RELU
    pooled: bool = False

    def product(self) -> list:
        """The product. If it is dense and its input is an image, a `Flatten` comes first."""
        dense = isinstance(self.operation, Dense)
        # After the first dense layer the shape is (C,) already.
        flatten: list = [Flatten()] if dense and len(self.shape) == 3 else []
        drop = self.scheme.drops(ProductInput(self.shape, dense, self.pooled)) if self.scheme.dropout > 0 else None
        in_features = self.shape[-1]
        if flatten:
            in_features *= self.shape[0] * self.shape[1]
        layer = Product(
            self.operation,
            in_features,
            self.out_features,
            scheme=self.scheme,
            use_bias=self.use_bias or self.scheme.bias,
            dropout=0.0 if drop is None else self.scheme.dropout,
            drop=drop or elements,
            rngs=self.rngs,
        )
        return [*flatten, layer]

    def norm_in(self) -> list:
        """The normalization of the input channels."""
        return [Norm(self.shape[-1], scheme=self.scheme, rngs=self.rngs)]

    def feature_norm_in(self) -> list:
        """The normalization of each feature of a dense layer's flattened input; for a convolution, `norm_in`."""
        # In a convolutional block the features are the channels.
        if not isinstance(self.operation, Dense):
            return self.norm_in()
        return [Flatten(), Norm(math.prod(self.shape), scheme=self.scheme, rngs=self.rngs)]

    def norm_out(self) -> list:
        """The normalization of the output channels."""
        return [Norm(self.out_features, scheme=self.scheme, rngs=self.rngs)]

    def relu(self) -> list:
        """The activation of the architecture."""
        return [self.activation]

    def hard_tanh(self) -> list:
        """The layer that clips values to [-1, 1]."""
        return [HardTanh()]

    def pool(self) -> list:
        """The pooling of the block."""
        return list(self.pooling)

    def subsample(self) -> list:
        """The layer that picks every stride-th pixel; none at stride 1."""
        strides = self.window.strides
        # The maximum over one pixel is the pixel itself.
        return [] if strides == (1, 1) else [MaxPool(Window.of(1, strides))]

    def pad_channels(self) -> list:
        """The layer that pads the channels to `out_features`, with zeros on both sides.

        Raises ValueError if the input has more channels.
        """
        more = self.out_features - self.shape[-1]
        if more < 0:
            raise ValueError(
                f'pad_channels: got {self.shape[-1]} channels, expected at most the {self.out_features} of the block'
            )
        return [PadChannels(more // 2, more - more // 2)] if more else []

    def average(self) -> list:
        """The layer that averages stride x stride pixels. It averages the last row and column of an odd image with zeros."""
        strides = self.window.strides
        return [] if strides == (1, 1) else [AvgPool(Window.of(strides, strides, 'SAME'))]

    def unstrided(self) -> 'Part':
        """The same part with stride 1."""
        window = dataclasses.replace(self.window, strides=(1, 1))
        return dataclasses.replace(self, operation=dataclasses.replace(self.operation, window=window))

    def around(self, body: list) -> list:
        """The body with a shortcut around it: the identity, or `scheme.downsample` if the body changes the shape."""
        shortcut = []
        if self.shape != self.after:
            # A 1x1 convolution with the stride of the block, as in the sources.
            operation = Convolution(Window.of(1, self.window.strides))
            part = dataclasses.replace(self, operation=operation, scheme=self.scheme.shortcut(self.scheme))
            shortcut = arrange(self.scheme.downsample, part)
        return [Residual(Sequential(body), Sequential(shortcut))]

    @property
    def window(self) -> Window:
        """The window of a convolution."""
        assert isinstance(self.operation, Convolution)
        return self.operation.window

    @property
    def after(self) -> tuple[int, ...]:
        """The output shape of the block."""
        if isinstance(self.operation, Dense):
            return (self.out_features,)
        height, width = self.shape[:2]
        # The library's chains multiply before they pool. In a chain that pools first, an odd image may get another size.
        for window in (self.window, *(pool.window for pool in self.pooling)):
            height, width = window.output_size(height, width)
        return height, width, self.out_features
