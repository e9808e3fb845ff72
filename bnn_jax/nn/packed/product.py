"""The product of bits: weights in words, signs multiplied by XNOR and popcount."""

import jax
import jax.numpy as jnp
import numpy as np

from bnn_jax.kernels import packed_signs
from bnn_jax.nn.affine import affine_sum
from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed.floats import SignProduct
from bnn_jax.nn.packed.stored import expect, expect_bits, product_row
from bnn_jax.nn.packed_layer import PackedLayer, derived, named_in_files, packed_layer, tensor
from bnn_jax.nn.report import Row
from bnn_jax.ops.signs import Signs


@packed_layer('PackedProduct')
class PackedProduct(PackedLayer):
    """Binary weights, binary input: signs packed, XNOR and popcount, then the epilogue of training.

    A weight is scale * sign + offset and an input distance * sign(x + shift) + center, where these numbers are there.
    """

    # The operation, and its channels.
    product: Convolution | Dense
    in_features: int = named_in_files('into')
    out_features: int = named_in_files('out')
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
        expect_bits(self)
        for name, shape in (('shift', (self.in_features,)), ('offset', (self.out_features,)), ('levels', (2,))):
            if getattr(self, name) is not None:
                expect(self, name, shape, np.float32)
        object.__setattr__(self, 'border', self.product.border(self.words, self.in_features))

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
        border = self.product.border(one_filter, self.in_features)
        sums = (
            self.product.packed(words, self.words, self.in_features, self.border),
            self.product.packed(ones, self.words, self.in_features, self.border),
            self.product.packed(words, one_filter, self.in_features, border),
            self.product.packed(ones, one_filter, self.in_features, border),
        )
        numbers = (self.scale, self.offset, None if levels is None else (levels[0], levels[1]))
        return affine_sum(*(total.astype(jnp.float32) for total in sums), numbers)

    def integers(self, x: jax.Array | Signs) -> jax.Array:
        """The product of signs alone, int32; of a real map they are taken and packed first."""
        return self.product.packed(self._x_words(x), self.words, self.in_features, self.border)

    def signs(self, x: jax.Array | Signs, thresholds: jax.Array, flip: jax.Array) -> Signs:
        """Where the integers lie: -1 below their channel's threshold, the other way round where flip has a set bit."""
        words = self.product.packed_signs(self._x_words(x), self.words, self.in_features, self.border, thresholds, flip)
        return Signs(words, self.out_features)

    def _x_words(self, x: jax.Array | Signs) -> jax.Array:
        self.product.check(x, self.in_features)
        if isinstance(x, Signs):
            return x.words
        if self.shift is None:
            return packed_signs(x)
        return packed_signs(x.astype(jnp.float32), jnp.stack([jnp.ones_like(self.shift), self.shift]))

    def row(self, path: str) -> Row:
        return product_row(self, path, 'xnor + popcount', 'binary weights, binary input')

    def holds_bits(self) -> bool:
        return True

    def reads_only_signs(self) -> bool:
        return not self.use_k and self.shift is None

    def float_twin(self) -> 'SignProduct':
        signs = self.product.unpack_kernel(self.words, self.in_features)
        numbers = (self.scale, self.bias, self.shift, self.offset, self.levels)
        return SignProduct(self.product, self.in_features, self.out_features, True, self.use_k, signs, *numbers)
