"""A packed product with binary inputs: weights are words, and signs are multiplied by XNOR and popcount."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt32

from bnn_jax.kernels import packed_signs
from bnn_jax.nn.affine import affine_sum, affine_sums
from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.packed.floats import SignProduct
from bnn_jax.nn.packed.stored import PackedOperation, expect, expect_bits, product_row
from bnn_jax.nn.packed_layer import IntegerForm, derived, packed_layer, tensor
from bnn_jax.nn.report import Row
from bnn_jax.ops.signs import Signs


@packed_layer('PackedProduct')
class PackedProduct(PackedOperation):
    """A product of binary weights and a binary input, by XNOR and popcount. Alpha, K and bias follow, as in training.

    A weight is scale * sign + offset. An input is distance * sign(x + shift) + center.

    Args:
        operation: `Convolution` or `Dense`.
        in_features: channels of the input.
        out_features: channels of the output.
        use_k: whether K of the input multiplies the product.
        words: the signs of the weights, with the shape `operation.words_shape`.
        scale: alpha of each filter; None: 1.
        bias: the bias of each filter; None: no bias.
        shift: what is added to each input channel before its sign is taken; None: nothing.
        offset: what is added to the weights of each filter; None: nothing.
        levels: (2,), distance and center of the input's two values; None: 1 and 0.
    """

    use_k: bool
    words: jax.Array = tensor()
    scale: jax.Array | None = tensor()
    bias: jax.Array | None = tensor()
    shift: jax.Array | None = tensor(default=None)
    offset: jax.Array | None = tensor(default=None)
    levels: jax.Array | None = tensor(default=None)
    # The sum of the weights at each tap, for zero padding.
    tap_sums: jax.Array | None = derived()

    def __post_init__(self):
        expect_bits(self)
        for name, shape in (('shift', (self.in_features,)), ('offset', (self.out_features,)), ('levels', (2,))):
            if getattr(self, name) is not None:
                expect(self, name, shape, np.float32)
        if self.use_k or self.is_affine():
            self.operation.expect_one_group()
        # Computed once, not in every call. The class is frozen, so it refuses an assignment.
        object.__setattr__(self, 'tap_sums', self.operation.tap_sums(self.words, self.in_features))

    def __call__(self, x: Float[Array, '*batch in_features'] | Signs) -> Float32[Array, '*output out_features']:
        k = None
        if self.use_k:
            assert not isinstance(x, Signs), 'K needs the real input'
            k = self.operation.input_scale(x)
        if self.is_affine():
            return epilogue(self._affine(x), k, self.bias)
        return epilogue(scaled(self.integers(x).astype(jnp.float32), self.scale), k, self.bias)

    def is_affine(self) -> bool:
        """Whether weights have an offset or inputs have levels, so that `affine_sum` is needed."""
        return self.offset is not None or self.levels is not None

    def _affine(self, x: jax.Array | Signs) -> jax.Array:
        """`affine_sum` of the product of signs, the products with a filter of ones, and those with an image of ones."""
        words = self._x_words(x)
        # A clear bit is +1.
        ones = jnp.zeros_like(words[:1])
        one_filter = jnp.zeros_like(jax.lax.slice_in_dim(self.words, 0, 1, axis=self.operation.filters_axis()))

        def multiply(x_words: jax.Array, weights: tuple[jax.Array, jax.Array | None]) -> jax.Array:
            filters, tap_sums = weights
            return self.operation.packed(x_words, filters, self.in_features, tap_sums).astype(jnp.float32)

        ones_weights = one_filter, self.operation.tap_sums(one_filter, self.in_features)
        sums = affine_sums(multiply, words, ones, (self.words, self.tap_sums), ones_weights)
        return affine_sum(*sums, (self.scale, self.offset, self.levels))

    def integer_form(self) -> IntegerForm | None:
        numbers = [np.asarray(number) for number in (self.scale, self.bias) if number is not None]
        # K needs the real input, and an affine product adds another sum at each pixel, so one integer is not enough.
        if self.use_k or self.is_affine() or not all(np.isfinite(number).all() for number in numbers):
            return None
        terms = math.prod(self.operation.kernel_shape(self.in_features, self.out_features)[:-1])
        return IntegerForm(terms, self.out_features, self.scale, self.bias)

    def integers(self, x: Float[Array, '*batch in_features'] | Signs) -> Int32[Array, '*output out_features']:
        """The product of signs. A real input is binarized and packed first."""
        return self.operation.packed(self._x_words(x), self.words, self.in_features, self.tap_sums)

    def compared(self, x: Any, thresholds: Int32[Array, ' out'], flip: UInt32[Array, ' n_words']) -> Signs:
        words = self.operation.packed_signs(
            self._x_words(x), self.words, self.in_features, self.tap_sums, thresholds, flip
        )
        return Signs(words, self.out_features)

    def _x_words(self, x: jax.Array | Signs) -> jax.Array:
        self.operation.check(x, self.in_features)
        if isinstance(x, Signs):
            return x.words
        if self.shift is None:
            return packed_signs(x)
        # A shift is a normalization with scale 1; the kernel adds it and packs in one pass.
        return packed_signs(x.astype(jnp.float32), jnp.stack([jnp.ones_like(self.shift), self.shift]))

    def row(self, path: str) -> Row:
        return product_row(self, path, 'xnor + popcount', 'binary weights, binary input')

    def holds_bits(self) -> bool:
        return True

    def multiplies_bits(self) -> bool:
        return True

    def acts_on_rows(self) -> bool:
        return self.operation.acts_on_rows

    def reads_only_signs(self) -> bool:
        return not self.use_k and self.shift is None

    def float_twin(self) -> 'SignProduct':
        signs = self.operation.unpack_kernel(self.words, self.in_features)
        numbers = (self.scale, self.bias, self.shift, self.offset, self.levels)
        return SignProduct(self.operation, self.in_features, self.out_features, True, self.use_k, signs, *numbers)
