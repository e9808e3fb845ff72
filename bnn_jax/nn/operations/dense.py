"""A dense product as a value: in floats, and on packed words."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from bnn_jax import quantizers
from bnn_jax.kernels import packed_matmul, signed_matmul
from bnn_jax.kernels.backend import below
from bnn_jax.nn.names import register
from bnn_jax.ops.bits import pack, unpack, words_for
from bnn_jax.ops.products import dot
from bnn_jax.ops.shapes import Shape
from bnn_jax.ops.signs import Signs


@jax.custom_vjp
def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (N, in) times kernel (in, out), of one floating dtype; float32, or float64 for float64 operands.

    Gradients, g the incoming one rounded to the operands' dtype, which theirs have too: dx = g kernel^T and
    dkernel = x^T g, accumulated in float32 or wider. Only reverse mode is defined.
    """
    return dot(x, kernel, 1, 0)


def _dense_bwd(operands, g):
    x, kernel = operands
    g = g.astype(x.dtype)
    return dot(g, kernel, 1, 1).astype(x.dtype), dot(x, g, 0, 0).astype(kernel.dtype)


dense.defvjp(lambda x, kernel: (dense(x, kernel), (x, kernel)), _dense_bwd)


def _by_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """function of all rows of x as one matrix, the leading axes put back."""
    if x.ndim == 2:
        return function(x)
    y = function(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


@register('Dense')
@dataclasses.dataclass(frozen=True)
class Dense:
    """x (N, ..., in) times kernel (in, out)."""

    acts_on_rows = True

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Float product, float32 or wider: exact for +-1 operands up to 2^24 terms."""
        return _by_rows(lambda rows: dense(rows, kernel.astype(x.dtype)), x)

    def kernel_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        return in_features, out_features

    def check(self, x: jax.Array | Signs, in_features: int) -> None:
        """Raises ValueError unless x fits a layer with `in_features` inputs."""
        if x.ndim < 2 or x.shape[-1] != in_features:
            raise ValueError(self._unfit(x.shape, in_features))

    def maps(self, shape: Shape, in_features: int, out_features: int) -> Iterator[Shape]:
        """As `Layer.maps`, of a layer with so many inputs and outputs."""
        if shape is not None and shape[-1] not in (None, in_features):
            raise ValueError(self._unfit(('N', *shape), in_features))
        yield None if shape is None else (*shape[:-1], out_features)

    def _unfit(self, shape: tuple[Any, ...], in_features: int) -> str:
        return (
            f'dense layer: got input of shape ({", ".join(map(str, shape))}), expected (N, {in_features}); '
            'give the model the image size it was built for (input_shape)'
        )

    def input_scale(self, x: jax.Array) -> jax.Array:
        """K of a dense layer: mean |x| over its inputs, (N, ..., 1)."""
        return _by_rows(lambda rows: quantizers.input_scale(rows[:, None, None, :], 1)[:, 0, 0], x)

    def expect_one_group(self) -> None:
        """Nothing: a dense layer has no groups."""

    def words_shape(self, in_features: int, out_features: int) -> tuple[int, ...]:
        return out_features, words_for(in_features)

    def pack_kernel(self, signs: jax.Array) -> jax.Array:
        """(in, out) -> (out, n_words)."""
        return pack(signs.T)

    def unpack_kernel(self, words: jax.Array, in_features: int) -> jax.Array:
        return unpack(words, in_features).T

    def stored(self, in_features: int, out_features: int) -> 'Dense':
        """The operation as conversion stores its weights."""
        return self

    def words_axis(self) -> int:
        """Along which axis of its words signs are packed."""
        return 1

    def filters_axis(self) -> int:
        """Which axis of its words is that of the filters."""
        return 0

    def signs_in_words(self, in_features: int, out_features: int) -> int:
        """How many signs lie along that axis."""
        return in_features

    def tap_sums(self, words: jax.Array, in_features: int) -> jax.Array | None:
        """None: a dense layer has no padding."""
        return None

    def packed(self, x_words: jax.Array, words: jax.Array, in_features: int, tap_sums: jax.Array | None) -> jax.Array:
        """Product of signs on packed words, int32."""
        return _by_rows(lambda rows: packed_matmul(rows, words, in_features), x_words)

    def packed_signs(
        self, x_words, words, in_features: int, tap_sums, thresholds: jax.Array, flip: jax.Array
    ) -> jax.Array:
        """Words of (packed < thresholds) ^ flip."""
        return below(self.packed(x_words, words, in_features, tap_sums), thresholds, flip)

    def signed(self, x: jax.Array, words: jax.Array) -> jax.Array:
        """Product of real numbers with signs in packed words, unpacked a tile at a time."""
        return _by_rows(lambda rows: signed_matmul(rows, words), x)

    def macs(self, in_features: int, out_features: int, output_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one image."""
        return in_features * out_features * math.prod(output_shape[1:-1])
