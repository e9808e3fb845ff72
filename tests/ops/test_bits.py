"""Bits: pack and unpack against loops in NumPy, the convention word by word, round trips, golden words and errors."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn_jax.ops.bits import WORD_BITS, pack, unpack, words_for


def pack_by_loops(x):
    """Signs along the last axis, bit by bit: a set bit is -1, least significant bit first, tail bits 0."""
    words = np.zeros((*x.shape[:-1], -(-x.shape[-1] // 32)), np.uint32)
    for j in range(x.shape[-1]):
        words[..., j // 32] |= np.where(x[..., j] >= 0, 0, 1).astype(np.uint32) << np.uint32(j % 32)
    return words


def unpack_by_loops(words, k):
    return np.stack([1.0 - 2.0 * (words[..., j // 32] >> np.uint32(j % 32) & 1) for j in range(k)], axis=-1)


@pytest.mark.parametrize('k', [1, 31, 32, 33, 64, 100])
def test_pack_and_unpack_equal_loops(k):
    x = np.random.default_rng(k).standard_normal((3, k)).astype(np.float32)
    words = pack(x)
    assert words.dtype == jnp.uint32
    np.testing.assert_array_equal(words, pack_by_loops(x))
    signs = unpack(words, k)
    assert signs.dtype == jnp.float32
    np.testing.assert_array_equal(signs, unpack_by_loops(np.asarray(words), k))


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(),
    k=st.integers(1, 200),
    others=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(data, k, others, seed):
    axis = data.draw(st.integers(-len(others) - 1, len(others)))
    position = axis % (len(others) + 1)
    shape = (*others[:position], k, *others[position:])
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), shape)
    words = pack(signs, axis)
    chex.assert_shape(words, (*others[:position], words_for(k), *others[position:]))
    np.testing.assert_array_equal(unpack(words, k, axis), signs)
    np.testing.assert_array_equal(np.moveaxis(words, axis, -1), pack_by_loops(np.moveaxis(signs, axis, -1)))
    used = k - WORD_BITS * (words_for(k) - 1)
    last = np.take(np.asarray(words), -1, axis).astype(np.uint64)
    np.testing.assert_array_equal(last >> np.uint64(used), 0)


def test_the_convention_word_by_word():
    def words(x, dtype=jnp.float32):
        return np.asarray(pack(jnp.asarray(x, dtype))).tolist()

    assert words([-1, 1, 1]) == [1]
    assert words([1, -1, 1]) == [2]
    assert words([1, 1, -1]) == [4]
    assert words([-1] * 32) == [2**32 - 1]
    assert words([1] * 32 + [-1]) == [0, 1]
    assert words([-1] * 33) == [2**32 - 1, 1]
    assert words([0.0, -0.0, jnp.inf, 1e-30]) == [0]
    assert words([-jnp.inf, -1e-30, jnp.nan]) == [0b111]
    np.testing.assert_array_equal(unpack(jnp.asarray([0b101], jnp.uint32), 4), [-1, 1, -1, 1])


@pytest.mark.parametrize('dtype', ['int8', 'int32', 'float16', 'bfloat16', 'float32'])
def test_every_real_dtype_packs_alike(dtype):
    x = jnp.asarray([[-3, 0, 2, -1], [0, -1, -1, 5]], dtype)
    np.testing.assert_array_equal(pack(x), [[0b1001], [0b0110]])


def test_unsigned_integers_are_never_negative():
    np.testing.assert_array_equal(pack(jnp.asarray([0, 1, 255], jnp.uint8)), [0])


def test_jit_and_vmap_equal_eager():
    x = np.random.default_rng(0).standard_normal((4, 3, 45)).astype(np.float32)
    words = pack(x)
    signs = unpack(words, 45)
    np.testing.assert_array_equal(jax.jit(pack)(x), words)
    np.testing.assert_array_equal(jax.jit(lambda: pack(x))(), words)
    np.testing.assert_array_equal(jax.jit(partial(unpack, k=45))(words), signs)
    np.testing.assert_array_equal(jax.vmap(pack)(x), words)
    np.testing.assert_array_equal(jax.vmap(partial(unpack, k=45))(words), signs)
    columns = np.swapaxes(x, 1, 2)
    np.testing.assert_array_equal(jax.vmap(partial(pack, axis=0))(columns), np.swapaxes(words, 1, 2))


with np.load(Path(__file__).parents[1] / 'golden' / 'derived_popcount.npz') as file:
    POPCOUNT = dict(file)


@pytest.mark.parametrize('n', [27, 32, 64, 96, 100, 2400])
@pytest.mark.parametrize('name', ['a', 'b'])
def test_golden_words(n, name):
    """DERIVED, BinaryNet's convention: its set bit is +1, so ours are its words inverted within the n true bits."""
    x, theirs = POPCOUNT[f'n{n}/{name}'], POPCOUNT[f'n{n}/{name}_words']
    mask = pack_by_loops(np.full(n, -1.0))
    np.testing.assert_array_equal(theirs & ~mask, 0)
    words = pack(x.astype(np.float32))
    np.testing.assert_array_equal(words, theirs ^ mask)
    np.testing.assert_array_equal(unpack(words, n), np.where(x >= 0, 1, -1))


WORDS = jnp.zeros((2, 2), jnp.uint32)
ERRORS = {
    'pack bool': (lambda: pack(jnp.ones(3, bool)), TypeError, 'pack: got dtype bool, expected real numbers'),
    'pack complex': (lambda: pack(jnp.ones(3, jnp.complex64)), TypeError, 'pack: got dtype complex64'),
    'pack axis': (lambda: pack(jnp.ones((2, 3)), 2), ValueError, r'pack: got axis 2 for shape \(2, 3\), expected -2'),
    'pack negative axis': (lambda: pack(jnp.ones((2, 3)), -3), ValueError, 'pack: got axis -3'),
    'pack scalar': (lambda: pack(jnp.ones(())), ValueError, 'pack: got axis -1 for shape'),
    'pack nothing': (lambda: pack(jnp.ones((2, 0))), ValueError, 'expected at least one element along axis 1'),
    'unpack float': (lambda: unpack(jnp.ones((2, 2)), 33), TypeError, 'got dtype float32, expected uint32 words'),
    'unpack int32': (lambda: unpack(jnp.ones((2, 2), jnp.int32), 33), TypeError, 'got dtype int32'),
    'unpack few words': (lambda: unpack(WORDS, 65), ValueError, 'got 2 words for k = 65, expected 3'),
    'unpack many words': (lambda: unpack(WORDS, 32), ValueError, 'got 2 words for k = 32, expected 1'),
    'unpack k 0': (lambda: unpack(WORDS, 0), ValueError, 'got 2 words for k = 0, expected k >= 1'),
    'unpack k 0 of no words': (lambda: unpack(WORDS[:, :0], 0), ValueError, 'got 0 words for k = 0, expected k >= 1'),
    'unpack negative k': (lambda: unpack(WORDS, -1), ValueError, 'got 2 words for k = -1, expected k >= 1'),
    'unpack axis': (lambda: unpack(WORDS, 33, 2), ValueError, 'unpack: got axis 2'),
}


@pytest.mark.parametrize(('call', 'error', 'message'), ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
