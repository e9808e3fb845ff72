"""Builds networks block by block and keeps track of the shape, so that an architecture reads like the table in its paper."""

import copy
import dataclasses
import operator
from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx

from bnn_jax.nn.containers import Auxiliary, Branches, Network, Sequential
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.part import RELU, Part
from bnn_jax.nn.stateless import AvgPool, GlobalAveragePool, LeakyRelu, MaxPool, Relu
from bnn_jax.ops.windows import Padding, Window
from bnn_jax.schemes.dropout import everywhere
from bnn_jax.schemes.ordering import arrange
from bnn_jax.schemes.scheme import Scheme

Pool = MaxPool | AvgPool


class NetworkBuilder:
    """A network under construction: its layers so far, and the shape of their output, (H, W, C) or (C,).

    Args:
        input_shape: the shape of one image, (H, W, C).
        scheme: the scheme of the network; it orders the layers of each block.
        width: a factor on the number of filters of convolutions and of units of dense layers, except in the head.
        rngs: random keys for the initial weights.
        activation: the layer for `relu` in the scheme's orders.

    Raises:
        TypeError: scheme is not a Scheme, or rngs is not `nnx.Rngs`.
        ValueError: input_shape is not three positive integers, or width is not positive.

    Example:
        >>> import bnn_jax as bnn
        >>> from flax import nnx
        >>> builder = bnn.nn.NetworkBuilder((8, 8, 3), scheme=bnn.XNOR, width=0.5, rngs=nnx.Rngs(0))
        >>> builder.conv(16, 3, strides=2, padding=1)
        >>> builder.shape
        (4, 4, 8)
        >>> [type(layer).__name__ for layer in builder.layers]
        ['Product', 'Norm', 'Relu']
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
        try:
            shape = tuple(operator.index(extent) for extent in input_shape)
        except TypeError:
            shape = ()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(
                f'input_shape: got {input_shape!r}, expected (height, width, channels), three positive integers'
            )
        if not width > 0:
            raise ValueError(f'width: got {width!r}, expected a positive factor for the number of filters')
        self.layers, self.shape, self.channels = [], shape, shape[-1]
        # Whether the last layer so far is a pooling. The scheme's dropout may depend on this.
        self.pooled = False
        # The scheme of the next block that `conv` or `dense` adds.
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
        """Adds a convolution block in the scheme's order.

        The first block that `conv` or `dense` adds has the scheme `scheme.first(scheme)`.

        Args:
            filters: the number of filters at width 1.
            size: the size of the square window.
            strides: the strides of the convolution.
            padding: an integer for all four sides, or as in `Window.of`.
            pool: the pooling of the block; None: no pooling.
            dilation: the dilation of the window.
            groups: the number of groups of channels.
        """
        part = self._conv_part(self.chain_scheme, self.shape, filters, size, strides, padding, pool, dilation, groups)
        self._chain(part)

    def dense(self, features: int) -> None:
        """Adds a dense block in the scheme's order, on the flattened input. features: the number of outputs at width 1."""
        self._chain(self._part(Dense(), self.shape, self.scaled(features), self.chain_scheme))

    def pool(self, pool: Pool) -> None:
        """Adds a pooling that belongs to no block."""
        self.layers.append(pool)
        self.shape, self.pooled = (*pool.window.output_size(*self.shape[:2]), self.shape[-1]), True

    def branches(self, *builds: Callable[['NetworkBuilder'], None]) -> None:
        """Adds several chains on one input. Their outputs are concatenated along the channels.

        Args:
            builds: functions; each adds the layers of one chain to the builder that it gets.

        Raises:
            ValueError: the outputs have different sizes, or a chain has an auxiliary head.
        """
        builders = [self._fork() for _ in builds]
        for build, builder in zip(builds, builders, strict=True):
            build(builder)
            if any(isinstance(layer, Auxiliary) for layer in builder.layers):
                raise ValueError('branches: got an auxiliary head inside a branch, expected it on the main path')
        # If a branch has a block, the next block is not the first one of the network.
        if any(builder.chain_scheme is self.scheme for builder in builders):
            self.chain_scheme = self.scheme
        # Outputs are concatenated along the channels, so height and width must agree.
        sizes = {builder.shape[:-1] for builder in builders}
        if len(sizes) != 1:
            raise ValueError(f'branches: got outputs of sizes {sorted(sizes)}, expected one size for all branches')
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
        """Adds a head that only training uses, on the output so far: the layers of `build`, then a dense head.

        Args:
            weight: the weight of the head's loss.
            num_classes: the number of the head's logits.
            build: a function that adds layers to the builder it gets.
            dropout: as in `network`.
        """
        builder = self._fork()
        build(builder)
        self.layers.append(Auxiliary(builder.network(num_classes, dropout=dropout).body, weight))

    def residual(self, filters: int, *, strides: int = 1) -> None:
        """Adds two 3x3 convolutions and their shortcuts, in the orders `scheme.residual` and `scheme.downsample`."""
        first = self._conv_part(self.scheme, self.shape, filters, 3, strides, 1, None)
        second = dataclasses.replace(self._conv_part(self.scheme, first.after, filters, 3, 1, 1, None), pooled=False)
        self.layers += self.scheme.residual(first, second)
        self.shape, self.pooled = second.after, False

    def network(self, num_classes: int, *, average: bool = False, dropout: float | None = None) -> Network:
        """Completes the network with a dense head.

        Args:
            num_classes: the number of logits.
            average: whether the mean over height and width is taken before the last product.
            dropout: the rate at which elements of the last product's input are dropped; None: as the scheme says.

        Returns:
            The network of all layers.

        Raises:
            ValueError: num_classes is not a positive integer.
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
        """Completes the network with a 1x1 convolution to the logits and the mean over height and width.

        The activation follows a real last convolution, as in network in network and Darknet's Extraction, unless the
        scheme's head has it already. After a binary last convolution, no activation is added.

        Args:
            num_classes: the number of logits.

        Returns:
            The network of all layers.

        Raises:
            ValueError: num_classes is not a positive integer.
        """
        part = self._head_part(Convolution(Window.of(1)), self.shape, num_classes)
        head = arrange(self.scheme.head, part)
        # Some heads have a ReLU before the product. A second one after it would set all logits of many images to 0, and the
        # network would learn nothing from these images.
        rectified = part.relu() if _is_real(part.scheme) and part.activation not in head else []
        layers = [*self.layers, *head, *rectified, GlobalAveragePool()]
        return Network(layers, channels=self.channels, num_classes=part.out_features)

    def _fork(self) -> 'NetworkBuilder':
        """A builder without layers that begins with the shape and the scheme of this one."""
        builder = copy.copy(self)
        builder.layers = []
        return builder

    def _chain(self, part: Part) -> None:
        # Only the first block has the scheme `first`; all others have the scheme of the network.
        self.layers += arrange(part.scheme.chain, part)
        self.shape, self.chain_scheme, self.pooled = part.after, self.scheme, bool(part.pooling)

    def _head_part(self, product, shape: tuple[int, ...], num_classes: int, pooling: tuple = ()) -> Part:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer) or num_classes < 1:
            raise ValueError(f'num_classes: got {num_classes!r}, expected a positive integer')
        last = self.scheme.last(self.scheme)
        # A real last layer has a bias even if the scheme gives its products none.
        return self._part(product, shape, int(num_classes), last, pooling, use_bias=_is_real(last))

    def _part(self, product, shape: tuple[int, ...], out: int, scheme: Scheme, pooling: tuple = (), use_bias=False):
        return Part(product, shape, out, scheme, self.rngs, pooling, use_bias, self.activation, self.pooled)

    def _conv_part(self, scheme, shape, filters, size, strides, padding, pool, dilation=1, groups=1) -> Part:
        if isinstance(padding, int | np.integer):
            padding = ((int(padding),) * 2,) * 2
        operation = Convolution(Window.of(size, strides, padding, dilation), groups=groups)
        return self._part(operation, shape, self.scaled(filters), scheme, () if pool is None else (pool,))


def _is_real(scheme: Scheme) -> bool:
    """Whether neither weights nor input are binary."""
    return scheme.weight is None and scheme.activation is None
