"""One product with all that may stand around it, unordered: what a scheme's order arranges into a block.

`Stack` builds a network block by block and keeps track of the shape, so that an architecture reads as its table.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from flax import nnx

from bnn_jax.layers import (
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Network,
    Norm,
    Product,
    Relu,
    Residual,
    Sequential,
)
from bnn_jax.products import Convolution, Dense
from bnn_jax.schemes import Scheme
from bnn_jax.windows import Padding, Window


@dataclasses.dataclass(frozen=True)
class Part:
    """Implements `schemes.Parts` for one product from `shape` (H, W, C), or (C,), to `out` channels."""

    product_kind: Convolution | Dense
    shape: tuple[int, ...]
    out: int
    scheme: Scheme
    rngs: nnx.Rngs
    pooling: tuple = ()
    use_bias: bool = False

    def product(self) -> list:
        flatten: list = [Flatten()] if isinstance(self.product_kind, Dense) and len(self.shape) == 3 else []
        into = self.shape[-1]
        if flatten:
            into *= self.shape[0] * self.shape[1]
        layer = Product(
            self.product_kind,
            into,
            self.out,
            scheme=self.scheme,
            use_bias=self.use_bias or self.scheme.bias,
            dropout=self.scheme.dropout if len(self.shape) == 1 else 0.0,
            rngs=self.rngs,
        )
        return [*flatten, layer]

    def norm_in(self) -> list:
        return [Norm(self.shape[-1], scheme=self.scheme, rngs=self.rngs)]

    def feature_norm_in(self) -> list:
        if not isinstance(self.product_kind, Dense):
            return self.norm_in()
        return [Flatten(), Norm(math.prod(self.shape), scheme=self.scheme, rngs=self.rngs)]

    def norm_out(self) -> list:
        return [Norm(self.out, scheme=self.scheme, rngs=self.rngs)]

    def relu(self) -> list:
        return [Relu()]

    def pool(self) -> list:
        return list(self.pooling)


class Stack:
    """A network under construction: its layers so far and the shape (H, W, C) or (C,) they give."""

    def __init__(self, input_shape: Sequence[int], *, scheme: Scheme, width: float, rngs: nnx.Rngs):
        if not isinstance(scheme, Scheme):
            raise TypeError(f'scheme: got {scheme!r}, expected a Scheme such as bnn_jax.XNOR')
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f'rngs: got {rngs!r}, expected flax.nnx.Rngs(seed)')
        shape = tuple(int(extent) for extent in input_shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f'input_shape: got {input_shape!r}, expected (height, width, channels), all positive')
        if not width > 0:
            raise ValueError(f'width: got {width!r}, expected a positive factor for the number of filters')
        self.layers, self.shape, self.channels = [], shape, shape[-1]
        self.scheme, self.width, self.rngs = scheme, width, rngs

    def scaled(self, filters: int) -> int:
        """The number of filters at this width."""
        return max(1, round(filters * self.width))

    def conv(
        self, filters: int, size: int, *, strides: int = 1, padding: Padding | int = 0, pool: MaxPool | None = None
    ) -> None:
        """A convolution block in the scheme's order; the first layer of the network is the scheme's `first`.

        padding: an integer for all four sides, or as `Window.of`. pool: what the scheme's order has as its pooling.
        """
        part = self._conv_part(self._chain_scheme(), self.shape, filters, size, strides, padding, pool)
        self.layers += part.scheme.chain(part)
        self.shape = self._after(part)

    def dense(self, features: int) -> None:
        """A dense block in the scheme's order, its input flattened."""
        scheme = self._chain_scheme()
        part = Part(Dense(), self.shape, self.scaled(features), scheme, self.rngs)
        self.layers += scheme.chain(part)
        self.shape = (part.out,)

    def residual(self, filters: int, *, strides: int = 1) -> None:
        """Two 3x3 convolutions round a shortcut: the identity, or a strided 1x1 convolution where the shape changes."""
        scheme = self.scheme
        first = self._conv_part(scheme, self.shape, filters, 3, strides, 1, None)
        between = self._after(first)
        second = self._conv_part(scheme, between, filters, 3, 1, 1, None)
        body, after = scheme.residual(first, second)
        shortcut = []
        if self.shape != between:
            part = self._conv_part(scheme.shortcut(scheme), self.shape, filters, 1, strides, 0, None)
            shortcut = [*part.product(), *part.norm_out()]
        self.layers += [Residual(Sequential(body), Sequential(shortcut)), *after]
        self.shape = between

    def network(self, num_classes: int, *, average: bool = False) -> Network:
        """The head, and the whole network. average: mean over height and width before the last product."""
        if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise ValueError(f'num_classes: got {num_classes!r}, expected a positive integer')
        last = self.scheme.last(self.scheme)
        norm_channels = self.shape[-1:] if average else self.shape
        pooling = (GlobalAveragePool(),) if average else ()
        # A real last layer has a bias; a binary one is followed by a normalisation.
        use_bias = last.weight is None
        part = Part(Dense(), norm_channels, num_classes, last, self.rngs, pooling, use_bias)
        self.layers += self.scheme.head(part)
        return Network(self.layers, channels=self.channels, num_classes=int(num_classes))

    def _chain_scheme(self) -> Scheme:
        return self.scheme if self.layers else self.scheme.first(self.scheme)

    def _conv_part(self, scheme, shape, filters, size, strides, padding, pool) -> Part:
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        product = Convolution(Window.of(size, strides, padding))
        return Part(product, shape, self.scaled(filters), scheme, self.rngs, () if pool is None else (pool,))

    def _after(self, part: Part) -> tuple[int, ...]:
        """The shape a convolution block gives."""
        assert isinstance(part.product_kind, Convolution)
        height, width = part.shape[:2]
        for window in (part.product_kind.window, *(pool.window for pool in part.pooling)):
            height, width = window.output_size(height, width)
        return height, width, part.out
