"""Packed layers that compute in floats: binary weights on real inputs, real weights, normalization, the float twin."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bnn_jax.files.bounds import Size
from bnn_jax.kernels import packed_signs
from bnn_jax.nn.affine import affine_sum, affine_sums
from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.packed.stored import PackedOperation, expect, expect_bits, product_row
from bnn_jax.nn.packed_layer import PackedLayer, decided, derived, packed_layer, tensor
from bnn_jax.nn.report import Row
from bnn_jax.ops.deterministic import normalize, rounded, wide
from bnn_jax.ops.shapes import Shape, expect_last
from bnn_jax.ops.signs import Signs
from bnn_jax.quantizers.signs import sign


@packed_layer('UnpackedProduct')
class UnpackedProduct(PackedOperation):
    """Binary weights on a real input (BinaryConnect, BWN): stored as bits, multiplied in floats.

    Args:
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        words: the signs, in `operation.words_shape`.
        scale: alpha of each filter; None: 1.
        bias: the bias of each filter; None: no bias.
        in_order: whether sums have the order of training, so that a later layer takes the same signs as in training. A
            network needs this if any of its layers multiplies bits. If False, sums have an order of the backend's own,
            which is faster.
    """

    words: jax.Array = tensor()
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    in_order: bool = decided(default=True)

    def __post_init__(self):
        expect_bits(self)

    def __call__(self, x: Float[Array, '*batch in_features']) -> Float[Array, '*output out_features']:
        self.operation.check(x, self.in_features)
        # `operation` adds in the order of training, `operation.signed` in an order of its own.
        if self.in_order:
            y = self.operation(x, self.operation.unpack_kernel(self.words, self.in_features))
        else:
            y = self.operation.signed(x, self.words)
        return epilogue(scaled(y, self.scale), None, self.bias)

    def summed(self, in_order: bool) -> 'UnpackedProduct':
        return dataclasses.replace(self, in_order=in_order)

    def row(self, path: str) -> Row:
        reason = 'its input is real: the weights are stored as bits and multiplied in floats'
        return product_row(self, path, '1-bit storage, float product', reason)

    def holds_bits(self) -> bool:
        return True

    def float_twin(self) -> 'SignProduct':
        signs = self.operation.unpack_kernel(self.words, self.in_features)
        return SignProduct(
            self.operation, self.in_features, self.out_features, False, False, signs, self.scale, self.bias
        )


@packed_layer('FloatProduct')
class FloatProduct(PackedOperation):
    """Real weights on a real input, in float32 as trained.

    Args:
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        kernel: the weights.
        bias: the bias of each filter; None: no bias.
    """

    kernel: jax.Array = tensor()
    bias: jax.Array | None = tensor()

    def __post_init__(self):
        expect(self, 'kernel', self.operation.kernel_shape(self.in_features, self.out_features), np.float32)
        if self.bias is not None:
            expect(self, 'bias', (self.out_features,), np.float32)

    def __call__(self, x: Float[Array, '*batch in_features']) -> Float[Array, '*output out_features']:
        self.operation.check(x, self.in_features)
        return epilogue(rounded(self.operation(x, self.kernel)), None, self.bias)

    def row(self, path: str) -> Row:
        return product_row(self, path, 'float32', 'its weights are real: the scheme keeps this layer in float')


@packed_layer(None)
class SignProduct(PackedOperation):
    """A product with signs as float32 +-1: the float twin of a packed layer, for comparison. No file holds it.

    Args:
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        binary_input: whether the signs of the input are multiplied, or the input itself.
        use_k: whether K of the input multiplies the product.
        weights: the signs.
        scale, bias, shift, offset, levels: as in `PackedProduct`.
    """

    binary_input: bool
    use_k: bool
    weights: jax.Array = derived(init=True)
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    shift: jax.Array | None = tensor(default=None)
    offset: jax.Array | None = tensor(default=None)
    levels: jax.Array | None = tensor(default=None)

    def __call__(self, x: Float[Array, '*batch in_features']) -> Float[Array, '*output out_features']:
        k = self.operation.input_scale(x) if self.use_k else None
        if self.shift is not None:
            x = rounded(x + jnp.broadcast_to(self.shift, x.shape))
        if self.binary_input:
            x = sign(x)
        # With neither an offset nor levels, the packed layer computes scale times a product with signs.
        if self.offset is None and self.levels is None:
            return epilogue(scaled(self.operation(x, self.weights).astype(jnp.float32), self.scale), k, self.bias)
        ones, one_filter = jnp.ones_like(x[:1]), jnp.ones_like(self.weights[..., :1])
        sums = affine_sums(self.operation, x, ones, self.weights, one_filter)
        return epilogue(affine_sum(*sums, (self.scale, self.offset, self.levels)), k, self.bias)

    def row(self, path: str) -> Row:
        return product_row(self, path, 'float32', 'every sign as a float32 number')


@packed_layer('PackedNorm')
class PackedNorm(PackedLayer):
    """Batch normalization as two numbers for each channel.

    Args:
        channels: the number of channels of the input.
        coefficients: (2, channels), the rows scale and shift of `ops.deterministic.norm_coefficients`.
    """

    channels: Size
    coefficients: jax.Array = tensor()

    def __post_init__(self):
        expect(self, 'coefficients', (2, self.channels), np.float32)

    def __call__(self, x: Float[Array, '*batch channels']) -> Float[Array, '*batch channels']:
        return normalize(x.astype(wide(x.dtype)), self.coefficients)

    def signs(self, x: Float[Array, '*batch channels']) -> Signs:
        """The signs of the output, for a product that reads only signs. Raises ValueError for another number of channels."""
        return Signs(packed_signs(x.astype(jnp.float32), self.coefficients), self.channels)

    def maps(self, shape: Shape) -> Iterator[Shape]:
        expect_last('normalization', shape, self.channels)
        yield shape

    in_bits = 'in the thresholds, which are computed from its numbers'

    def row(self, path: str) -> Row:
        reason = 'statistics and affine parameters folded together'
        return Row(path, 'float32, 2 numbers per channel', self.stored_bytes(), reason)

    def gives_signs(self) -> bool:
        return True

    def direction(self, channels: int) -> np.ndarray | None:
        coefficients = np.asarray(self.coefficients)
        # With a coefficient that is not finite, the output keeps no order.
        if self.channels != channels or not np.isfinite(coefficients).all():
            return None
        # The sign of the scale says whether the output rises or falls with the input; 0 is a constant channel.
        return np.sign(coefficients[0])
