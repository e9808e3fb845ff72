"""NumPy gives the same bits as the compiled function; functions for which it cannot are compiled."""

import io
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bnn_jax as bnn
from bnn_jax.kernels.zero_padding import narrow_tap_sums, tap_sums
from bnn_jax.nn.epilogue import epilogue, scaled
from bnn_jax.nn.layer import Unchanged
from bnn_jax.nn.operations import Convolution, Dense
from bnn_jax.nn.packed import PackedNetwork, PackedNorm, PackedProduct, PackedSequential
from bnn_jax.nn.stateless import Flatten, MaxPool, Relu
from bnn_jax.ops.bits import pack, unpack
from bnn_jax.ops.deterministic import negative, norm_coefficients, normalize, ordered_mean
from bnn_jax.ops.uncompiled import uncompiled
from bnn_jax.ops.windows import Window

# At the ends of the normal numbers, below them, and beyond all.
SPECIAL = np.float32(
    [0, -0.0, 1e-45, -1e-45, 1.1754944e-38, -1.1754942e-38, 1e-30, 3e38, -3e38, np.inf, -np.inf, np.nan]
)


def numbers(*shape, scale=1.0, seed=0):
    """Random numbers, a tenth of them special."""
    rng = np.random.default_rng(seed)
    x = (scale * rng.normal(size=shape)).astype(np.float32)
    return np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL, shape), x)


def words(*shape):
    return np.random.default_rng(0).integers(0, 2**32, shape, dtype=np.uint32)


CASES = {
    'norm_coefficients': lambda x: (norm_coefficients, [x(40, seed=i) for i in range(4)] + [1e-4], {}),
    'normalize': lambda x: (normalize, [x(6, 40), x(2, 40, seed=1)], {}),
    'ordered_mean': lambda x: (ordered_mean, [x(37, 40)], {}),
    'negative': lambda x: (jax.jit(negative), [x(6, 40)], {}),
    'scaled': lambda x: (scaled, [x(6, 40), x(40, seed=1)], {}),
    'epilogue': lambda x: (epilogue, [x(6, 40), None, x(40, seed=1)], {}),
    'pack': lambda x: (pack, [x(6, 40)], {'axis': 1}),
    'alpha': lambda x: (jax.jit(bnn.quantizers.alpha), [x(3, 3, 5, 7)], {}),
    'integers': lambda x: (jax.jit(lambda x: x.astype(jnp.int32)), [x(40, scale=1e10)], {}),
}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('scale', [1.0, 1e-38, 1e30])
def test_same_bits_as_compiled(case, scale):
    function, operands, static = CASES[case](
        lambda *shape, scale=scale, seed=0: numbers(*shape, scale=scale, seed=seed)
    )
    found = uncompiled(function, *operands, **static)(*operands)
    expected = np.asarray(function(*operands, **static))
    assert type(found) is np.ndarray and found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == 'f':
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[known], np.signbit(expected)[known])


@pytest.mark.parametrize(
    ('function', 'operand', 'static'),
    [
        (tap_sums, words(3, 3, 2, 5), {'channels': 40}),
        (narrow_tap_sums, words(3, 3, 4, 2), {'filters': 40}),
        (unpack, words(3, 2), {'k': 40}),
    ],
    ids=['tap_sums', 'narrow_tap_sums', 'unpack'],
)
def test_same_integers_as_compiled(function, operand, static):
    found = uncompiled(function, operand, **static)(operand)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, function(operand, **static))


@pytest.mark.parametrize(
    'function', [jnp.exp, jnp.sum, lambda x: x / 3, lambda x: x @ x], ids=['exp', 'sum', 'third', 'dot']
)
def test_compiled_where_numpy_may_round_otherwise(function):
    x = np.linspace(0, 1, 100, dtype=np.float32)
    found = uncompiled(jax.jit(function), x)(x)
    assert isinstance(found, jax.Array)
    np.testing.assert_array_equal(found, jax.jit(function)(x))


def test_compiled_where_numpy_has_no_such_operation():
    x = np.arange(3, dtype=np.uint32)
    functions = {
        'the bytes of words': lambda x: jax.lax.bitcast_convert_type(x, jnp.uint8),
        'one of three cases': lambda x: jax.lax.select_n(x.astype(jnp.int32), x, 2 * x, 3 * x),
    }
    for name, function in functions.items():
        expected = jax.jit(function)(x)
        np.testing.assert_array_equal(uncompiled(jax.jit(function), x)(x), expected, err_msg=name)


def test_inside_a_trace_it_is_the_function_itself():
    words_of_ones = jnp.zeros((1, 1, 1, 3), jnp.uint32)
    traced = jax.jit(lambda words: uncompiled(tap_sums, words, channels=5)(words))
    np.testing.assert_array_equal(traced(words_of_ones), np.full((1, 1, 3), 5))


def test_load_compiles_nothing(caplog):
    conv = PackedProduct(
        Convolution(Window.of(3)), 5, 33, False, words(3, 3, 1, 33) & 31, np.ones(33, np.float32), None
    )
    norm = PackedNorm(33, np.ones((2, 33), np.float32))
    dense = PackedProduct(Dense(), 33, 2, False, words(2, 2) & np.uint32([2**32 - 1, 1]), None, None)
    body = PackedSequential((conv, norm, *map(Unchanged, (Relu(), MaxPool(Window.of(2)), Flatten())), dense))
    file = io.BytesIO()
    bnn.save(PackedNetwork(5, 2, body), file)
    file.seek(0)
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, 'jax'):
        bnn.load(file)
    assert [record.message for record in caplog.records if 'Compiling' in record.message] == []
