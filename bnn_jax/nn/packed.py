"""The layers in packed arithmetic: weights as bits, signs multiplied by XNOR and popcount. Made by `convert` and `load`.

Fields marked `tensor()` hold what a file stores, `derived()` what is computed from it once, when the layer is made; all
other fields are static.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.kernels import packed_signs
from bnn_jax.nn.epilogue import affine_sum, epilogue, scaled
from bnn_jax.nn.images import check_images, nan_unless_finite
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed_layer import PackedLayer, child, decided, derived, packed_layer, tensor
from bnn_jax.nn.report import Row
from bnn_jax.ops.bits import WORD_BITS, words_for
from bnn_jax.ops.deterministic import normalize, rounded
from bnn_jax.ops.signs import Signs
from bnn_jax.quantizers.signs import sign


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


def _product_row(layer, path: str, became: str, reason: str) -> Row:
    shape = 'x'.join(map(str, layer.product.kernel_shape(layer.into, layer.out)))
    return Row(path, became, layer.stored_bytes(), f'{type(layer.product).__name__} {shape}: {reason}')


@packed_layer('PackedProduct')
class PackedProduct(PackedLayer):
    """Binary weights, binary input: signs packed, XNOR and popcount, then the epilogue of training.

    A weight is scale * sign + offset and an input distance * sign(x + shift) + center, where these numbers are there.
    """

    # The operation, and its channels.
    product: Convolution | Dense
    into: int
    out: int
    # Whether K of the input multiplies the product.
    use_k: bool
    # The signs, in `product.words_shape`.
    words: jax.Array = tensor()
    # Alpha and bias of every filter, (out,).
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    # What is added to the input before its sign is taken, (into,).
    shift: jax.Array | None = tensor(default=None)
    # What is added to the weights of every filter, (out,).
    offset: jax.Array | None = tensor(default=None)
    # Distance and center of the two values of the input, (2,).
    levels: jax.Array | None = tensor(default=None)
    # What zero padding needs to know of the weights.
    border: jax.Array | None = derived()

    def __post_init__(self):
        _expect_bits(self)
        for name, shape in (('shift', (self.into,)), ('offset', (self.out,)), ('levels', (2,))):
            if getattr(self, name) is not None:
                _expect(self, name, shape, np.float32)
        object.__setattr__(self, 'border', self.product.border(self.words, self.into))

    def __call__(self, x: jax.Array | Signs) -> jax.Array:
        k = None
        if self.use_k:
            assert not isinstance(x, Signs), 'K needs the map itself'
            k = self.product.input_scale(x)
        if self.is_affine():
            return epilogue(self._affine(x), k, self.bias)
        return epilogue(scaled(self.integers(x).astype(jnp.float32), self.scale), k, self.bias)

    def is_affine(self) -> bool:
        """Whether the product is affine in its bits, not only a scale times a product of signs."""
        return self.offset is not None or self.levels is not None

    def _affine(self, x: jax.Array | Signs) -> jax.Array:
        """The product as `affine_sum`: of the signs, of a window of ones, of an image of ones."""
        words, levels = self._x_words(x), self.levels
        ones = jnp.zeros_like(words[:1])
        one_filter = jnp.zeros_like(jax.lax.slice_in_dim(self.words, 0, 1, axis=self.product.filters_axis()))
        border = self.product.border(one_filter, self.into)
        sums = (
            self.product.packed(words, self.words, self.into, self.border),
            self.product.packed(ones, self.words, self.into, self.border),
            self.product.packed(words, one_filter, self.into, border),
            self.product.packed(ones, one_filter, self.into, border),
        )
        numbers = (self.scale, self.offset, None if levels is None else (levels[0], levels[1]))
        return affine_sum(*(total.astype(jnp.float32) for total in sums), numbers)

    def integers(self, x: jax.Array | Signs) -> jax.Array:
        """The product of signs alone, int32; of a real map they are taken and packed first."""
        return self.product.packed(self._x_words(x), self.words, self.into, self.border)

    def signs(self, x: jax.Array | Signs, thresholds: jax.Array, flip: jax.Array) -> Signs:
        """Where the integers lie: -1 below their channel's threshold, the other way round where flip has a set bit."""
        words = self.product.packed_signs(self._x_words(x), self.words, self.into, self.border, thresholds, flip)
        return Signs(words, self.out)

    def _x_words(self, x: jax.Array | Signs) -> jax.Array:
        self.product.check(x, self.into)
        if isinstance(x, Signs):
            return x.words
        if self.shift is None:
            return packed_signs(x)
        return packed_signs(x, jnp.stack([jnp.ones_like(self.shift), self.shift]))

    def row(self, path: str) -> Row:
        return _product_row(self, path, 'xnor + popcount', 'binary weights, binary input')

    def holds_bits(self) -> bool:
        return True

    def reads_only_signs(self) -> bool:
        return not self.use_k and self.shift is None

    def float_twin(self) -> 'SignProduct':
        signs = self.product.unpack_kernel(self.words, self.into)
        numbers = (self.scale, self.bias, self.shift, self.offset, self.levels)
        return SignProduct(self.product, self.into, self.out, True, self.use_k, signs, *numbers)


@packed_layer('UnpackedProduct')
class UnpackedProduct(PackedLayer):
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

    def summed(self, in_order: bool) -> 'UnpackedProduct':
        return dataclasses.replace(self, in_order=in_order)

    def row(self, path: str) -> Row:
        reason = 'its input is real: the weights are unpacked for a float product'
        return _product_row(self, path, '1-bit storage, float product', reason)

    def holds_bits(self) -> bool:
        return True

    def float_twin(self) -> 'SignProduct':
        signs = self.product.unpack_kernel(self.words, self.into)
        return SignProduct(self.product, self.into, self.out, False, False, signs, self.scale, self.bias)


@packed_layer('FloatProduct')
class FloatProduct(PackedLayer):
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

    def row(self, path: str) -> Row:
        return _product_row(self, path, 'float32', 'its weights are real: the scheme keeps this layer in float')


@packed_layer(None)
class SignProduct(PackedLayer):
    """A product with signs held as float32 +-1: of the signs of x where `binary_input`, of x itself else; then the epilogue.

    The float twin of a packed layer, to compare with; no file holds it.
    """

    product: Convolution | Dense
    into: int
    out: int
    binary_input: bool
    use_k: bool
    signs: jax.Array = derived(init=True)
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    shift: jax.Array | None = tensor(default=None)
    offset: jax.Array | None = tensor(default=None)
    levels: jax.Array | None = tensor(default=None)

    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.product.input_scale(x) if self.use_k else None
        if self.shift is not None:
            x = rounded(x + jnp.broadcast_to(self.shift, x.shape))
        if self.binary_input:
            x = sign(x)
        y = self.product(x, self.signs).astype(jnp.float32)
        if self.offset is None and self.levels is None:
            return epilogue(scaled(y, self.scale), k, self.bias)
        ones, filters = jnp.ones((1, *x.shape[1:]), x.dtype), jnp.ones_like(self.signs[..., :1])
        sums = (y, self.product(ones, self.signs), self.product(x, filters), self.product(ones, filters))
        numbers = (self.scale, self.offset, None if self.levels is None else (self.levels[0], self.levels[1]))
        return epilogue(affine_sum(*sums, numbers), k, self.bias)

    def row(self, path: str) -> Row:
        return _product_row(self, path, 'float32', 'every sign as a float32 number')


@packed_layer('PackedNorm')
class PackedNorm(PackedLayer):
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

    in_bits = 'in the thresholds, found from these numbers once'

    def row(self, path: str) -> Row:
        reason = 'statistics and affine parameters folded together'
        return Row(path, 'float32, 2 numbers a channel', self.stored_bytes(), reason)

    def gives_signs(self) -> bool:
        return True

    def direction(self, channels: int) -> np.ndarray | None:
        coefficients = np.asarray(self.coefficients)
        if self.channels != channels or not np.isfinite(coefficients).all():
            return None
        return np.sign(coefficients[0])


@packed_layer('Chain')
class Chain(PackedLayer):
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
            only_signs = following is not None and following.reads_only_signs() and layer.gives_signs()
            x = layer.signs(x) if only_signs else layer(x)
        return x

    def rows(self, path: str) -> Iterator[Row]:
        runs = {i: run for run in self.runs for i in range(run.start, run.stop)}
        for i, inner in enumerate(self.layers):
            for row in inner.rows(f'{path}{i}'):
                yield runs[i].row_of(inner, row) if i in runs else row

    def float_twin(self) -> 'Chain':
        return Chain(self.layers)


@packed_layer('Sum')
class Sum(PackedLayer):
    """body(x) + shortcut(x)."""

    body: Chain = child()
    shortcut: Chain = child()

    def __call__(self, x: jax.Array) -> jax.Array:
        return rounded(self.body(x)) + rounded(self.shortcut(x))

    def rows(self, path: str) -> Iterator[Row]:
        yield from self.body.rows(f'{path}.body.')
        yield from self.shortcut.rows(f'{path}.shortcut.')


@packed_layer('Concat')
class Concat(PackedLayer):
    """What several chains make of one input, side by side: their channels concatenated."""

    branches: tuple = child()

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([branch(x) for branch in self.branches], axis=-1)

    def rows(self, path: str) -> Iterator[Row]:
        for i, branch in enumerate(self.branches):
            yield from branch.rows(f'{path}.branch{i}.')


@packed_layer('PackedNetwork')
class PackedNetwork(PackedLayer):
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

    def rows(self, path: str) -> Iterator[Row]:
        yield from self.body.rows(path)

    def __repr__(self) -> str:
        rows = self.report.rows
        packed = sum(row.became == 'xnor + popcount' for row in rows)
        return (
            f'PackedNetwork(channels={self.channels}, num_classes={self.num_classes}): {len(rows)} layers, {packed} of them '
            f'products of bits, {self.report.bytes:,} bytes; .report says what each layer became'
        )
