"""A conv or dense layer and its optional neighbors; the Scheme orders them into a block.

`NetworkBuilder` builds a network block by block and keeps track of the shape, so that an architecture reads as its table.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Branches, Network, Residual, Sequential
from bnn_jax.nn.norm import Norm
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.product import Product
from bnn_jax.nn.stateless import AvgPool, Flatten, GlobalAveragePool, HardTanh, LeakyRelu, MaxPool, PadChannels, Relu
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.schemes.dropout import ProductInput, elements, everywhere
from bnn_jax.schemes.orders import arrange
from bnn_jax.schemes.scheme import Scheme

Pool = MaxPool | AvgPool
RELU = Relu()


@dataclasses.dataclass(frozen=True)
class Part:
    """Implements `schemes.Parts` for one product from `shape` (H, W, C), or (C,), to `out_features` channels."""

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
        dense = isinstance(self.operation, Dense)
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
        return [Norm(self.shape[-1], scheme=self.scheme, rngs=self.rngs)]

    def feature_norm_in(self) -> list:
        if not isinstance(self.operation, Dense):
            return self.norm_in()
        return [Flatten(), Norm(math.prod(self.shape), scheme=self.scheme, rngs=self.rngs)]

    def norm_out(self) -> list:
        return [Norm(self.out_features, scheme=self.scheme, rngs=self.rngs)]

    def relu(self) -> list:
        return [self.activation]

    def hard_tanh(self) -> list:
        return [HardTanh()]

    def pool(self) -> list:
        return list(self.pooling)

    def subsample(self) -> list:
        strides = self.window.strides
        return [] if strides == (1, 1) else [MaxPool(Window.of(1, strides))]

    def pad_channels(self) -> list:
        more = self.out_features - self.shape[-1]
        if more < 0:
            raise ValueError(
                f'pad_channels: got {self.shape[-1]} channels, expected at most the {self.out_features} of the block'
            )
        return [PadChannels(more // 2, more - more // 2)] if more else []

    def average(self) -> list:
        """Over an odd image the last row and column are averaged with zeros, as `AvgPool` counts."""
        strides = self.window.strides
        return [] if strides == (1, 1) else [AvgPool(Window.of(strides, strides, 'SAME'))]

    def unstrided(self) -> 'Part':
        window = dataclasses.replace(self.window, strides=(1, 1))
        return dataclasses.replace(self, operation=dataclasses.replace(self.operation, window=window))

    def around(self, body: list) -> list:
        shortcut = []
        if self.shape != self.after:
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
        """The shape that a block of these parts gives."""
        if isinstance(self.operation, Dense):
            return (self.out_features,)
        height, width = self.shape[:2]
        for window in (self.window, *(pool.window for pool in self.pooling)):
            height, width = window.output_size(height, width)
        return height, width, self.out_features


class NetworkBuilder:
    """A network under construction: its layers so far and the shape (H, W, C) or (C,) they give.

    activation: what the architecture has where its scheme's order says ReLU. chain_scheme: the next block's, at the start
    the scheme's `first`. pooled: whether a pooling was the last of what there is.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        *,
        scheme: Scheme,
        width: float,
        rngs: nnx.Rngs,
        activation: Relu | LeakyRelu = RELU,
    ):
        if not isinstance(scheme, Scheme):
            raise TypeError(f'scheme: got {scheme!r}, expected a Scheme such as bnn_jax.XNOR')
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f'rngs: got {rngs!r}, expected flax.nnx.Rngs(seed)')
        shape = tuple(int(extent) for extent in input_shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f'input_shape: got {input_shape!r}, expected (height, width, channels), all positive')
        if not width > 0:
            raise ValueError(f'width: got {width!r}, expected a positive factor for the number of filters')
        self.layers, self.shape, self.channels, self.pooled = [], shape, shape[-1], False
        self.chain_scheme = scheme.first(scheme)
        self.scheme, self.width, self.rngs, self.activation = scheme, width, rngs, activation

    def scaled(self, filters: int) -> int:
        """The number of filters at this width."""
        return max(1, round(filters * self.width))

    def conv(
        self,
        filters: int,
        size: int,
        *,
        strides: int = 1,
        padding: Padding | int = 0,
        pool: Pool | None = None,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        """A convolution block in the scheme's order; the first layer of the network is the scheme's `first`.

        padding: an integer for all four sides, or as `Window.of`. pool: what the scheme's order has as its pooling.
        """
        part = self._conv_part(self.chain_scheme, self.shape, filters, size, strides, padding, pool, dilation, groups)
        self._chain(part)

    def dense(self, features: int) -> None:
        """A dense block in the scheme's order, its input flattened."""
        self._chain(self._part(Dense(), self.shape, self.scaled(features), self.chain_scheme))

    def pool(self, pool: Pool) -> None:
        """A pooling that belongs to no block."""
        self.layers.append(pool)
        self.shape, self.pooled = (*pool.window.output_size(*self.shape[:2]), self.shape[-1]), True

    def branches(self, *builds: Callable[['NetworkBuilder'], None]) -> None:
        """Several chains on one input, concatenated along the channels; each `build` adds the layers of one to a builder.

        Raises ValueError where they give images of different sizes.
        """
        builders = [self._fork() for _ in builds]
        for build, builder in zip(builds, builders, strict=True):
            build(builder)
            if any(isinstance(layer, Auxiliary) for layer in builder.layers):
                raise ValueError('branches: got an auxiliary head inside a branch, expected it on the main path')
        sizes = {builder.shape[:-1] for builder in builders}
        if len(sizes) != 1:
            raise ValueError(f'branches: got images of sizes {sorted(sizes)}, expected one size for all branches')
        self.layers.append(Branches([Sequential(builder.layers) for builder in builders]))
        self.shape, self.pooled = (*sizes.pop(), sum(builder.shape[-1] for builder in builders)), False

    def auxiliary(
        self,
        weight: float,
        num_classes: int,
        build: Callable[['NetworkBuilder'], None],
        *,
        dropout: float | None = None,
    ) -> None:
        """A head for training only, on what the network has made so far: what `build` adds, then a dense head.

        dropout: as in `network`.
        """
        builder = self._fork()
        build(builder)
        self.layers.append(Auxiliary(builder.network(num_classes, dropout=dropout).body, weight))

    def residual(self, filters: int, *, strides: int = 1) -> None:
        """Two 3x3 convolutions with the shortcuts of the scheme's order; `scheme.downsample` where the shape changes."""
        first = self._conv_part(self.scheme, self.shape, filters, 3, strides, 1, None)
        second = dataclasses.replace(self._conv_part(self.scheme, first.after, filters, 3, 1, 1, None), pooled=False)
        self.layers += self.scheme.residual(first, second)
        self.shape, self.pooled = second.after, False

    def network(self, num_classes: int, *, average: bool = False, dropout: float | None = None) -> Network:
        """A dense head, and the whole network. average: mean over height and width before the last product.

        dropout: the rate at which elements of the last product's input are dropped; None: as the scheme says.
        """
        norm_channels = self.shape[-1:] if average else self.shape
        part = self._head_part(Dense(), norm_channels, num_classes, (GlobalAveragePool(),) if average else ())
        if dropout is not None:
            scheme = dataclasses.replace(part.scheme, dropout=dropout, drops=everywhere)
            part = dataclasses.replace(part, scheme=scheme)
        return Network(
            [*self.layers, *arrange(self.scheme.head, part)], channels=self.channels, num_classes=part.out_features
        )

    def conv_network(self, num_classes: int) -> Network:
        """A head of one 1x1 convolution and the mean over height and width, and the whole network.

        A real last convolution is rectified before the mean, as in the sources, unless its input already is by the
        scheme's head; a binary one is normalized instead.
        """
        part = self._head_part(Convolution(Window.of(1)), self.shape, num_classes)
        head = arrange(self.scheme.head, part)
        # A second ReLU sets all logits of many images to 0, at which nothing is learned from them.
        rectified = part.relu() if _is_real(part.scheme) and part.activation not in head else []
        layers = [*self.layers, *head, *rectified, GlobalAveragePool()]
        return Network(layers, channels=self.channels, num_classes=part.out_features)

    def _fork(self) -> 'NetworkBuilder':
        """A builder that begins with what this one gives."""
        builder = copy.copy(self)
        builder.layers = []
        return builder

    def _chain(self, part: Part) -> None:
        self.layers += arrange(part.scheme.chain, part)
        self.shape, self.chain_scheme, self.pooled = part.after, self.scheme, bool(part.pooling)

    def _head_part(self, product, shape: tuple[int, ...], num_classes: int, pooling: tuple = ()) -> Part:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise ValueError(f'num_classes: got {num_classes!r}, expected a positive integer')
        last = self.scheme.last(self.scheme)
        # A real last layer has a bias; a binary one is followed by a normalization.
        return self._part(product, shape, int(num_classes), last, pooling, use_bias=_is_real(last))

    def _part(self, product, shape: tuple[int, ...], out: int, scheme: Scheme, pooling: tuple = (), use_bias=False):
        return Part(product, shape, out, scheme, self.rngs, pooling, use_bias, self.activation, self.pooled)

    def _conv_part(self, scheme, shape, filters, size, strides, padding, pool, dilation=1, groups=1) -> Part:
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        operation = Convolution(Window.of(size, strides, padding, dilation), groups=groups)
        return self._part(operation, shape, self.scaled(filters), scheme, () if pool is None else (pool,))


def _is_real(scheme: Scheme) -> bool:
    """Neither weights nor input binary: what a last layer is, where its scheme leaves it real."""
    return scheme.weight is None and scheme.activation is None
