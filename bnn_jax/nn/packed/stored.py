"""The common part of packed products: channels, checks of their tensors, shapes, a row in a report."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from bnn_jax.files.bounds import Size
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed_layer import PackedLayer, named_in_files, packed_layer
from bnn_jax.nn.report import Row
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.shapes import Shape

# The largest number of signs in a sum. Float32 holds every integer up to this one.
MOST_TERMS = 2**24


@packed_layer(None)
class PackedOperation(PackedLayer):
    """The base class of packed products, with their static fields."""

    # The operation, and its channels.
    operation: Convolution | Dense = named_in_files('product')
    in_features: Size = named_in_files('into')
    out_features: Size = named_in_files('out')

    def maps(self, shape: Shape) -> Iterator[Shape]:
        yield from self.operation.maps(shape, self.in_features, self.out_features)


def expect(layer: Any, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Raises ValueError unless the layer's tensor of this name has this shape and dtype."""
    array = getattr(layer, name)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f'{type(layer).__name__}.{name}: got {array.dtype}{list(array.shape)}, '
            f'expected {np.dtype(dtype)}{list(shape)}'
        )


def expect_bits(layer: Any) -> None:
    """Raises ValueError if words, scale or bias do not fit the layer, tail bits are set, or sums are not exact."""
    terms = math.prod(layer.operation.kernel_shape(layer.in_features, layer.out_features)[:-1])
    if terms > MOST_TERMS:
        raise ValueError(f'{type(layer).__name__}: got a sum of {terms:,} signs, expected at most {MOST_TERMS:,}')
    expect(layer, 'words', layer.operation.words_shape(layer.in_features, layer.out_features), np.uint32)
    signs = layer.operation.signs_in_words(layer.in_features, layer.out_features)
    used = signs - WORD_BITS * (words_for(signs) - 1)
    last = np.take(np.asarray(layer.words), -1, axis=layer.operation.words_axis())
    if used < WORD_BITS and np.any(last >> np.uint32(used)):
        raise ValueError(f'{type(layer).__name__}.words: bits beyond sign {signs} are set, expected 0')
    for name in ('scale', 'bias'):
        if getattr(layer, name) is not None:
            expect(layer, name, (layer.out_features,), np.float32)


def product_row(layer: Any, path: str, became: str, reason: str) -> Row:
    """The row of a product in a report."""
    shape = 'x'.join(map(str, layer.operation.kernel_shape(layer.in_features, layer.out_features)))
    return Row(path, became, layer.stored_bytes(), f'{type(layer.operation).__name__} {shape}: {reason}')
