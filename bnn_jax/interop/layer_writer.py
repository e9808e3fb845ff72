"""The layers of a packed network, one after the other, for those who write a program of another kind."""

import abc
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np

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
from bnn_jax.nn.stateless import (
    AvgPool,
    Flatten,
    GlobalAveragePool,
    HardTanh,
    LeakyRelu,
    MaxPool,
    PadChannels,
    PRelu,
    Relu,
)
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.ops.windows import Window

Value = TypeVar('Value')
"""What a writer knows of a map of the program: its place or name, its shape."""


def signs_of(layer: PackedProduct | UnpackedProduct) -> np.ndarray:
    """The signs of the weights: (kh, kw, in / groups, out), or (in, out) of a dense product."""
    options = {'operation': layer.operation, 'in_features': layer.in_features}
    return np.asarray(uncompiled(_unpacked, layer.words, **options)(layer.words))


@partial(jax.jit, static_argnames=('operation', 'in_features'))
def _unpacked(words: jax.Array, operation: Any, in_features: int) -> jax.Array:
    return operation.unpack_kernel(words, in_features)


class LayerWriter(abc.ABC, Generic[Value]):
    """A method for each kind of layer that `convert` makes: it takes a value, writes the layer, and gives a value."""

    # What is written, as errors name it.
    language: ClassVar[str]

    def layer(self, layer: Any, x: Value) -> Value:
        """Writes a layer. Raises ValueError for one of the user's own."""
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
        return ValueError(f'no {self.language} is written for {name}, a layer of your own')

    @abc.abstractmethod
    def chain(self, chain: PackedSequential, x: Value) -> Value: ...

    @abc.abstractmethod
    def residual(self, layer: PackedResidual, x: Value) -> Value: ...

    @abc.abstractmethod
    def branches(self, layer: PackedBranches, x: Value) -> Value: ...

    @abc.abstractmethod
    def packed_product(self, layer: PackedProduct, x: Value) -> Value: ...

    @abc.abstractmethod
    def unpacked_product(self, layer: UnpackedProduct, x: Value) -> Value: ...

    @abc.abstractmethod
    def float_product(self, layer: FloatProduct, x: Value) -> Value: ...

    @abc.abstractmethod
    def norm(self, coefficients: np.ndarray, x: Value) -> Value:
        """coefficients: (2, channels), scales and shifts."""

    @abc.abstractmethod
    def slopes(self, slopes: np.ndarray, x: Value) -> Value:
        """x where x > 0, else its slope times x; slopes: one, or one a channel."""

    @abc.abstractmethod
    def relu(self, x: Value) -> Value: ...

    @abc.abstractmethod
    def hard_tanh(self, x: Value) -> Value: ...

    @abc.abstractmethod
    def max_pool(self, window: Window, x: Value) -> Value: ...

    @abc.abstractmethod
    def avg_pool(self, window: Window, x: Value) -> Value: ...

    @abc.abstractmethod
    def global_average_pool(self, x: Value) -> Value: ...

    @abc.abstractmethod
    def flatten(self, x: Value) -> Value: ...

    @abc.abstractmethod
    def pad_channels(self, before: int, after: int, x: Value) -> Value: ...
