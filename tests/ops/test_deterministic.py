"""Exact arithmetic: bit for bit against NumPy's separately rounded float32, in every compilation; then its accuracy."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_jax.ops.deterministic import norm_coefficients, normalize, ordered_mean, ordered_sum, rounded, wide

pytestmark = pytest.mark.as_shipped

EPS = np.finfo(np.float32).eps


def normals(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual).view(np.uint32), np.asarray(expected).view(np.uint32))


def compilations(f, *args):
    """f(*args) as a compiler may see it: eager, all arguments traced, and each set of arguments a known constant."""
    yield 'eager', f(*map(jnp.asarray, args))
    for constants in range(2 ** len(args)):
        known = [constants >> i & 1 for i in range(len(args))]

        def closed(*traced, known=known):
            traced = iter(traced)
            return f(*(jnp.asarray(a) if is_known else next(traced) for a, is_known in zip(args, known, strict=True)))

        name = 'jit, constants: ' + str([i for i, is_known in enumerate(known) if is_known])
        yield name, jax.jit(closed)(*(a for a, is_known in zip(args, known, strict=True) if not is_known))


@pytest.mark.parametrize(
    ('narrow', 'expected'), [('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'float32'), ('float64',) * 2]
)
def test_wide(narrow, expected):
    assert wide(jnp.dtype(narrow)) == np.dtype(expected)


# rounded

A, B, C = normals(3, 4096)
POSITIVE = np.abs(B)
ROUNDED = {
    'a * b + c': (lambda a, b, c: rounded(a * b) + c, (A, B, C), A * B + C),
    'c - a * b': (lambda a, b, c: c - rounded(a * b), (A, B, C), C - A * B),
    'a * (1 / sqrt(b))': (
        lambda a, b: a * rounded(1 / rounded(jnp.sqrt(b))),
        (A, POSITIVE),
        A * (1 / np.sqrt(POSITIVE)),
    ),
    '(a + 0.1) + 0.7': (lambda a: rounded(a + 0.1) + 0.7, (A,), A + np.float32(0.1) + np.float32(0.7)),
    '(a * 0.1) * 0.7': (lambda a: rounded(a * 0.1) * 0.7, (A,), A * np.float32(0.1) * np.float32(0.7)),
}


def test_the_operands_tell_contracted_from_separate_arithmetic():
    """Without `rounded` a compiler is free to give any of these other numbers; here they do differ."""
    exact = A.astype(np.float64)
    assert ((exact * B + C).astype(np.float32) != A * B + C).any()
    assert (A * (1 / np.sqrt(POSITIVE)) != A / np.sqrt(POSITIVE)).any()
    assert (A + np.float32(0.8) != A + np.float32(0.1) + np.float32(0.7)).any()
    assert (A * np.float32(0.07) != A * np.float32(0.1) * np.float32(0.7)).any()


@pytest.mark.parametrize(('f', 'args', 'expected'), ROUNDED.values(), ids=ROUNDED)
def test_rounded_separates_operations(f, args, expected):
    for name, y in compilations(f, *args):
        np.testing.assert_array_equal(y, expected, err_msg=name)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_rounded_is_the_identity(dtype):
    x = jnp.asarray([-3e4, -1, -0.0, 0, 1e-4, 2, 3e4, jnp.inf, jnp.nan], dtype)
    y, vjp = jax.vjp(rounded, x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(x, np.float32))
    chex.assert_trees_all_equal(vjp(jnp.full_like(x, 3))[0][:-1], jnp.full_like(x[:-1], 3))


# ordered_sum, ordered_mean

LENGTHS = [1, 2, 3, 7, 363, 4608]


def pairwise_sum(x):
    """First half + second half until one row is left, then the odd rows left over, the first left over first."""
    left_over = []
    while len(x) > 1:
        half = len(x) // 2
        if len(x) % 2:
            left_over.append(x[-1])
        x = x[:half] + x[half : 2 * half]
    total = x[0]
    for row in left_over:
        total = total + row
    return total


@pytest.mark.parametrize('n', LENGTHS)
def test_ordered_sum_and_mean_are_numpys_bits(n):
    x = normals(n, 5, seed=n)
    expected = pairwise_sum(x)
    both = lambda x: jnp.stack([ordered_sum(x), ordered_mean(x)])
    for _, y in compilations(both, x):
        assert_same_bits(y, np.stack([expected, expected * np.float32(1 / n)]))
    # A term passes at most 14 additions, each of which rounds by less than eps/2 of the sum of magnitudes.
    assert (np.abs(expected - x.astype(np.float64).sum(0)) <= 7 * EPS * np.abs(x.astype(np.float64)).sum(0)).all()


def test_ordered_mean_is_not_contracted_with_what_follows():
    x, c = normals(363, 5), normals(5)
    expected = pairwise_sum(x) * np.float32(1 / 363) + c
    for _, y in compilations(lambda x, c: ordered_mean(x) + c, x, c):
        assert_same_bits(y, expected)


def test_gradients_of_sum_and_mean():
    x, g = jnp.asarray(normals(7, 3)), jnp.asarray([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(jax.vjp(ordered_sum, x)[1](g)[0], np.tile(g, (7, 1)))
    np.testing.assert_array_equal(jax.vjp(ordered_mean, x)[1](g)[0], np.tile(g * np.float32(1 / 7), (7, 1)))


# norm_coefficients, normalize

# One channel for every gamma, among ordinary statistics. All distinct: equal constants would be folded more easily.
GAMMA = np.float32([1, 0.3, -1.5, -0.07, 1e-30, -1e-30, 40, 1e6, -1e6, 1e30])
EXTREME = np.float32([0, -0.0, 1e-38, -1e-38, 2e-38, 1e-40, 1e-45])
NORM_EPS = 1e-4


def statistics(gamma, seed=0):
    """beta, mean, var: ordinary numbers, one channel with beta 0 and one with a small variance."""
    rng = np.random.default_rng(seed)
    beta, mean, var = rng.standard_normal((3, len(gamma))).astype(np.float32)
    beta[1] = 0
    var = var**2 + np.float32(0.01)
    var[2] = 1e-7
    return beta, 3 * mean, var


def norm(gamma, beta, mean, var, x):
    return normalize(x, norm_coefficients(gamma, beta, mean, var, NORM_EPS))


@pytest.mark.parametrize('gamma', [GAMMA, EXTREME], ids=['ordinary', 'extreme'])
@pytest.mark.parametrize('seed', [0, 1])
def test_normalize_is_the_formula(gamma, seed):
    beta, mean, var = statistics(gamma, seed)
    x = 5 * normals(64, len(gamma), seed=2)
    y = jax.jit(norm)(gamma, beta, mean, var, x)
    chex.assert_shape(y, x.shape)
    assert y.dtype == jnp.float32
    g, b, m, v = (a.astype(np.float64) for a in (gamma, beta, mean, var))
    slope = g / np.sqrt(v + np.float32(NORM_EPS))
    expected = slope * (x - m) + b
    # A few roundings (of sqrt, quotients, sums, product), each below eps of the terms that are added. A gamma below the
    # smallest normal number, about 1e-38, may count as 0: the channel is then beta.
    terms = np.abs(slope) * (np.abs(x) + np.abs(m)) + np.abs(b)
    assert (np.abs(y - expected) <= 4 * EPS * terms + 1e-30).all()


def test_normalize_with_gamma_0_is_beta():
    beta, mean, var = statistics(np.zeros(8))
    coefficients = norm_coefficients(np.float32([0, -0.0] * 4), beta, mean, var, NORM_EPS)
    np.testing.assert_array_equal(coefficients, [np.zeros(8), beta])
    x = np.concatenate([1e30 * normals(4, 8), np.zeros((1, 8), np.float32)])
    assert_same_bits(normalize(x, coefficients), np.broadcast_to(beta, x.shape))


def test_a_channel_whose_shift_overflows_is_constant():
    """beta / scale is beyond the largest float: no x of a network can move the channel from beta."""
    coefficients = norm_coefficients(
        np.float32([1e-37, -1e-37]), np.float32([50, 50]), np.float32([1, 1]), np.float32([1, 1]), NORM_EPS
    )
    np.testing.assert_array_equal(coefficients, [[0, 0], [50, 50]])


EQUAL_VARIANCES = np.full(len(GAMMA), 0.37, np.float32)  # as in a layer of one channel: the compiler sees one number
COEFFICIENTS = {
    'ordinary': (GAMMA, *statistics(GAMMA)),
    'equal variances': (GAMMA, *statistics(GAMMA)[:2], EQUAL_VARIANCES),
    'extreme': (EXTREME, *statistics(EXTREME)),
}


@pytest.mark.parametrize('args', COEFFICIENTS.values(), ids=COEFFICIENTS)
def test_norm_coefficients_are_the_same_bits_in_every_compilation(args):
    expected = norm_coefficients(*args, NORM_EPS)
    differing = [
        name
        for name, y in compilations(partial(norm_coefficients, eps=NORM_EPS), *args)
        if (np.asarray(y).view(np.uint32) != np.asarray(expected).view(np.uint32)).any()
    ]
    assert differing == []


def test_normalize_is_the_same_bits_in_every_compilation():
    coefficients = norm_coefficients(GAMMA, *statistics(GAMMA), NORM_EPS)
    x, c = normals(64, len(GAMMA)), normals(64, len(GAMMA), seed=1)
    scale, shift = np.asarray(coefficients)
    expected = (x + shift) * scale + c  # what follows is not contracted with it
    for _, y in compilations(lambda x, coefficients, c: normalize(x, coefficients) + c, x, np.asarray(coefficients), c):
        assert_same_bits(y, expected)


@pytest.mark.parametrize('name', ['gamma', 'beta', 'mean', 'var', 'negative var'])
def test_a_normalization_with_nan_gives_nan(name):
    values = {'gamma': 1.0, 'beta': 0.5, 'mean': 0.0, 'var': 1.0}
    values |= {'var': -1.0} if name == 'negative var' else {name: np.nan}
    coefficients = norm_coefficients(*(jnp.full(1, value) for value in values.values()), 1e-4)
    assert jnp.isnan(normalize(jnp.ones((1, 1)), coefficients)).all()
