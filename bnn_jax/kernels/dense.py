"""Unpacks signs and calls XLA's own products.

The operands are 8-bit integers on CUDA and TPU, which have matrix units for them, and floats on other platforms. A
function that is lowered for CPU has no 8-bit convolution, because there XLA gives wrong numbers for padded ones (jax
0.10) or does not compile them (0.12). A float32 sum of signs is exact up to 2^24 terms; for more, this backend raises
an error.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.backend import Backend, compiled
from bnn_jax.ops.bits import unpack
from bnn_jax.ops.windows import Window, pad_channels

EXACT = 2**24
"""float32 represents every integer up to this one."""


class Dense(Backend):
    """XLA's own products of the unpacked signs. Raises ValueError for sums of more than 2^24 products."""

    @compiled(0, 3)
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """Product of the unpacked signs."""
        _expect_exact(k)

        def product(x_words, w_words, *, operand, out):
            x, w = (unpack(words, k).astype(operand) for words in (x_words, w_words))
            return lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=out).astype(jnp.int32)

        integers = partial(product, operand=jnp.int8, out=jnp.int32)
        floats = partial(product, operand=jnp.float32, out=jnp.float32)
        # Only CUDA and TPU are known to multiply 8-bit integers on a matrix unit.
        return lax.platform_dependent(x_words, w_words, cuda=integers, tpu=integers, default=floats)

    @compiled(0, 4, 5, 6, 7)
    def conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int
    ) -> jax.Array:
        """Convolution of the unpacked signs; `tap_sums` is not used."""
        _expect_exact(window.size[0] * window.size[1] * (channels // groups))
        pads = window.pads(x_words.shape[1], x_words.shape[2])

        def product(x_words, w_words, *, operand, out):
            x = unpack(x_words, channels).astype(operand)
            w = unpack(w_words, channels // groups, axis=2).astype(operand)
            if pad_value != 0:
                x = pad_channels(x, pads, jnp.full((channels,), pad_value, operand))
            outside = pads if pad_value == 0 else ((0, 0), (0, 0))
            y = lax.conv_general_dilated(
                x,
                w,
                window.strides,
                outside,
                rhs_dilation=window.dilation,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                feature_group_count=groups,
                preferred_element_type=out,
            )
            return y.astype(jnp.int32)

        # cuDNN has no 8-bit convolution with 32-bit integer output; its float32 sums are exact.
        return lax.platform_dependent(
            x_words,
            w_words,
            cuda=partial(product, operand=jnp.int8, out=jnp.float32),
            tpu=partial(product, operand=jnp.int8, out=jnp.int32),
            default=partial(product, operand=jnp.float32, out=jnp.float32),
        )


def _expect_exact(k: int) -> None:
    if k > EXACT:
        raise ValueError(
            f"backend 'dense': got {k} products to be added, expected at most 2^24 = {EXACT}, up to which float32 sums of "
            "signs are exact; use backend 'xla'"
        )
