"""The layers in packed arithmetic: weights as bits, signs multiplied by XNOR and popcount. Made by `convert` and `load`.

Each layer is a frozen dataclass and a pytree: fields marked `tensor()` hold what a file stores, `derived()` what is
computed from it once, when the layer is made; all other fields are static. Layers hash and compare by identity.
"""

import dataclasses
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.inference.report import Report, Row
from bnn_jax.kernels import packed_signs
from bnn_jax.nn.containers import check_images, nan_unless_finite
from bnn_jax.nn.layers import AvgPool, Flatten, GlobalAveragePool, LeakyRelu, MaxPool, Relu, epilogue, scaled
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.deterministic import normalize, rounded
from bnn_jax.ops.signs import Signs


def tensor() -> Any:
    """A field that a file stores."""
    return dataclasses.field(metadata={'role': 'tensor'})


def derived(*, init: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field computed from the others when a layer is made, or once the network is there; no file stores it."""
    return dataclasses.field(init=init, default=default, metadata={'role': 'derived'})


def decided(*, default: Any) -> Any:
    """A static field that is decided once the network is there; no file stores it."""
    return dataclasses.field(default=default, metadata={'role': 'decided'})


def child() -> Any:
    """A field that holds a layer, or a tuple of layers."""
    return dataclasses.field(metadata={'role': 'child'})


def role(field: dataclasses.Field) -> str:
    """'tensor', 'derived', 'decided', 'child' or 'static'."""
    return field.metadata.get('role', 'static')


@dataclass_transform(frozen_default=True, field_specifiers=(tensor, derived, decided, child))
def packed_layer(cls):
    """Class decorator: a frozen dataclass, compared by identity, registered as a pytree."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    static = [f.name for f in dataclasses.fields(cls) if role(f) in ('static', 'decided')]
    arrays = [f.name for f in dataclasses.fields(cls) if f.name not in static]

    def flatten(layer):
        children = [(jax.tree_util.GetAttrKey(name), getattr(layer, name)) for name in arrays]
        return children, tuple(getattr(layer, name) for name in static)

    def unflatten(values, children):
        layer = object.__new__(cls)  # Without __init__: nothing is checked or computed again inside a trace.
        for name, value in zip([*static, *arrays], [*values, *children], strict=True):
            object.__setattr__(layer, name, value)
        return layer

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def _expect(layer, name: str, shape: tuple[int, ...], dtype) -> None:
    array = getattr(layer, name)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f'{type(layer).__name__}.{name}: got {array.dtype}{list(array.shape)}, '
            f'expected {np.dtype(dtype)}{list(shape)}'
        )


def _expect_bits(layer) -> None:
    """Words, scale and bias of a layer with binary weights: shapes, dtypes, and unused bits of the last word 0."""
    _expect(layer, 'words', layer.product.words_shape(layer.into, layer.out), np.uint32)
    channels = layer.product.signs_in_words(layer.into, layer.out)
    used = channels - WORD_BITS * (words_for(channels) - 1)
    last = np.take(np.asarray(layer.words), -1, axis=layer.product.words_axis())
    if used < WORD_BITS and np.any(last >> np.uint32(used)):
        raise ValueError(f'{type(layer).__name__}.words: bits beyond channel {channels} are set, expected 0')
    for name in ('scale', 'bias'):
        if getattr(layer, name) is not None:
            _expect(layer, name, (layer.out,), np.float32)


@packed_layer
class PackedProduct:
    """Binary weights, binary input: signs packed, XNOR and popcount, then the epilogue of training.

    words: the signs, in `product.words_shape`. scale: alpha (out,) or None. bias: (out,) or None. use_k: whether K of
    the input multiplies the product.
    """

    product: Convolution | Dense
    into: int
    out: int
    use_k: bool
    words: jax.Array = tensor()
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    border: jax.Array | None = derived()

    def __post_init__(self):
        _expect_bits(self)
        object.__setattr__(self, 'border', self.product.border(self.words, self.into))

    def __call__(self, x: jax.Array | Signs) -> jax.Array:
        y = self.integers(x).astype(jnp.float32)
        k = None
        if self.use_k:
            assert not isinstance(x, Signs), 'K needs the map itself'
            k = self.product.input_scale(x)
        return epilogue(scaled(y, self.scale), k, self.bias)

    def integers(self, x: jax.Array | Signs) -> jax.Array:
        """The product of signs alone, int32; of a real map they are taken and packed first."""
        return self.product.packed(self._x_words(x), self.words, self.into, self.border)

    def signs(self, x: jax.Array | Signs, thresholds: jax.Array, flip: jax.Array) -> Signs:
        """Where the integers lie: -1 below their channel's threshold, the other way round where flip has a set bit."""
        words = self.product.packed_signs(self._x_words(x), self.words, self.into, self.border, thresholds, flip)
        return Signs(words, self.out)

    def _x_words(self, x: jax.Array | Signs) -> jax.Array:
        self.product.check(x, self.into)
        return x.words if isinstance(x, Signs) else packed_signs(x)


@packed_layer
class UnpackedProduct:
    """Binary weights, real input (BinaryConnect, BWN): stored as bits, unpacked for a float product.

    in_order: whether the sums go in the order of training, so that a sign that reads them is training's: the first layer of
    a network with binary inputs. Else they are faster, and their floats never exist as a whole: tile by tile.
    """

    product: Convolution | Dense
    into: int
    out: int
    words: jax.Array = tensor()
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    in_order: bool = decided(default=True)

    def __post_init__(self):
        _expect_bits(self)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.product.check(x, self.into)
        if self.in_order:
            y = self.product(x, self.product.unpack_kernel(self.words, self.into))
        else:
            y = self.product.signed(x, self.words)
        return epilogue(scaled(y, self.scale), None, self.bias)


@packed_layer
class FloatProduct:
    """Real weights, real input: kept in float32 as trained."""

    product: Convolution | Dense
    into: int
    out: int
    kernel: jax.Array = tensor()
    bias: jax.Array | None = tensor()

    def __post_init__(self):
        _expect(self, 'kernel', self.product.kernel_shape(self.into, self.out), np.float32)
        if self.bias is not None:
            _expect(self, 'bias', (self.out,), np.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.product.check(x, self.into)
        return epilogue(rounded(self.product(x, self.kernel)), None, self.bias)


@packed_layer
class PackedNorm:
    """Batch normalisation as two numbers a channel, (2, C): see `exact.norm_coefficients`."""

    channels: int
    coefficients: jax.Array = tensor()

    def __post_init__(self):
        _expect(self, 'coefficients', (2, self.channels), np.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalize(x, self.coefficients)

    def signs(self, x: jax.Array) -> Signs:
        """The signs of what it gives, for a product that reads no more. Raises ValueError for other channels than its own."""
        return Signs(packed_signs(x, self.coefficients), self.channels)


@packed_layer
class Chain:
    """Layers one after the other. runs: what is done on integers and bits instead, in order (`thresholds.Run`)."""

    layers: tuple = child()
    runs: tuple = derived(init=True, default=())

    def __call__(self, x: jax.Array) -> jax.Array:
        done = 0
        for run in self.runs:
            x = run(self.layers, self._through(done, run.start, x))
            done = run.stop
        return self._through(done, len(self.layers), x)

    def _through(self, start: int, stop: int, x: Any) -> Any:
        for layer, following in zip(self.layers[start:stop], (*self.layers, None)[start + 1 : stop + 1], strict=True):
            only_signs = isinstance(following, PackedProduct) and not following.use_k
            x = layer.signs(x) if only_signs and isinstance(layer, PackedNorm) else layer(x)
        return x


@packed_layer
class Sum:
    """body(x) + shortcut(x)."""

    body: Chain = child()
    shortcut: Chain = child()

    def __call__(self, x: jax.Array) -> jax.Array:
        return rounded(self.body(x)) + rounded(self.shortcut(x))


@packed_layer
class Concat:
    """What several chains make of one input, side by side: their channels concatenated."""

    branches: tuple = child()

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([branch(x) for branch in self.branches], axis=-1)


@packed_layer
class Stateless:
    """A layer without parameters, the same in both arithmetics: ReLU, pooling, flattening."""

    function: Relu | LeakyRelu | MaxPool | AvgPool | GlobalAveragePool | Flatten

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


@packed_layer
class PackedNetwork:
    """A converted network: images (N, H, W, channels), floating, to logits (N, num_classes) float32.

    A callable, a pytree, hashable by identity: `jax.jit(packed)` and `jax.jit(lambda p, x: p(x))` both work. An image
    that is not finite gives logits NaN. `report` says what each layer became. For inference: no gradient is defined.
    Raises TypeError for images of a dtype that is not floating, ValueError for another rank or number of channels.
    """

    channels: int
    num_classes: int
    body: Chain = child()

    def __call__(self, images) -> jax.Array:
        images = check_images(images, self.channels).astype(jnp.float32)
        return nan_unless_finite(self.body(images), images)

    @property
    def report(self) -> Report:
        """What each layer became, in how many bytes, and why the others stayed float."""
        return Report(tuple(_rows(self.body, '')))


_BECAME = {
    PackedProduct: ('xnor + popcount', 'binary weights, binary input'),
    UnpackedProduct: (
        '1-bit storage, float product',
        'its input is real: the weights are unpacked for a float product',
    ),
    FloatProduct: ('float32', 'its weights are real: the scheme keeps this layer in float'),
    PackedNorm: ('float32, 2 numbers a channel', 'statistics and affine parameters folded together'),
}


def _rows(layer, path: str):
    if isinstance(layer, Chain):
        runs = {i: run for run in layer.runs for i in range(run.start, run.stop)}
        for i, inner in enumerate(layer.layers):
            rows = _rows(inner, f'{path}{i}')
            yield from (runs[i].row(inner, row) for row in rows) if i in runs else rows
    elif isinstance(layer, Sum):
        yield from _rows(layer.body, f'{path}.body.')
        yield from _rows(layer.shortcut, f'{path}.shortcut.')
    elif isinstance(layer, Concat):
        for i, branch in enumerate(layer.branches):
            yield from _rows(branch, f'{path}.branch{i}.')
    elif isinstance(layer, Stateless):
        yield Row(path, 'float32, no parameters', 0, type(layer.function).__name__)
    else:
        became, reason = _BECAME[type(layer)]
        if isinstance(layer, PackedProduct | UnpackedProduct | FloatProduct):
            shape = 'x'.join(map(str, layer.product.kernel_shape(layer.into, layer.out)))
            reason = f'{type(layer.product).__name__} {shape}: {reason}'
        yield Row(path, became, stored_bytes(layer), reason)


def stored_bytes(layer) -> int:
    """Bytes of a layer's own stored tensors."""
    stored = (getattr(layer, f.name) for f in dataclasses.fields(layer) if role(f) == 'tensor')
    return sum(array.size * array.dtype.itemsize for array in stored if array is not None)
