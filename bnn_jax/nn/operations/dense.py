"""A dense product as a value, in floats and on packed words."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Float32, Int32, Shaped, UInt32

from bnn_jax import quantizers
from bnn_jax.kernels import packed_matmul, signed_matmul
from bnn_jax.kernels.backend import below
from bnn_jax.nn.names import register
from bnn_jax.ops import native_convolution
from bnn_jax.ops.bits import pack, unpack, words_for
from bnn_jax.ops.products import dot
from bnn_jax.ops.shapes import Shape
from bnn_jax.ops.signs import Signs


@jax.custom_vjp
def dense(x: Float[Array, 'n in_features'], kernel: Float[Array, 'in_features out']) -> Float[Array, 'n out']:
    """The matrix product x kernel, summed in float32 or wider.

    Forward: x kernel, for operands of one dtype. On CPU, `native_convolution` multiplies float32 operands where it runs, and
    sums each row in the same order in every batch. Elsewhere XLA multiplies.
    Gradient, with g rounded to the dtype of the operands: dx = g kernel^T, dkernel = x^T g, summed in float32 or wider and
    rounded to the dtype of the operands. Only reverse mode is defined.
    """
    plain = partial(dot, axis_a=1, axis_b=0)
    if x.dtype != kernel.dtype or not native_convolution.runs(x.dtype):
        return plain(x, kernel)
    # The choice is made when the function is lowered, so one traced function can be exported for any platform.
    return jax.lax.platform_dependent(x, kernel, cpu=native_convolution.matrix_product, default=plain)


def _dense_bwd(operands, g):
    x, kernel = operands
    g = g.astype(x.dtype)
    return dot(g, kernel, 1, 1).astype(x.dtype), dot(x, g, 0, 0).astype(kernel.dtype)


dense.defvjp(lambda x, kernel: (dense(x, kernel), (x, kernel)), _dense_bwd)


def _by_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Apply the function to all rows of x as one matrix, and give the result the leading axes of x."""
    # A reshape to the same shape would still cost an operation in eager code.
    if x.ndim == 2:
        return function(x)
    y = function(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


@register('Dense')
@dataclasses.dataclass(frozen=True)
class Dense:
    """x (N, ..., in) times kernel (in, out).

    Example:
        >>> import bnn_jax as bnn
        >>> bnn.nn.Dense().kernel_shape(16, 32)
        (16, 32)
    """

    acts_on_rows = True

    def __call__(
        self, x: Float[Array, '*batch in_features'], kernel: Float[Array, 'in_features out']
    ) -> Float[Array, '*batch out']:
        """The product in float32 or wider; exact for +-1 operands up to 2^24 terms."""
        return _by_rows(lambda rows: dense(rows, kernel.astype(x.dtype)), x)

    def kernel_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(in, out)."""
        return in_features, out_features

    def check(self, x: Shaped[Array, '*input'] | Signs, in_features: int) -> None:
        """Raises ValueError unless x fits a layer with `in_features` inputs."""
        if x.ndim < 2 or x.shape[-1] != in_features:
            raise ValueError(self._unfit(x.shape, in_features))

    def maps(self, shape: Shape, in_features: int, out_features: int) -> Iterator[Shape]:
        """`Layer.maps` of a layer with this many inputs and outputs."""
        if shape is not None and shape[-1] not in (None, in_features):
            raise ValueError(self._unfit(('N', *shape), in_features))
        yield None if shape is None else (*shape[:-1], out_features)

    def _unfit(self, shape: tuple[Any, ...], in_features: int) -> str:
        return (
            f'dense layer: got input of shape ({", ".join(map(str, shape))}), expected (N, ..., {in_features}); '
            # The usual cause: another image size than the flattened layer expects.
            'give the model the image size it was built for (input_shape)'
        )

    def input_scale(self, x: Float[Array, '*batch in_features']) -> Float[Array, '*batch 1']:
        """K of a dense layer: the mean of |x| over its inputs."""
        return _by_rows(lambda rows: quantizers.input_scale(rows[:, None, None, :], 1)[:, 0, 0], x)

    def expect_one_group(self) -> None:
        """Checks nothing, because a dense layer has no groups."""

    def words_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """(out, words_for(in))."""
        return out_features, words_for(in_features)

    def pack_kernel(self, signs: Float[Array, 'in_features out']) -> UInt32[Array, 'out n_words']:
        """The words of a kernel of signs."""
        # Filters first, so that the words of a filter are contiguous.
        return pack(signs.T)

    def unpack_kernel(self, words: UInt32[Array, 'out n_words'], in_features: int) -> Float32[Array, 'in_features out']:
        """The inverse of `pack_kernel`."""
        return unpack(words, in_features).T

    def stored(self, in_features: int, out_features: int) -> 'Dense':
        """This operation, which packed weights use unchanged."""
        return self

    def words_axis(self) -> int:
        """The axis of the words along which signs are packed."""
        return 1

    def filters_axis(self) -> int:
        """The axis of the words along which filters lie."""
        return 0

    def signs_in_words(self, in_features: int, out_features: int) -> int:
        """The number of signs along `words_axis`."""
        return in_features

    def tap_sums(self, words: UInt32[Array, 'out n_words'], in_features: int) -> Int32[Array, ' out'] | None:
        """None, because a dense layer has no padding."""
        return None

    def packed(
        self,
        x_words: UInt32[Array, '*batch n_words'],
        words: UInt32[Array, 'out n_words'],
        in_features: int,
        tap_sums: None,
    ) -> Int32[Array, '*batch out']:
        """The product of signs on packed words."""
        return _by_rows(lambda rows: packed_matmul(rows, words, in_features), x_words)

    def packed_signs(
        self,
        x_words: UInt32[Array, '*batch n_words'],
        words: UInt32[Array, 'out n_words'],
        in_features: int,
        tap_sums: None,
        thresholds: Int32[Array, ' out'],
        flip: UInt32[Array, ' out_words'],
    ) -> UInt32[Array, '*batch out_words']:
        """The words of the signs whose bits are (packed < thresholds) ^ flip."""
        return below(self.packed(x_words, words, in_features, tap_sums), thresholds, flip)

    def signed(
        self, x: Float[Array, '*batch in_features'], words: UInt32[Array, 'out n_words']
    ) -> Float[Array, '*batch out']:
        """The product of real numbers with packed signs."""
        return _by_rows(lambda rows: signed_matmul(rows, words), x)

    def macs(self, in_features: int, out_features: int, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one image."""
        return in_features * out_features * math.prod(output_shape[1:-1])
