"""The base class of writers, which go through the layers of a packed network and write them in another language."""

import abc
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Float32

from bnn_jax.nn.layer import KeptModule, Unchanged
from bnn_jax.nn.packed import (
    FloatProduct,
    PackedBranches,
    PackedNorm,
    PackedProduct,
    PackedResidual,
    PackedSequential,
    UnpackedProduct,
)
from bnn_jax.nn.prelu import PRelu
from bnn_jax.nn.stateless import (
    AvgPool,
    Flatten,
    GlobalAveragePool,
    HardTanh,
    LeakyRelu,
    MaxPool,
    PadChannels,
    Relu,
)
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.ops.windows import Window

Value = TypeVar('Value')
"""What a writer knows of a map in the program: its place or name, and its shape."""


def signs_of(layer: PackedProduct | UnpackedProduct) -> Float32[np.ndarray, '*kernel']:
    """The signs of a layer's weights, (kh, kw, in / groups, out), or (in, out) for a dense product.

    Args:
        layer: a layer with weights in bits.
    """
    options = {'operation': layer.operation, 'in_features': layer.in_features}
    return np.asarray(uncompiled(_unpacked, layer.words, **options)(layer.words))


@partial(jax.jit, static_argnames=('operation', 'in_features'))
def _unpacked(words: jax.Array, operation: Any, in_features: int) -> jax.Array:
    return operation.unpack_kernel(words, in_features)


class LayerWriter(abc.ABC, Generic[Value]):
    """Writes the layers of a packed network.

    Each kind of layer of this library has a method. The method writes the layer applied to x, and returns the result.
    """

    # The name of what is written, for errors.
    language: ClassVar[str]

    def layer(self, layer: Any, x: Value) -> Value:
        """Write a layer. Raises ValueError for a layer of a user's own or of a float twin."""
        match layer:
            case PackedSequential():
                return self.chain(layer, x)
            case PackedResidual():
                return self.residual(layer, x)
            case PackedBranches():
                return self.branches(layer, x)
            case PackedProduct():
                return self.packed_product(layer, x)
            case UnpackedProduct():
                return self.unpacked_product(layer, x)
            case FloatProduct():
                return self.float_product(layer, x)
            case PackedNorm():
                return self.norm(np.asarray(layer.coefficients), x)
            case Unchanged():
                return self._function(layer.function, x)
            case KeptModule():
                return self._function(layer.module(), x)
        raise self._own(layer)

    def _function(self, function: Any, x: Value) -> Value:
        match function:
            case Relu():
                return self.relu(x)
            case HardTanh():
                return self.hard_tanh(x)
            case LeakyRelu():
                return self.slopes(np.asarray([function.slope], np.float32), x)
            case PRelu():
                return self.slopes(np.asarray(function.slope[...]), x)
            case MaxPool():
                return self.max_pool(function.window, x)
            case AvgPool():
                return self.avg_pool(function.window, x)
            case GlobalAveragePool():
                return self.global_average_pool(x)
            case Flatten():
                return self.flatten(x)
            case PadChannels():
                return self.pad_channels(function.before, function.after, x)
        raise self._own(function)

    def _own(self, layer: Any) -> ValueError:
        name = getattr(layer, '__name__', type(layer).__name__)
        return ValueError(
            f'no {self.language} is written for {name}, a layer of your own or of a float twin, expected what convert '
            'makes of layers of bnn_jax.nn; bnn_jax.interop.stablehlo exports any layer'
        )

    @abc.abstractmethod
    def chain(self, chain: PackedSequential, x: Value) -> Value:
        """Layers one after the other."""

    @abc.abstractmethod
    def residual(self, layer: PackedResidual, x: Value) -> Value:
        """The sum of a body and a shortcut."""

    @abc.abstractmethod
    def branches(self, layer: PackedBranches, x: Value) -> Value:
        """Several chains of one input, concatenated along the channels."""

    @abc.abstractmethod
    def packed_product(self, layer: PackedProduct, x: Value) -> Value:
        """A product of signs with signs."""

    @abc.abstractmethod
    def unpacked_product(self, layer: UnpackedProduct, x: Value) -> Value:
        """A product of real numbers with signs."""

    @abc.abstractmethod
    def float_product(self, layer: FloatProduct, x: Value) -> Value:
        """A product of real numbers."""

    @abc.abstractmethod
    def norm(self, coefficients: Float32[np.ndarray, '2 channels'], x: Value) -> Value:
        """`ops.normalize`: (x + second row) times the first row, or the second row alone where the first is 0."""

    @abc.abstractmethod
    def slopes(self, slopes: Float32[np.ndarray, ' n'], x: Value) -> Value:
        """x where x > 0, else slope times x, with one slope for all channels or one for each."""

    @abc.abstractmethod
    def relu(self, x: Value) -> Value:
        """max(x, 0)."""

    @abc.abstractmethod
    def hard_tanh(self, x: Value) -> Value:
        """x clipped to [-1, 1]."""

    @abc.abstractmethod
    def max_pool(self, window: Window, x: Value) -> Value:
        """The maximum of each window."""

    @abc.abstractmethod
    def avg_pool(self, window: Window, x: Value) -> Value:
        """The mean of each window, with zeros as padding."""

    @abc.abstractmethod
    def global_average_pool(self, x: Value) -> Value:
        """The mean over height and width."""

    @abc.abstractmethod
    def flatten(self, x: Value) -> Value:
        """A map as a vector."""

    @abc.abstractmethod
    def pad_channels(self, before: int, after: int, x: Value) -> Value:
        """x with channels of zeros before and after its own."""
