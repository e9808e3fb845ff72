"""XNOR and popcount in plain JAX, in a form that XLA:CPU vectorizes and shares among its threads.

This takes three things (measured, jax 0.10). One elementwise expression without a reduction computes the whole output: the
obvious `sum(popcount(x[:, None] ^ w[None]), -1)` is not fused and runs 20 times slower. The expression reads several words:
with one, the output is read and written for each word, and XLA gives one thread to so little arithmetic. Blocks of words are
sliced outside the expression: a slice at a variable position inside it prevents vectorization.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bnn_jax.kernels.backend import compiled
from bnn_jax.kernels.from_matmul import FromMatmul
from bnn_jax.kernels.groups import along_filters, channels_of_filters, is_narrow
from bnn_jax.kernels.zero_padding import narrow_tap_sums, outside_sum, padding_words
from bnn_jax.native.library import varying_as
from bnn_jax.ops.bits import unpack
from bnn_jax.ops.windows import Window

BLOCK = 18
"""The largest number of words in an expression: a 3x3 window of 64 channels. For 512 filters, these words take 36 KiB,
about the size of a first-level cache."""
NARROW_BLOCK = 63
"""The largest number of words in an expression for narrow groups: their counts have 6 bits."""
FEW = 4
"""The largest number of rows for which w is not transposed: with so few rows, transposing would take longer than the
product (3 times as long for one row of 9216 signs)."""


def product(x: jax.Array, w: jax.Array, k: int) -> jax.Array:
    """(n_words, m), (n_words, n) -> (m, n) int32, k - 2 popcount(x xor w) in blocks of words."""
    n_words = x.shape[0]
    blocks = -(-n_words // BLOCK)
    block = -(-n_words // blocks)
    # Words of zeros, the same in both operands, add no differing bit.
    x, w = (jnp.pad(words, ((0, blocks * block - n_words), (0, 0))) for words in (x, w))

    def add_block(i, carry):
        x_block, w_block, total = carry
        # Sliced for the next round, because a slice for this round would prevent vectorization.
        x_next, w_next = (lax.dynamic_slice_in_dim(words, (i + 1) * block, block) for words in (x, w))
        return x_next, w_next, total + _differences(x_block, w_block)

    if blocks == 1:
        return k - 2 * _differences(x, w)
    # After the last block XLA moves the slice, which is beyond the end, back inside. Nothing reads it.
    start = x[:block], w[:block], varying_as(jnp.zeros((x.shape[1], w.shape[1]), jnp.int32), x, w)
    return k - 2 * lax.fori_loop(0, blocks, add_block, start)[2]


def _differences(x: jax.Array, w: jax.Array) -> jax.Array:
    """Count the bits that differ in a block of words: (words, m), (words, n) -> (m, n) int32, in one expression."""
    planes = _planes([x_word[:, None] ^ w_word[None] for x_word, w_word in zip(x, w, strict=True)])
    counts = [lax.population_count(plane).astype(jnp.int32) << level for level, plane in enumerate(planes)]
    return sum(counts[1:], start=counts[0])


def _planes(words: list[jax.Array]) -> list[jax.Array]:
    """For every bit position, count in binary how many of the words have the bit set: a bit of plane i stands for 2^i.

    A full adder turns three words into a word of sums and a word of carries, bit by bit, in five operations. Counting the
    bits of a word takes more than ten. After the adders only about log2(words) words must be counted. (Carry-save adders:
    Harley and Seal; see Mula, Kurz and Lemire, "Faster population counts using AVX2 instructions", 2016.)
    """
    planes: list[list[jax.Array]] = []
    for word in words:
        _add(planes, 0, word)
    level = 0
    while level < len(planes):
        if len(planes[level]) == 2:
            a, b = planes[level]
            planes[level] = [a ^ b]
            _add(planes, level + 1, a & b)
        level += 1
    return [plane for (plane,) in planes]


def _add(planes: list[list[jax.Array]], level: int, word: jax.Array) -> None:
    """Add a word whose bits stand for 2^level. Two words at most wait at a level; three become a sum and a carry."""
    if level == len(planes):
        planes.append([])
    planes[level].append(word)
    if len(planes[level]) == 3:
        a, b, c = planes[level]
        either = a ^ b
        planes[level] = [either ^ c]
        _add(planes, level + 1, (a & b) | (c & either))


class Xla(FromMatmul):
    """XNOR and popcount in plain JAX."""

    def __init__(self):
        super().__init__(product)

    @compiled(0, 3)
    def matmul(self, x_words: jax.Array, w_words: jax.Array, k: int) -> jax.Array:
        """`product`; for few rows of x, a sum for each row instead, without transposing w."""
        rows = x_words.shape[0]
        if not isinstance(rows, int) or rows > FEW:  # Not an integer: an export for any number of rows.
            return super().matmul(x_words, w_words, k)

        # A reduction costs nothing here, because the words of one row are read in order.
        def row(x):
            return k - 2 * jnp.sum(lax.population_count(x[None] ^ w_words), axis=1, dtype=jnp.int32)

        return lax.map(row, x_words)

    def conv2d(self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int):
        """As `Backend.conv2d`; for narrow groups, weights are first repacked along the filters."""
        if not is_narrow(channels, groups):
            return super().conv2d(x_words, w_words, tap_sums, channels, window, pad_value, groups)
        filters, w_words = w_words.shape[3], along_filters(w_words, channels // groups)
        return self.narrow_conv2d(x_words, w_words, tap_sums, channels, window, pad_value, groups, filters)

    @compiled(0, 4, 5, 6, 7, 8)
    def narrow_conv2d(
        self, x_words, w_words, tap_sums, channels: int, window: Window, pad_value: int, groups: int, filters: int
    ) -> jax.Array:
        """Count differing bits for the 32 filters of a word at once. The counts are unpacked only after each block of taps."""
        (n, height, width, _), each, k = x_words.shape, channels // groups, w_words[..., 0].size
        taps = window.taps(x_words, padding_words(channels, pad_value))
        taps = channels_of_filters(taps, channels, groups, filters)
        rows = taps.shape[2:4]

        def differing(tap, e):
            return taps[tap, ..., e, :] ^ w_words.reshape(-1, 1, 1, 1, *w_words.shape[2:])[tap, ..., e, :]

        # Blocks of taps, so that few words are in one expression.
        of_taps = [(tap, e) for tap in range(taps.shape[0]) for e in range(each)]
        counts = jnp.zeros((n, *rows, filters), jnp.int32)
        for start in range(0, len(of_taps), NARROW_BLOCK):
            planes = _planes([differing(*at) for at in of_taps[start : start + NARROW_BLOCK]])
            for level, plane in enumerate(planes):
                # unpack turns a clear bit into +1 and a set bit into -1; this turns them into 0 and 1.
                bits = (1 - unpack(plane, filters).astype(jnp.int32)) >> 1
                counts = counts + (bits << level)
        if pad_value == 0:
            tap_sums = narrow_tap_sums(w_words, filters) if tap_sums is None else tap_sums
            return k - 2 * counts - outside_sum(tap_sums, window, height, width)[None]
        return k - 2 * counts
